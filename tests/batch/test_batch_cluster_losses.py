"""Which micrographs a lost worker is blamed on. Ray, which need not be installed, is replaced by its calls."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fusion_diff.batch import cluster as module
from fusion_diff.batch.cluster import Cluster
from fusion_diff.batch.engine import MOST_GIVEN_UP, Settings
from fusion_diff.batch.items import Item
from fusion_diff.batch.rows import FinishedRow
from fusion_diff.errors import BatchError


class GoneError(Exception):
    pass


class OutOfMemoryError(Exception):
    pass


class TaskError(Exception):
    pass


class Actor:
    """Inspects in order; a micrograph named "poison" ends it, with all that it has in hand."""

    def __init__(self):
        self.hand, self.dead = [], False
        self.start = SimpleNamespace(remote=lambda: (self, None))
        self.judge = SimpleNamespace(remote=self._take)

    def _take(self, item):
        self.hand.append((self, item))
        return self.hand[-1]


class Ray:
    exceptions = SimpleNamespace(
        RayActorError=GoneError,
        ObjectLostError=GoneError,
        NodeDiedError=GoneError,
        OutOfMemoryError=OutOfMemoryError,
        RayTaskError=TaskError,
    )
    loss = GoneError

    def __init__(self, newest_first):
        self.newest_first = newest_first

    def cluster_resources(self):
        return {"CPU": 1}

    def remote(self, **_):
        return lambda _: SimpleNamespace(remote=lambda *_: Actor())

    def kill(self, actor):
        actor.dead = True

    def shutdown(self):
        pass

    def wait(self, refs, timeout):
        actor, item = refs[0]
        if item is not None and "poison" in item.path:
            actor.dead = True
        mine = [ref for ref in refs if ref[0] is actor]
        return [mine[-1] if actor.dead and self.newest_first else mine[0]], []

    def get(self, ref):
        actor, item = ref
        if actor.dead:
            raise self.loss("the worker died")
        return {"sha256": "ab" * 32} if item is None else FinishedRow({"path": item.path, "error": None})


@pytest.fixture(params=[False, True], ids=["oldest-told-first", "newest-told-first"])
def judge(request, monkeypatch):
    """A function that inspects files of these names on one worker, and returns the errors by name."""
    monkeypatch.setattr(module, "needed", lambda *_: Ray(request.param))
    monkeypatch.setattr(Cluster, "_connect", lambda self, address: None)

    def judge(*names):
        with Cluster("x:1", "m", Settings()) as cluster:
            rows = [each.row for each in cluster.judge(Item(f"/{name}.tif") for name in names)]
        assert len(rows) == len(names)
        return {row["path"][1:-4]: row["error"] for row in rows}

    return judge


@pytest.mark.parametrize("loss", [GoneError, OutOfMemoryError])
def test_only_the_micrograph_that_takes_its_workers_with_it_is_given_up(judge, monkeypatch, loss):
    monkeypatch.setattr(Ray, "loss", loss)
    errors = judge("a", "poison", "b", "c")
    assert "poison.tif: 3 workers were lost while inspecting it" in errors.pop("poison")
    assert errors == dict.fromkeys("abc")


def test_several_such_micrographs_in_a_row_do_not_end_the_run(judge):
    poison = [f"poison-{index}" for index in range(MOST_GIVEN_UP)]
    errors = judge("a", *poison, "b")
    assert [name for name, error in errors.items() if error] == poison


def test_a_cluster_that_finishes_nothing_ends_the_run(judge):
    with pytest.raises(BatchError, match="workers are lost repeatedly"):
        judge(*(f"poison-{index}" for index in range(MOST_GIVEN_UP + 1)))
