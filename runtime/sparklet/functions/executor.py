"""``LambdaExecutor``: a ``concurrent.futures.Executor`` whose calls run in other processes, here or in Lambda.

A task is submitted, waits for a slot, and is tried, perhaps several times; its future gets a value or an error, or is
cancelled. Each try has a deadline, so that a task ends even if the backend loses its call.
"""

import contextlib
import functools
import itertools
import math
import sched
import secrets
import sys
import threading
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from sparklet.errors import PayloadError, RemoteTaskError, SparkletError
from sparklet.functions.backend import Backend
from sparklet.functions.backend import Options as Options
from sparklet.functions.calls import Answer, Call, Content, TryResult, encode_arguments, read
from sparklet.functions.local import Processes, Threads
from sparklet.functions.performer import class_name, reference, undecorated
from sparklet.ledger.clock import back_off_s
from sparklet.ports.forks import renew_after_fork

P = ParamSpec("P")
T = TypeVar("T")

BACK_OFF_S, MAX_BACK_OFF_S = 0.4, 20.0
MAX_THROTTLED = 12  # tries that are throttled: some two minutes of back-off
LARGER_HELPS = ("memory", "timeout")


@dataclass(eq=False, slots=True)
class _Task:
    future: Future[Any]
    call: Call
    options: Options
    sizes: list[int]  # indexes of the backend's sizes: this try's size, then the larger ones
    submitted_s: float
    failures: int = 0
    throttled: int = 0
    started_s: float = 0.0
    deadline: Any = None  # the timer's entry for this try's deadline


class LambdaExecutor(Executor):
    """Calls Python functions in AWS Lambda, or in other workers, with the standard library's interface.

    Parameters
    ----------
    backend
        ``"processes"`` or ``"threads"`` of this machine, ``"lambda"``, or a ``Backend``.
    max_workers
        How many tasks are under way at a time; as many as the backend allows if it is None.
    stack
        For ``"lambda"``: the stack that was made from ``sam/functions.yaml``.
    options
        Fields of ``Options``, for all tasks that have no options of their own.

    Raises
    ------
    ValueError
        If ``max_workers`` is below 1.
    """

    def __init__(
        self,
        backend: str | Backend = "processes",
        *,
        max_workers: int | None = None,
        stack: str = "sparklet-functions",
        **options: Any,
    ) -> None:
        if max_workers is not None and max_workers < 1:
            raise ValueError("max_workers must be greater than 0")
        self.backend = _make_backend(backend, max_workers, stack) if isinstance(backend, str) else backend
        self.options = Options(**options)
        self._slots = min(max_workers or self.backend.slots, self.backend.slots)
        self._closing = self._aborted = False
        self._outer: LambdaExecutor | None = None  # the executor of the ``with`` block around this one's
        self._timer = Timer()
        self._begin()
        _executors.add(self)
        renew_after_fork(self)
        weakref.finalize(self, _stop, self._timer, self.backend).atexit = False

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._all_ended = threading.Condition(self._lock)
        self._waiting: deque[_Task] = deque()
        self._under_way: dict[str, _Task] = {}  # by the task's id
        self._delayed: set[_Task] = set()  # their next tries wait until the timer starts them
        self._unfinished: set[_Task] = set()
        self._pumping = False
        self._stats = defaultdict[str, float](int, waiting_s=0.0, working_s=0.0, travelling_s=0.0, gb_s=0.0)

    def after_fork(self) -> None:
        """Begin without tasks in a forked process: the parent's tasks end in the parent, and are errors here."""
        parents_tasks = self._unfinished
        self._begin()
        # In place, since the finalizer refers to this timer.
        Timer.__init__(self._timer)
        for task in parents_tasks:
            Future.__init__(task.future)  # a thread of the parent may have held its lock
            task.future.set_exception(RemoteTaskError(f"{task.call.name} was submitted by the process before its fork"))

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Submit a call and return its future; if an argument cannot be encoded or stored, the future has the error."""
        return self.submit_with(self.options.for_function(fn), fn, (args, kwargs))

    def submit_with(
        self, options: Options, fn: Callable[..., Any] | str, arguments: Any, each: bool = False
    ) -> "Future[Any]":
        """Submit with these options instead of the executor's.

        Parameters
        ----------
        fn
            A function, or the name of a function that only workers have (``module:name``).
        arguments
            ``(args, kwargs)``, or with ``each`` a list of args: one tuple for each call.

        Raises
        ------
        RuntimeError
            After ``shutdown``.
        """
        future: Future[Any] = Future()
        task = None
        # Encoding and storing large arguments takes long: it is not done under the lock, where the check is repeated.
        if not self._closing:
            try:
                task = self._new_task(future, options, fn, arguments, each)
            except SparkletError as error:
                future.set_exception(error)
        with self._lock:
            if self._closing:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._stats["submitted"] += 1
            if task:
                self._waiting.append(task)
                self._unfinished.add(task)
            else:
                self._stats["failed"] += 1
        self._pump()
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Results in order; see ``concurrent.futures.Executor.map`` of Python 3.14.

        Parameters
        ----------
        chunksize
            How many calls are sent together.
        buffersize
            How many chunks are under way or unread at a time: the iterables are read as results are read. If it is
            None, all chunks are submitted at once.
        """
        if chunksize < 1 or (buffersize is not None and buffersize < 1):
            raise ValueError("chunksize and buffersize must be at least 1")
        end_s = None if timeout is None else time.monotonic() + timeout
        calls = zip(*iterables, strict=False)
        chunks = iter(lambda: list(itertools.islice(calls, chunksize)), [])
        options = self.options.for_function(fn)
        futures = (self.submit_with(options, fn, chunk, each=True) for chunk in chunks)
        return _results(deque(itertools.islice(futures, buffersize)), futures, end_s)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; stop the workers when all calls are done."""
        with self._lock:
            self._closing = True
            waiting = list(self._waiting) if cancel_futures else []
        # Not under the lock, since a cancelled future calls its callbacks, which may call this executor.
        for task in waiting:
            task.future.cancel()
        self._pump()
        if wait:
            with self._all_ended:
                self._all_ended.wait_for(lambda: not self._unfinished)
            self.backend.close()

    def __enter__(self) -> Self:
        """Make this the executor of decorated functions and of ``gather`` until the end of the block."""
        self._outer = entered.get()
        entered.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        entered.set(self._outer)
        if kind is not None and not issubclass(kind, Exception):
            return self.abort()  # Ctrl-C
        return self.shutdown()

    def abort(self) -> None:
        """Cancel waiting tasks, and stop the workers at once: the tasks that they work on are lost."""
        self._aborted = True
        self.shutdown(wait=False, cancel_futures=True)
        self.backend.close()
        with self._lock:
            under_way, delayed = list(self._under_way.values()), list(self._delayed)
        for task in under_way:
            self._end_try(task, task.call, RemoteTaskError(f"{task.call.name}: its caller ended it", "killed"))
        for task in delayed:
            self._retry(task)

    def stats(self) -> dict[str, float]:
        """Counts of tasks by outcome, tries, cold starts; total seconds of waiting, work and transfer; GB-seconds."""
        with self._lock:
            return {name: round(value, 3) for name, value in self._stats.items()}

    def _new_task(self, future: "Future[Any]", options: Options, fn: Any, arguments: Any, each: bool) -> _Task:
        """Encode a call, and store its large arguments."""
        backend = self.backend
        function = undecorated(fn)
        name = "" if options.codec == "cloudpickle" and not isinstance(fn, str) else reference(function)
        if not name and options.codec == "json":
            raise PayloadError(f"{function!r:.200} has no name that a worker could import: put it into a module")
        sizes = options.sizes_of(backend.sizes)
        timeout_s = min(options.timeout_s or backend.max_timeout_s, backend.max_timeout_s)
        encoded = encode_arguments(options.codec, None if name else function, arguments, backend.contents)
        inline_bytes = 0 if options.offload_arguments else backend.inline_bytes
        content = Content.of(options.codec, encoded, inline_bytes, backend.contents)
        answer_inline_bytes = 0 if options.offload_result else backend.inline_bytes
        call = Call(secrets.token_hex(16), name, content, timeout_s, 0.0, answer_inline_bytes, each)
        return _Task(future, call, options, sizes, time.monotonic())

    def _pump(self) -> None:
        """Start waiting tasks while slots are free; only one thread at a time does this, for all threads."""
        # A backend that answers at once calls ``_end_try``, which calls ``_pump``: the flag makes that a loop here.
        with self._lock:
            if self._pumping:
                return
            self._pumping = True
        try:
            while task := self._next():
                self._start(task)
        finally:
            self._pumping = False
        with self._lock:
            is_over = self._closing and not self._unfinished
            if is_over:
                self._all_ended.notify_all()
        if is_over:
            _stop(self._timer, self.backend)

    def _next(self) -> _Task | None:
        """The next task to start; None if no task is waiting or no slot is free. Cancelled tasks are removed."""
        with self._lock:
            while self._waiting and (len(self._under_way) < self._slots or self._waiting[0].future.cancelled()):
                task = self._waiting.popleft()
                # At a second try the future is running already: then ``set_running_or_notify_cancel`` would raise.
                if task.future.running() or task.future.set_running_or_notify_cancel():
                    task.started_s = time.monotonic()
                    self._stats["tries"] += 1
                    self._under_way[task.call.task_id] = task
                    return task
                self._stats["cancelled"] += 1
                self._unfinished.discard(task)
            # Under the same lock as the check above: whoever adds a task later sees that ``_pump`` has to run again.
            self._pumping = False
            return None

    def _start(self, task: _Task) -> None:
        """Begin a try on the backend, with a deadline."""
        try:
            patience_s = task.call.timeout_s + self.backend.waiting_s
            task.call = call = replace(task.call, expires_s=time.time() + patience_s)
            # Entered before ``start``, which can answer at once, and ``_end_try`` cancels the entry.
            task.deadline = self._timer.at(task.started_s + patience_s, functools.partial(self._time_out, task, call))
            self.backend.start(call, task.sizes[0], lambda result: self._end_try(task, call, result))
        except Exception as error:  # noqa: BLE001 - whatever a backend raises, the task must end
            if not isinstance(error, RemoteTaskError):
                error = RemoteTaskError(f"{type(error).__name__}: {error}")
            self._end_try(task, task.call, error)

    def _time_out(self, task: _Task, call: Call) -> None:
        """End a try at its deadline, unless it has ended."""
        if self._under_way.get(call.task_id) is task and task.call is call:
            with contextlib.suppress(Exception):
                self.backend.give_up(call)
            self._end_try(task, call, RemoteTaskError(f"{call.name}: no answer came in time", "timeout"))

    def _end_try(self, task: _Task, call: Call, result: TryResult) -> None:
        """End a try with its first result (later results are ignored): set the future, or schedule the next try."""
        with self._lock:
            # Calls are compared by identity: the task's next try has another call with the same id.
            if self._under_way.get(call.task_id) is not task or task.call is not call:
                return None
            del self._under_way[call.task_id]
        if task.deadline:
            self._timer.cancel(task.deadline)
        with contextlib.suppress(TypeError, AttributeError):  # a worker may send anything as facts
            self._measure(task, result.facts)
        # Not under the lock, since unpickling runs any code, and a large answer is fetched.
        value, error = read(call, result, self.backend.contents)
        delay_s = self._prepare_retry(task, error, result) if error is not None and not self._aborted else None
        if delay_s is not None:
            with self._lock:
                self._stats["retried"] += 1
                self._delayed.add(task)
            self._timer.at(time.monotonic() + delay_s, functools.partial(self._retry, task))
            return self._pump()
        with self._lock:
            self._stats["succeeded" if error is None else "failed"] += 1
        if error is None:
            task.future.set_result(value)
        else:
            task.future.set_exception(error)
        # This comes last: when ``shutdown`` finds no unfinished task, every future must be done.
        with self._lock:
            self._unfinished.discard(task)
        return self._pump()

    def _retry(self, task: _Task) -> None:
        """Let a delayed task start before all waiting tasks."""
        with self._lock:
            if task in self._delayed:
                self._delayed.remove(task)
                self._waiting.appendleft(task)
        self._pump()

    def _prepare_retry(self, task: _Task, error: BaseException, result: TryResult) -> float | None:
        """Set the task's size and call for the next try; return the seconds until then, or None if there is none."""
        reason = error.reason if isinstance(error, RemoteTaskError) else ""
        attempt = task.call.attempt + 1
        if reason == "throttled" and task.throttled < MAX_THROTTLED:
            # The call keeps its attempt number, and so its record: if Lambda has queued it all the same, it is still
            # performed only once.
            task.throttled += 1
            return back_off_s(task.throttled, BACK_OFF_S, MAX_BACK_OFF_S)
        if (reason in LARGER_HELPS or _has_raised(MemoryError, error, result)) and len(task.sizes) > 1:
            task.sizes.pop(0)
            self._stats["escalated"] += 1
        elif _has_raised(task.options.retry_on, error, result) and task.failures < task.options.retries:
            task.failures += 1
        else:
            return None
        task.call = replace(task.call, attempt=attempt)
        return back_off_s(max(task.failures, 1), BACK_OFF_S, MAX_BACK_OFF_S)

    def _measure(self, task: _Task, facts: Mapping[str, Any]) -> None:
        """Add a try's times to the statistics."""
        worked_s = facts.get("ended_s", 0.0) - facts.get("started_s", 0.0)
        with self._lock:
            self._stats["cold"] += bool(facts.get("cold"))
            self._stats["waiting_s"] += task.started_s - task.submitted_s
            self._stats["working_s"] += worked_s
            self._stats["gb_s"] += worked_s * self.backend.sizes[task.sizes[0]] / 1024
            self._stats["travelling_s"] += max(0.0, time.monotonic() - task.started_s - worked_s)


class Timer:
    """Ends tries at their deadlines and begins next tries: a daemon thread calls functions, which must not raise."""

    def __init__(self) -> None:
        self._scheduler = sched.scheduler(time.monotonic)
        self._changed = threading.Event()
        self._wakes_s = math.inf  # when the thread checks its entries next, unless something changes
        self._stopped = False
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def at(self, when_s: float, action: Callable[[], None]) -> sched.Event:
        """Call ``action`` at a time of the monotonic clock; return the entry, which ``cancel`` takes."""
        entry = self._scheduler.enterabs(when_s, 0, action)
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sparklet-functions-timer", daemon=True)
                self._thread.start()
        if when_s < self._wakes_s:
            self._changed.set()
        return entry

    def cancel(self, entry: sched.Event) -> None:
        """Do not call an entry's action any more."""
        with contextlib.suppress(ValueError):  # the action was called already
            self._scheduler.cancel(entry)

    def stop(self) -> None:
        """Call nothing any more."""
        self._stopped = True
        self._changed.set()

    def _run(self) -> None:
        while not self._stopped:
            self._wakes_s = math.inf  # any entry that is added from now on sets the event
            self._changed.clear()
            # Not blocking: else the scheduler would sleep until its next entry, and miss an earlier one that is added.
            in_s = self._scheduler.run(blocking=False)
            if in_s is not None:
                self._wakes_s = time.monotonic() + in_s
            self._changed.wait(in_s)


def _has_raised(classes: Any, error: BaseException, result: TryResult) -> bool:
    """Whether a try raised an exception of a class, or of one in a tuple or union of classes.

    An exception that could not be unpickled is compared by the names of its class and of the bases.
    """
    if not isinstance(classes, type):
        return any(_has_raised(one_class, error, result) for one_class in getattr(classes, "__args__", classes))
    names = result.classes if isinstance(result, Answer) and result.raised and isinstance(result.classes, list) else []
    return isinstance(error, classes) or class_name(classes) in names


def _stop(timer: Timer, backend: Backend) -> None:
    timer.stop()
    backend.close()


def _make_backend(name: str, slots: int | None, stack: str) -> Backend:
    if name == "lambda":
        from sparklet.functions.deployed import LambdaFunctions

        return LambdaFunctions(stack, slots)
    makers: dict[str, Callable[..., Backend]] = {"processes": Processes, "threads": Threads}
    if name not in makers:
        raise ValueError(f"there is no backend {name!r}: choose one of lambda, {', '.join(makers)}")
    return makers[name](slots)


def _results(
    pending: deque[Future[list[T]]], next_futures: Iterator[Future[list[T]]], end_s: float | None
) -> Iterator[T]:
    """Yield results in order; ``next_futures`` submits one more chunk before each wait for a pending one."""
    try:
        while pending:
            pending.extend(itertools.islice(next_futures, 1))
            results = pending[0].result(None if end_s is None else end_s - time.monotonic())
            # Removed only with its result: after a timeout the future must be among those that are cancelled below.
            pending.popleft()
            # Reversed and popped, so that this function keeps no reference to a result that the caller has got.
            results.reverse()
            while results:
                yield results.pop()
    finally:
        for future in pending:
            future.cancel()


entered: "ContextVar[LambdaExecutor | None]" = ContextVar("sparklet_executor", default=None)
"""The executor of the innermost ``with`` block."""

_executors: "weakref.WeakSet[LambdaExecutor]" = weakref.WeakSet()


def _end_all() -> None:
    """Wait for all tasks when the interpreter exits, as the standard library does; after Ctrl-C, abort them."""
    interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt
    for executor in list(_executors):
        executor.abort() if interrupted else executor.shutdown()


# The last one to be registered is called first: before the standard library's pools, which would wait.
threading._register_atexit(_end_all)  # type: ignore[attr-defined]
