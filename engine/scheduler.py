"""Which tasks share the next batch: queue, admission, shared prefixes, fairness.

Work is admitted in the order it came, as sequences and cells allow; a task holds the cells it may
need from the start, so that the cache never runs full half-way. Runs on the engine's thread, but
for `submit`.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from evenhand.engine.futures import reject
from evenhand.engine.native import MAX_SEQUENCES, Batch, Context
from evenhand.engine.task import GenerateTask, PrefixTask, ScoreTask, Task
from evenhand.schemas.errors import DeadlineExceeded, QueueFull, Unavailable

MAX_PINS = 8
MIN_PREFIX = 16  # tokens; a shorter prefix costs more to share than to evaluate again
MIN_SHARED = 64  # the same for a beginning that neighbours in the queue happen to share


@dataclass(slots=True)
class _Pin:
    """A prefix kept in a sequence. `users` are running tasks that share its cells."""

    task: PrefixTask
    users: int = 0


class Scheduler:
    """Waiting and running tasks of one context.

    With `alone` one task runs at a time, and nothing but its own prefix lies before it in the
    cache: what comes of it depends, to the last bit, on nothing that came before or waits.
    """

    def __init__(
        self,
        context: Context,
        *,
        queue: int,
        max_sequences: int,
        score_parallel: int,
        alone: bool = False,
    ):
        self._context = context
        self._queue = queue
        self._max_sequences = max_sequences
        self._score_parallel = score_parallel
        self._alone = alone
        self._lock = threading.Lock()
        self._inbox: deque[Task] = deque()
        self._waiting: deque[Task] = deque()
        self._running: list[Task] = []
        self._pins: OrderedDict[tuple[int, ...], _Pin] = OrderedDict()
        self._shares: dict[Task, _Pin] = {}
        self._ids = list(range(MAX_SEQUENCES))
        self._cells = context.n_ctx
        self._open = True
        self._ended = False
        self._denied: Task | None = None  # the first prefilling task, if the last batch had no room
        self._seconds_per_task = 0.0

    # -- from any thread ------------------------------------------------------------------------

    def submit(self, tasks: Iterable[Task], *, admitted: bool = False) -> None:
        """Queue tasks, all or none. Raises `QueueFull` or `Unavailable`.

        `admitted` tasks continue work that was let in already: they pass a full queue, and a
        closing one until it has ended.
        """
        tasks = list(tasks)
        with self._lock:
            if self._ended or not (self._open or admitted):
                raise Unavailable("the engine is closed", hint="Start the service again.")
            if not admitted and self.depth and self.depth + len(tasks) > self._queue:
                wait = max(1.0, self.depth * self._seconds_per_task)
                raise QueueFull(f"{self.depth} items are waiting already", retry_after=wait)
            self._inbox.extend(tasks)

    def shut(self) -> None:
        """Refuse new work from now on."""
        with self._lock:
            self._open = False

    def end(self) -> None:
        """Nothing runs any more: refuse admitted work too, and give up what came too late."""
        with self._lock:
            self._open = False
            self._ended = True
        self.fail_all(Unavailable("the engine was closed before the work was done"), waiting=True)

    @property
    def depth(self) -> int:
        """How many tasks wait."""
        return len(self._inbox) + len(self._waiting)

    @property
    def load(self) -> int:
        """How many tasks wait or run."""
        return self.depth + len(self._running)

    @property
    def idle(self) -> bool:
        """Whether nothing waits or runs."""
        return self.load == 0

    # -- on the engine's thread -----------------------------------------------------------------

    def schedule(self, batch: Batch) -> list[Task]:
        """Drop what is cancelled or late, admit what fits, and fill the batch.

        Samples that are being decoded come first, because each costs a single token and someone
        may be reading along; prompts share what is left of the budget. A large trie that found no
        room beside them goes before them in the next batch.
        """
        with self._lock:
            self._waiting.extend(self._inbox)
            self._inbox.clear()
        self._drop_stale()
        self._admit()
        batch.clear()
        decoding = [t for t in self._running if t.evaluated == len(t.tokens)]
        prefilling = [t for t in self._running if t.evaluated < len(t.tokens)]
        order = [*decoding, *prefilling]
        if self._denied in order:
            order.sort(key=lambda t: t is not self._denied)
        chosen = [t for t in order if t.fill(batch, batch.capacity - batch.size)]
        self._denied = prefilling[0] if prefilling and prefilling[0] not in chosen else None
        return chosen

    def retire(self, task: Task) -> None:
        """Take a finished or failed task's sequences and cells back."""
        self._running.remove(task)
        self._free(task)

    def _free(self, task: Task) -> None:
        task.release()
        for sequence in task.ids:
            self._context.remove(sequence)
        self._ids.extend(task.ids)
        self._cells += task.cells
        if (pin := self._shares.pop(task, None)) is not None:
            pin.users -= 1

    def finish(self, task: Task, seconds: float) -> None:
        """Retire a task that is done; a prefix stays, as a pin."""
        if isinstance(task, PrefixTask):
            self._running.remove(task)
        else:
            self.retire(task)
            self._seconds_per_task += 0.1 * (seconds - self._seconds_per_task)

    def fail(self, task: Task, error: BaseException) -> None:
        """Retire a task and pass the error to whoever waits."""
        if task in self._running:
            self.retire(task)
        if isinstance(task, PrefixTask):
            # Those who wait for it would only ask for it again, and fail again, for ever.
            self._pins.pop(task.tokens, None)
            n = len(task.tokens)
            for waiting in [t for t in self._waiting if t.tokens[:n] == task.tokens]:
                self._waiting.remove(waiting)
                reject(waiting.future, error)
        reject(task.future, error)

    def fail_all(self, error: BaseException, *, waiting: bool = False) -> None:
        """Give up everything in the context (and in the queue), for example after a bad decode.

        Where nothing ran, admission itself failed; the queue goes too, or it would fail for ever.
        """
        waiting = waiting or not self._running
        for task in list(self._running):
            self.fail(task, error)
        self._pins.clear()
        self._shares.clear()
        self._context.clear()
        self._ids = list(range(MAX_SEQUENCES))
        self._cells = self._context.n_ctx
        if waiting:
            with self._lock:
                queued = [*self._inbox, *self._waiting]
                self._inbox.clear()
                self._waiting.clear()
            for task in queued:
                reject(task.future, error)

    # -- details --------------------------------------------------------------------------------

    def _drop_stale(self) -> None:
        now = time.monotonic()

        def stale(task: Task) -> bool:
            if task.future.cancelled():
                return True
            if task.deadline is not None and now > task.deadline:
                reject(
                    task.future, DeadlineExceeded("the deadline passed before the work was done")
                )
                return True
            return False

        for task in [t for t in self._running if stale(t)]:
            self.retire(task)
        self._waiting = deque(t for t in self._waiting if not stale(t))

    def _admit(self) -> None:
        passed: list[Task] = []
        try:
            while self._waiting and not (self._alone and self._running):
                task = self._waiting[0]
                prefix = self._prefix(task)
                while self._alone and prefix not in self._pins and self._evict():
                    pass  # nothing lies before it but its own prefix
                if prefix and prefix not in self._pins and not self._pin(prefix):
                    prefix = self._base(prefix)  # no room to keep more than what is kept already
                pin = self._pins.get(prefix)
                if pin is not None and not pin.task.done:
                    # Its prefix is on the way; others need not wait for that.
                    passed.append(self._waiting.popleft())
                    continue
                if not self._fits(task, len(prefix)):
                    break
                self._start(self._waiting.popleft(), pin)
        finally:
            self._waiting.extendleft(reversed(passed))

    def _prefix(self, task: Task) -> tuple[int, ...]:
        """The beginning of a task's tokens that is worth sharing: () where there is none.

        That is what its neighbour in the queue begins with too, if long, or else its template's
        constant prefix. At least one token is left to evaluate, for its logits.
        """
        constant = task.prefix if task.prefix >= MIN_PREFIX else 0
        if self._alone:
            return task.tokens[: min(constant, len(task.tokens) - 1)]
        shared = 0
        if len(self._waiting) > 1 and self._waiting[1] is not task:
            shared = _common(task.tokens, self._waiting[1].tokens)
        known = max(
            (
                len(p)
                for p in self._pins
                if len(p) < len(task.tokens) and task.tokens[: len(p)] == p
            ),
            default=0,
        )
        length = max(constant, known)
        if shared >= length + MIN_SHARED:
            length = shared
        return task.tokens[: min(length, len(task.tokens) - 1)]

    def _pin(self, prefix: tuple[int, ...]) -> bool:
        """Begin to evaluate a prefix, from the longest pin that it starts with."""
        task = PrefixTask(prefix)
        base = self._base(prefix)
        while (full := len(self._pins) >= MAX_PINS) or not self._fits(task, len(base)):
            # Pins that grew out of one another hold each other; only the last can go.
            if not self._evict(keep=base) and not (full and self._evict()):
                return False
            base = self._base(prefix)
        self._pins[prefix] = _Pin(task)
        self._start(task, self._pins.get(base))
        return True

    def _base(self, prefix: tuple[int, ...]) -> tuple[int, ...]:
        """The longest evaluated pin that a prefix starts with: () where there is none."""
        return max(
            (p for p, pin in self._pins.items() if pin.task.done and prefix[: len(p)] == p),
            key=len,
            default=(),
        )

    def _evict(self, *, keep: tuple[int, ...] = ()) -> bool:
        """Forget the pin that was least recently used and that no running task shares."""
        for prefix, pin in self._pins.items():
            if pin.task.done and pin.users == 0 and prefix != keep:
                del self._pins[prefix]
                self._free(pin.task)
                return True
        return False

    def _fits(self, task: Task, shared: int) -> bool:
        """Whether sequences and cells are free, evicting unused pins if that helps."""
        if isinstance(task, GenerateTask):
            live = sum(t.sequences for t in self._running if isinstance(t, GenerateTask))
            if live and live + task.sequences > self._max_sequences:
                return False
        if isinstance(task, ScoreTask):
            scoring = sum(isinstance(t, ScoreTask) for t in self._running)
            if scoring >= self._score_parallel:
                return False
        keep = task.tokens[:shared]
        while task.cells - shared > self._cells or task.sequences > len(self._ids):
            if isinstance(task, PrefixTask) or not self._evict(keep=keep):
                return False
        return True

    def _start(self, task: Task, pin: _Pin | None) -> None:
        self._running.append(task)  # first, so that a failure below reaches whoever waits
        task.ids = tuple(self._ids[: task.sequences])
        del self._ids[: task.sequences]
        if pin is not None:
            task.evaluated = len(pin.task.tokens)
            task.cells -= task.evaluated
            for sequence in task.holders:
                self._context.copy(pin.task.ids[0], sequence, task.evaluated)
            pin.users += 1
            self._shares[task] = pin
            self._pins.move_to_end(pin.task.tokens)
        self._cells -= task.cells


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Length of the longest common beginning."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    return next(i for i in range(n) if a[i] != b[i])
