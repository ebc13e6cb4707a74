"""The queue of micrographs of all callers: read ahead, judged one at a time, recorded together.

Three threads form a pipeline: one reads the next files, one runs the model, one writes to disk. Verdicts that wait for
the disk are committed in one transaction, so under load one disk sync serves many. The model is not batched, because it
has no call that is faster for several micrographs than for one.
"""

from __future__ import annotations

import contextlib
import math
import queue
import time
from collections import deque
from concurrent.futures import InvalidStateError
from functools import partial
from threading import Condition, Lock, Thread, Timer
from typing import TYPE_CHECKING

from fusion_diff.errors import MicrographError
from fusion_diff.service import inspection_steps
from fusion_diff.service.inspection_steps import Finished, Task
from fusion_diff.service.problems import BusyError, LateError, UnavailableError, report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from fusion_diff.micrograph import Micrograph
    from fusion_diff.service.database import Database
    from fusion_diff.service.metrics import Metrics
    from fusion_diff.service.settings import Settings
    from fusion_diff.service.store import Store
    from fusion_diff.service.tables import Inspection
    from fusion_diff.verdict.inspector import Inspector

LAST_SECONDS = 5
"""Extra seconds for micrographs that are being judged at the stop deadline."""
READ_AHEAD = 8
"""Most micrographs that are decoded and wait for the model."""
READ_AHEAD_BYTES = 2**28
"""Size of the micrographs that wait for the model above which no further one is decoded."""
STUCK_SECONDS = 30.0
"""Time after which verdicts that are still being recorded mean that the database or the store hangs."""
HANGING_SECONDS = 120.0
"""Time beyond `SLOWER` times what its pixels take after which reading or judging a micrograph is taken to hang."""
SLOWER = 20
HOPELESS = 10
"""Times as long after which only a restart helps. That loses what waits, so nothing that is slow may come to it."""
COMMITTED = 8
"""Most verdicts that are recorded in one transaction."""
_RECENT = 16
_READING = 1e-7
"""Seconds per pixel of reading compressed files. The most pixels allowed count, as a file has not told its own yet."""
_JUDGING = 1e-5
"""Seconds per pixel of judging, until some micrographs were judged."""


class Queue:
    """Accepts tasks until it is full or stopped, and settles the future of every accepted task.

    Attributes:
        until: the stop deadline on the monotonic clock, when waiting tasks are refused; infinite until `stop`.
    """

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
            settings: the queue's length and the largest micrograph.
            find_model: returns the model of an id; called in the computing thread.
            database: where verdicts are recorded.
            store: where images are stored.
            metrics: the metrics to update.
        """
        self._settings, self._find_model, self._metrics = settings, find_model, metrics
        self._database, self._store = database, store
        self._changing = Lock()
        self._taken: set[Task] = set()
        self.until = math.inf
        self._waiting: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[tuple[Task, Micrograph, bytes] | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[Finished | None] = queue.SimpleQueue()
        self._ahead: deque[int] = deque()  # sizes of the micrographs that are decoded and wait for the model
        self._less_ahead = Condition()
        self._running: dict[str, tuple[float, float]] = {}  # steps, and when each is late and when it is hopeless
        self._rates: deque[float] = deque(maxlen=_RECENT)  # seconds per pixel
        self._times: deque[float] = deque(maxlen=_RECENT)  # seconds per micrograph
        self._threads = [
            Thread(target=run, name=f"fusion-diff-{run.__name__.strip('_')}", daemon=True)
            for run in (self._read, self._compute, self._record)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def depth(self) -> int:
        """Number of accepted tasks that are not settled."""
        return len(self._taken)

    @property
    def running(self) -> bool:
        """Whether it accepts tasks."""
        return self.until == math.inf and not self.broken

    @property
    def broken(self) -> bool:
        """Whether a thread has ended before `stop`, or hangs for hopelessly long. Only a new process helps."""
        alive = all(thread.is_alive() for thread in self._threads)
        hopeless = any(time.monotonic() > end for _, end in list(self._running.values()))
        return (not alive or hopeless) and self.until == math.inf

    @property
    def stuck(self) -> str | None:
        """What hangs: reading or judging a micrograph, or recording; None if nothing does."""
        return next((step for step, (late, _) in list(self._running.items()) if time.monotonic() > late), None)

    def submit(self, tasks: Sequence[Task]) -> None:
        """Accept tasks, all or none.

        Raises:
            UnavailableError: the service is shutting down.
            BusyError: the queue has no room for them.
            LateError: the deadline has passed or cannot be met.
        """
        with self._changing:
            if self.until < math.inf:
                raise _stopping()
            if self.depth + len(tasks) > self._settings.queue_length:
                seconds = self.depth * (sum(self._times) / len(self._times) if self._times else 0.1)
                raise BusyError(
                    f"the queue has {self.depth} of at most {self._settings.queue_length} micrographs, and no room for "
                    f"{len(tasks)} more; try again later",
                    retry_after=seconds,
                )
            if any(task.late(self._least_wait()) for task in tasks):
                raise _late()
            self._taken.update(tasks)
            self._metrics.queue.set(self.depth)
            for task in tasks:
                self._waiting.put(task)
        for task in tasks:  # outside the lock, which the callback of a future that is done already takes at once
            task.future.add_done_callback(partial(self._settled, task))

    def stop(self, seconds: float) -> None:
        """Accept no more tasks, and return at once. Accepted tasks are finished. A second call has no effect.

        Args:
            seconds: time until waiting tasks are refused; a task that is being judged is refused `LAST_SECONDS` later.
        """
        with self._changing:
            if self.until < math.inf:
                return
            self.until = time.monotonic() + seconds
            self._waiting.put(None)
        self._last = Timer(seconds + LAST_SECONDS, self._refuse_the_rest)
        self._last.daemon = True
        self._last.start()

    def close(self) -> None:
        """Wait until all tasks accepted before `stop` are settled and the threads have ended."""
        for thread in self._threads:
            thread.join(max(0.0, self.until + LAST_SECONDS - time.monotonic()))
        self._last.cancel()

    @contextlib.contextmanager
    def _timed(self, step: str, seconds: float, hopeless: float) -> Iterator[None]:
        """Note that a step runs, and after how many seconds it hangs and is hopeless."""
        started = time.monotonic()
        self._running[step] = started + seconds, started + hopeless
        try:
            yield
        finally:
            del self._running[step]

    def _inspecting(self, step: str, task: Task, seconds: float) -> contextlib.AbstractContextManager[None]:
        """Note that a micrograph is read or judged, which should take no more than these seconds."""
        seconds = HANGING_SECONDS + SLOWER * seconds
        return self._timed(f"{step} {task.upload.name}", seconds, HOPELESS * seconds)

    def _settled(self, task: Task, future: Future[Inspection]) -> None:
        if future.cancelled():
            task.upload.discard()  # at once, since it no longer counts in the queue's length, which limits the files
        with self._changing:
            self._taken.discard(task)
            self._metrics.queue.set(self.depth)

    def _refuse_the_rest(self) -> None:
        with self._changing:
            rest = list(self._taken)
        for task in rest:
            self._settle(task, _stopping())

    def _least_wait(self) -> float:
        """Return a lower bound, in seconds, for the wait of a new micrograph."""
        return self.depth * min(self._times, default=0.0)

    def _read(self) -> None:
        while (task := self._waiting.get()) is not None:
            with self._less_ahead:
                self._less_ahead.wait_for(self._may_read_ahead)
            if task.future.done():  # refused or cancelled
                task.upload.discard()
                continue
            try:
                self._refuse_if_late(task, 0.0)
                with self._inspecting("reading", task, self._settings.max_pixels * _READING):
                    micrograph, thumbnail = inspection_steps.read_task(task, self._settings.max_pixels)
                with self._less_ahead:
                    self._ahead.append(micrograph.levels.nbytes)
                self._ready.put((task, micrograph, thumbnail))
                del micrograph  # it may be large, and the next task may be long in coming
            except BaseException as error:
                self._fail(task, error)
        self._ready.put(None)

    def _may_read_ahead(self) -> bool:
        return len(self._ahead) < READ_AHEAD and sum(self._ahead) < READ_AHEAD_BYTES

    def _compute(self) -> None:
        while (item := self._ready.get()) is not None:
            task, micrograph, thumbnail = item
            with self._less_ahead:
                self._ahead.popleft()
                self._less_ahead.notify()
            model = None
            if task.future.done() or not task.future.set_running_or_notify_cancel():  # refused or cancelled
                task.upload.discard()
                del item, micrograph  # it may be large, and the next may be long in coming
                continue
            try:
                pixels = micrograph.height * micrograph.width
                self._refuse_if_late(task, pixels * min(self._rates, default=0.0))
                with self._inspecting("judging", task, pixels * max(self._rates, default=_JUDGING)):
                    model = self._find_model(task.model)
                    started = time.monotonic()
                    finished = inspection_steps.judge(task, model, micrograph, thumbnail)
                    took = time.monotonic() - started
                self._rates.append(took / pixels)
                self._times.append(took)
                self._finished.put(finished)
            except BaseException as error:
                self._fail(task, error, model)
            del item, micrograph
        self._finished.put(None)

    def _refuse_if_late(self, task: Task, seconds: float) -> None:
        if time.monotonic() > self.until:
            raise _stopping()
        if task.late(seconds):
            raise _late()

    def _fail(self, task: Task, error: BaseException, model: Inspector | None = None) -> None:
        """Record an error in the micrograph; settle the task at once on any other error."""
        if task.future.cancelled():  # while it was read, so its file may be gone
            task.upload.discard()
        elif isinstance(error, MicrographError):
            self._finished.put(inspection_steps.failed(task, error, model))
        else:
            report(error, task.request_id, self._metrics)
            self._settle(task, error)

    def _record(self) -> None:
        open_ = True
        while open_:
            batch: list[Finished] = []
            item = self._finished.get()
            while item is not None:
                batch.append(item)
                if len(batch) >= COMMITTED or self._finished.empty():
                    break
                item = self._finished.get()
            open_ = item is not None
            if batch:
                with self._timed("recording", STUCK_SECONDS, math.inf):  # no restart brings the database back
                    self._commit(batch)

    def _commit(self, batch: list[Finished], *, last: bool = False) -> None:
        """Record finished tasks together; if that fails, each by itself. Skip tasks refused meanwhile.

        One by itself whose commit may have been done is tried again, but not if this is the last attempt.
        """
        for each in batch:
            if each.task.future.done():
                each.task.upload.discard()
        batch = [each for each in batch if not each.task.future.done()]
        if not batch:
            return
        try:
            rows = inspection_steps.record(batch, self._database, self._store)
        except BaseException as error:
            alone = len(batch) == 1
            report(error, batch[0].task.request_id if alone else None, self._metrics)
            for each in batch:
                if alone and (last or each.line_hash is None):
                    self._fail(each.task, error)
                else:
                    self._commit([each], last=alone)
            return
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
        with contextlib.suppress(InvalidStateError):  # refused or cancelled meanwhile; a recorded verdict stays
            if isinstance(outcome, BaseException) or outcome is None:
                task.future.set_exception(outcome or RuntimeError("no outcome"))
            else:
                task.future.set_result(outcome)


def _stopping() -> UnavailableError:
    return UnavailableError("the service is shutting down; try again in a moment", retry_after=5)


def _late() -> LateError:
    return LateError(
        "the verdict cannot be ready before the deadline of the request; allow more time, or try again later"
    )
