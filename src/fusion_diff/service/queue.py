"""The queue: micrographs of all callers, read ahead, judged in turn by the one model, recorded together.

Three threads hand them on, so that the next file is read while the model computes, and the last ones are written to
disk meanwhile. What waits for the disk is committed in one transaction: under load, one wait for the disk serves many.
The model has no call that is faster for several micrographs than for each in turn, so nobody waits for a batch to
fill.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections import deque
from concurrent.futures import InvalidStateError
from threading import Condition, Semaphore, Thread
from typing import TYPE_CHECKING

from fusion_diff.errors import FusionDiffError
from fusion_diff.service import work
from fusion_diff.service.problems import BusyError, LateError, StoppingError
from fusion_diff.service.work import Finished, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusion_diff.inspection.run import Inspector
    from fusion_diff.micrograph import Micrograph
    from fusion_diff.service.database import Database
    from fusion_diff.service.metrics import Metrics
    from fusion_diff.service.settings import Settings
    from fusion_diff.service.store import Store
    from fusion_diff.service.tables import Inspection

_RECENT = 16
_KNOWN = (FusionDiffError, OSError, MemoryError)
_log = logging.getLogger("fusion_diff.service")


class Queue:
    """Takes tasks until it is full or closed, and settles the future of every one that it took."""

    def __init__(
        self,
        settings: Settings,
        find_model: Callable[[str], Inspector],
        database: Database,
        store: Store,
        metrics: Metrics,
    ) -> None:
        """Start the threads.

        Args:
            settings: how long it is, and how much it takes at once.
            find_model: gives the model of an id; called in the thread that computes.
            database: where verdicts are recorded.
            store: where images are kept.
            metrics: what is counted.
        """
        self._settings, self._find_model, self._metrics = settings, find_model, metrics
        self._database, self._store = database, store
        self._changed = Condition()
        self._depth, self._closed, self._hurry = 0, False, False
        self._waiting: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[tuple[Task, Micrograph, bytes] | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[Finished | None] = queue.SimpleQueue()
        self._ahead = Semaphore(settings.batch_size)  # micrographs that are read and wait for the model
        self._rates: deque[float] = deque(maxlen=_RECENT)  # seconds a pixel
        self._times: deque[float] = deque(maxlen=_RECENT)  # seconds a micrograph
        self._threads = [
            Thread(target=run, name=f"fusion-diff-{run.__name__.strip('_')}", daemon=True)
            for run in (self._read, self._compute, self._record)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def depth(self) -> int:
        """Micrographs that wait or are being worked on."""
        return self._depth

    @property
    def running(self) -> bool:
        """Whether it takes tasks."""
        return not self._closed and all(thread.is_alive() for thread in self._threads)

    def submit(self, tasks: Sequence[Task]) -> None:
        """Take tasks, all of them or none.

        Raises:
            StoppingError: the service is shutting down.
            BusyError: there is no room for so many.
            LateError: the deadline has passed.
        """
        with self._changed:
            if self._closed:
                raise StoppingError("the service is shutting down; try again in a moment", retry_after=5)
            if self._depth + len(tasks) > self._settings.queue_length:
                seconds = self._depth * (sum(self._times) / len(self._times) if self._times else 0.1)
                raise BusyError(
                    f"{self._depth} micrographs are waiting and {self._settings.queue_length} is the most; "
                    "try again later",
                    retry_after=seconds,
                )
            if any(task.late(self._least_wait()) for task in tasks):
                raise _late()
            self._depth += len(tasks)
            self._metrics.queue.set(self._depth)
        for task in tasks:
            task.future.add_done_callback(self._settled)
            self._waiting.put(task)

    def close(self, seconds: float) -> None:
        """Take no more tasks, finish those that were taken, and stop the threads.

        Args:
            seconds: how long to wait for them; those that are not judged by then are refused.
        """
        with self._changed:
            self._closed = True
            if not self._changed.wait_for(lambda: self._depth == 0, seconds):
                self._hurry = True
        self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _settled(self, _future: object) -> None:
        with self._changed:
            self._depth -= 1
            self._metrics.queue.set(self._depth)
            self._changed.notify_all()

    def _least_wait(self) -> float:
        """The least time, in seconds, that the micrographs in front of a new one will take."""
        return self._depth * min(self._times, default=0.0)

    def _read(self) -> None:
        while (task := self._waiting.get()) is not None:
            self._ahead.acquire()
            try:
                self._refuse_if_late(task, 0.0)
                self._ready.put((task, *work.read(task, self._settings.max_pixels)))
            except BaseException as error:
                self._ahead.release()
                self._fail(task, error)
        self._ready.put(None)

    def _compute(self) -> None:
        while (item := self._ready.get()) is not None:
            task, micrograph, thumbnail = item
            self._ahead.release()
            model = None
            if not task.future.set_running_or_notify_cancel():  # nobody waits for it any more
                task.upload.discard()
                continue
            try:
                pixels = micrograph.height * micrograph.width
                self._refuse_if_late(task, pixels * min(self._rates, default=0.0))
                model = self._find_model(task.model)
                started = time.monotonic()
                finished = work.judge(task, model, micrograph, thumbnail)
                took = time.monotonic() - started
                self._rates.append(took / pixels)
                self._times.append(took)
                self._finished.put(finished)
            except BaseException as error:
                self._fail(task, error, model)
            del item, micrograph
        self._finished.put(None)

    def _refuse_if_late(self, task: Task, seconds: float) -> None:
        if self._hurry:
            raise StoppingError("the service is shutting down; try again in a moment", retry_after=5)
        if task.late(seconds):
            raise _late()

    def _fail(self, task: Task, error: BaseException, model: object = None) -> None:
        """Have an error recorded, if it is the micrograph's; settle the task at once, if it is ours."""
        if isinstance(error, LateError | StoppingError) or not isinstance(error, _KNOWN):
            if not isinstance(error, FusionDiffError):
                _log.error("fault", exc_info=error)
            self._settle(task, error)
        else:
            self._finished.put(work.failed(task, error, model))

    def _record(self) -> None:
        open_ = True
        while open_:
            batch: list[Finished] = []
            item = self._finished.get()
            while item is not None:
                batch.append(item)
                if len(batch) >= self._settings.batch_size or self._finished.empty():
                    break
                item = self._finished.get()
            open_ = item is not None
            if batch:
                self._commit(batch)

    def _commit(self, batch: list[Finished]) -> None:
        """Record a batch, or where that fails each for itself."""
        try:
            rows = work.record(batch, self._database, self._store)
        except BaseException as error:
            if len(batch) > 1:
                for each in batch:
                    self._commit([each])
                return
            _log.error("not recorded", exc_info=error)
            self._settle(batch[0].task, error)
            return
        self._metrics.batches.observe(len(batch))
        for each, row in zip(batch, rows, strict=True):
            if row is None:
                self._settle(each.task, each.error)
                continue
            self._metrics.scores.observe(row.score)
            self._metrics.decisions.labels(row.decision).inc()
            self._metrics.inspecting.observe(time.monotonic() - each.task.arrived)
            self._settle(each.task, row)

    def _settle(self, task: Task, outcome: Inspection | BaseException | None) -> None:
        task.upload.discard()
        with contextlib.suppress(InvalidStateError):  # nobody waits for it any more; what was recorded stays
            if isinstance(outcome, BaseException) or outcome is None:
                task.future.set_exception(outcome or RuntimeError("no outcome"))
            else:
                task.future.set_result(outcome)


def _late() -> LateError:
    return LateError(
        "the verdict would come after the deadline that was asked for; allow more time, or try again later"
    )
