"""Inspection of a batch on a Ray cluster: actors hold the model and read the images, and return rows.

An actor may be lost with its machine at any time. Its micrographs then go to another actor, and a new actor is
started as soon as the cluster has room. A new actor gets work only after it has loaded the model.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from fusion_diff.batch.engine import MOST_GIVEN_UP, LocalEngine, failed
from fusion_diff.dependencies import needed
from fusion_diff.errors import BatchError, FusionDiffError
from fusion_diff.inspection.run import load_inspector
from fusion_diff.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from fusion_diff.batch.engine import Settings
    from fusion_diff.batch.items import Item
    from fusion_diff.batch.rows import FinishedRow

IN_HAND = 2
"""Micrographs assigned to an actor at once: the one it inspects and the next, so that it never waits."""
LOCAL_HEAD = "127.0.0.1:6379"
"""Default address of `ray start --head`."""
CONNECT_S = 10.0
ASK_S = 5.0
"""Seconds without a result after which the cluster's head is probed."""
START_S = 300.0
"""Seconds within which an actor must have loaded the model; otherwise the cluster has no room for one."""
MOST_LOSSES = 3
"""Number of lost actors after which a micrograph is given up."""
_GPUS = ("cuda", "gpu", "migraphx", "rocm", "xpu")
"""Prefixes of device names that Ray counts as GPUs: torch's names, and those of the runtimes of exported models."""
_CURE = "check that Ray runs there and that its port is open, then run the same command again"


class Worker:
    """The class of the actors. It loads the model in `start`."""

    def __init__(self, name: str, device: str, settings: Settings) -> None:
        self._name, self._device, self._settings = name, device, settings

    def start(self) -> Mapping[str, str | None]:
        """Load the model and return its identity."""
        model = load_inspector(self._name, self._device, self._settings.trusted_keys)
        self._engine = LocalEngine(model, self._settings)
        return self._engine.model

    def judge(self, item: Item) -> FinishedRow:
        """Read and inspect one micrograph."""
        return self._engine.judge_one(item)


@dataclass(eq=False)
class _Member:
    """An actor and whether it was lost."""

    actor: Any
    lost: bool = False


@dataclass(frozen=True)
class _Job:
    """A micrograph to inspect and the number of actors lost while inspecting it."""

    item: Item
    losses: int = 0


class Cluster:
    """Inspects micrographs on a Ray cluster. Use as a context manager.

    Attributes:
        settings: settings of the inspection.
        model: identity of the actors' model.
        workers: number of actors to run.
    """

    def __init__(
        self, address: str, model: str, settings: Settings, *, workers: int | None = None, device: str = "cpu"
    ) -> None:
        """Connect, start the actors and wait for the first.

        Args:
            address: `host:port` of the cluster's head, or `ray://host:port` of its client server. `auto` takes the
                address in RAY_ADDRESS, or else the head on this machine.
            model: a name, folder or hub id that every machine of the cluster can load.
            settings: settings of the inspection.
            workers: number of actors, each on a core of its own. When omitted, one per core of the cluster, or one per
                GPU or NPU if the device is one of these.
            device: device of each actor, by torch's name or, for an exported model, its runtime's name.

        Raises:
            BatchError: there is no cluster at this address, or no actor could start there.
            DependencyError: ray is not installed.
        """
        self.settings = settings
        self.model: Mapping[str, str | None] = {}
        self._ray = needed("this batch", "ray", "ray", "ray[client]")
        self._gone = (
            self._ray.exceptions.RayActorError,
            self._ray.exceptions.ObjectLostError,
            self._ray.exceptions.NodeDiedError,
            self._ray.exceptions.OutOfMemoryError,  # Ray itself ended it, because its machine was short of memory
        )
        self._starting: dict[Any, _Member] = {}
        self._at_work: dict[Any, tuple[_Job, _Member]] = {}
        self._free: deque[_Member] = deque()
        self._losses = 0
        self._in_vain = 0
        self._connect(address)
        try:
            accelerator = accelerator_of(device)
            there = self._ray.cluster_resources().get(accelerator or "CPU", 0)
            self.workers = workers or max(1, int(there))
            own: dict[str, Any] = {"num_gpus": int(accelerator == "GPU")}
            if accelerator == "NPU":
                own["resources"] = {"NPU": 1}
            # Ray must not restart actors: it would give work to an actor that has not loaded its model.
            kind = self._ray.remote(num_cpus=1, max_restarts=0, **own)(Worker)
            self._make: Callable[[], Any] = lambda: kind.remote(model, device, settings)
            for _ in range(self.workers):
                self._start()
            while not self._free:
                self._wait()
        except BaseException:
            self.close()
            raise

    def judge(self, items: Iterable[Item]) -> Iterator[FinishedRow]:
        """Yield the row of every item as it arrives. The next item is requested only when an actor is free.

        Raises:
            BatchError: actors can no longer start on the cluster, or one raises it, see `LocalEngine.judge_one`.
        """
        todo = (_Job(item) for item in items)
        again: deque[_Job] = deque()
        more = True
        while True:
            while (again or more) and (member := self._next_free()):
                job = again.popleft() if again else next(todo, None)
                if job is None:
                    more = False
                    self._free.append(member)
                else:
                    self._at_work[member.actor.judge.remote(job.item)] = (job, member)
            if not (more or again or self._at_work):
                return
            for ref in self._wait():
                member = self._at_work[ref][1]
                try:
                    finished = self._get(ref)
                except self._gone as error:
                    begun, *waiting = self._taken_from(member)
                    self._lose(member, error)
                    job = _Job(begun.item, begun.losses + 1)
                    if job.losses < MOST_LOSSES:
                        again.extend((job, *waiting))
                        continue
                    again.extend(waiting)
                    finished = self._given_up(job, error)
                else:
                    del self._at_work[ref]
                    self._losses = self._in_vain = 0
                    self._free.append(member)
                yield finished

    def close(self) -> None:
        """Stop the actors and leave the cluster."""
        with contextlib.suppress(Exception):
            self._ray.shutdown()

    def __enter__(self) -> Self:
        """Return the cluster."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the cluster."""
        self.close()

    def _connect(self, address: str) -> None:
        # Ray's own "auto" may choose a cluster that no longer exists.
        self._address = address if address != "auto" else os.environ.get("RAY_ADDRESS") or LOCAL_HEAD
        self._name = printable(self._address)
        self._reach()  # Ray itself would retry for minutes
        try:
            self._ray.init(address=self._address, log_to_driver=False, configure_logging=False)
        except Exception as error:  # Ray raises many types
            raise BatchError(f"{self._name}: the cluster cannot be joined ({_first(error)}); {_CURE}") from error

    def _reach(self) -> None:
        host, _, port = self._address.removeprefix("ray://").rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
        except (OSError, ValueError, OverflowError) as error:
            raise BatchError(f"{self._name}: there is no cluster at this address ({error}); {_CURE}") from error

    def _start(self) -> None:
        member = _Member(self._make())
        self._starting[member.actor.start.remote()] = member

    def _wait(self) -> list[Any]:
        """Wait for at least one result. Register the actors that have started, and return the finished work."""
        refs = [*self._at_work, *self._starting]
        since = time.monotonic()
        while not (ready := self._ray.wait(refs, timeout=ASK_S)[0]):
            self._reach()  # without a head, Ray ends this process after a minute
            if not self._at_work and time.monotonic() - since > START_S:
                raise BatchError(
                    f"{self._name}: no worker started on the cluster within {START_S:.0f} s; make sure "
                    "that it has a free core or GPU for one. Free resources: "
                    f"{printable(self._ray.available_resources(), 300)}"
                )
        for ref in ready:
            if ref in self._starting:
                self._started(ref)
        return [ref for ref in ready if ref in self._at_work]

    def _started(self, ref: Any) -> None:
        member = self._starting.pop(ref)
        try:
            model = self._get(ref)
        except self._gone as error:
            self._lose(member, error)
            return
        if self.model and model["sha256"] != self.model["sha256"]:
            raise BatchError(
                f"a worker loaded a different model: {model['sha256']} instead of "
                f"{self.model['sha256']}; install the same model on every machine of the cluster"
            )
        self.model = model
        self._free.extend([member] * IN_HAND)

    def _next_free(self) -> _Member | None:
        while self._free:
            member = self._free.popleft()
            if not member.lost:
                return member
        return None

    def _taken_from(self, member: _Member) -> list[_Job]:
        """Take back the micrographs that an actor has in hand. The first is the one that it was inspecting."""
        refs = [ref for ref, (_, whose) in self._at_work.items() if whose is member]
        return [self._at_work.pop(ref)[0] for ref in refs]

    def _lose(self, member: _Member, error: Exception) -> None:
        """Drop an actor and start a replacement."""
        member.lost = True
        with contextlib.suppress(Exception):
            self._ray.kill(member.actor)
        self._losses += 1
        if self._losses > 3 * self.workers:
            raise _lost_repeatedly(error)
        self._start()

    def _given_up(self, job: _Job, error: Exception) -> FinishedRow:
        self._losses = 0
        self._in_vain += 1
        if self._in_vain > MOST_GIVEN_UP:
            raise _lost_repeatedly(error)
        said = (
            f"{printable(job.item.path)}: {job.losses} workers were lost while inspecting it "
            f"({_first(error)}); inspect it on its own, with more memory"
        )
        return failed(job.item, self.settings, self.model, said)

    def _get(self, ref: Any) -> Any:
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, FusionDiffError):
                raise BatchError(f"a worker: {cause}") from error
            raise


def accelerator_of(device: str) -> str | None:
    """Return Ray's name of the resource for a device: `GPU`, `NPU`, or None if Ray counts no such resource."""
    word = device.lower()
    if word.startswith("npu"):
        return "NPU"
    return "GPU" if word.startswith(_GPUS) else None


def _lost_repeatedly(error: Exception) -> BatchError:
    return BatchError(
        f"workers are lost repeatedly before they finish a micrograph ({_first(error)}); see the cluster's logs"
    )


def _first(error: Exception) -> str:
    """Return the first line of Ray's message, which may be very long."""
    lines = str(error).strip().splitlines()
    return printable(lines[0] if lines else type(error).__name__, 300)
