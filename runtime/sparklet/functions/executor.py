"""``LambdaExecutor``: a ``concurrent.futures.Executor`` whose calls run in other processes, here or in Lambda.

A task is submitted, waits for a slot, is tried, perhaps again, and ends as value, error or cancelled. Each try has a
deadline, whatever the backend does.
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
from sparklet.functions.calls import Answer, Call, Content, End, encode_arguments, read
from sparklet.functions.local import Processes, Threads
from sparklet.functions.performer import class_name, reference, unwrapped
from sparklet.ledger.clock import back_off_s
from sparklet.ports.forks import renew_after_fork

P = ParamSpec("P")
T = TypeVar("T")

BACK_OFF_S, MAX_BACK_OFF_S = 0.4, 20.0
MAX_THROTTLED = 12  # tries without a begin: some two minutes of back-off
LARGER_HELPS = ("memory", "timeout")


@dataclass(eq=False, slots=True)
class _Task:
    future: Future[Any]
    call: Call
    options: Options
    sizes: list[int]  # indexes of the backend's sizes: this try's, then larger ones
    submitted_s: float
    failures: int = 0
    throttled: int = 0
    started_s: float = 0.0
    deadline: Any = None  # the timer's entry for this try


class LambdaExecutor(Executor):
    """Calls Python functions in AWS Lambda, or in other workers, with the standard library's interface.

    Parameters
    ----------
    backend
        ``"processes"`` or ``"threads"`` of this machine, ``"lambda"``, or a ``Backend``.
    max_workers
        Tasks under way at a time; None: the backend's number.
    stack
        For ``"lambda"``: the stack that was made from ``sam/functions.yaml``.
    options
        Fields of ``Options``, for all tasks without their own.

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
        self.backend = _backend(backend, max_workers, stack) if isinstance(backend, str) else backend
        self.options = Options(**options)
        self._slots = min(max_workers or self.backend.slots, self.backend.slots)
        self._closing = self._aborted = False
        self._outer: LambdaExecutor | None = None
        self._timer = Timer()
        self._begin()
        _executors.add(self)
        renew_after_fork(self)
        weakref.finalize(self, _end, self._timer, self.backend).atexit = False

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._waiting: deque[_Task] = deque()
        self._open: dict[str, _Task] = {}  # by the try's id
        self._later: set[_Task] = set()  # the next try waits for its time
        self._unfinished: set[_Task] = set()
        self._pumping = False
        self._stats = defaultdict[str, float](int, waiting_s=0.0, working_s=0.0, travelling_s=0.0, gb_s=0.0)

    def after_fork(self) -> None:
        """In a forked process: begin without tasks; the parent's end in the parent, and are errors here."""
        parents = self._unfinished
        self._begin()
        # In place, since the finalizer holds this object.
        Timer.__init__(self._timer)
        for task in parents:
            Future.__init__(task.future)  # its lock may be held
            task.future.set_exception(RemoteTaskError(f"{task.call.name} was submitted by the process before its fork"))

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Have a call performed; return its future, which gets the error if an argument cannot be encoded or stored."""
        return self.submit_with(self.options.of(fn), fn, (args, kwargs))

    def submit_with(
        self, options: Options, fn: Callable[..., Any] | str, arguments: Any, each: bool = False
    ) -> "Future[Any]":
        """Submit with these options instead of the executor's.

        Parameters
        ----------
        fn
            A function, or the name of one that only workers have (``module:name``).
        arguments
            ``(args, kwargs)``, or with ``each`` a list of args, one for each call.

        Raises
        ------
        RuntimeError
            After ``shutdown``.
        """
        future: Future[Any] = Future()
        task = None
        # Not under the lock: to encode and to store large arguments takes long. So the look is repeated under it.
        if not self._closing:
            try:
                task = self._task(future, options, fn, arguments, each)
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
            Calls that travel together.
        buffersize
            Chunks that are under way or unread; the iterables are read as results are. None: all at once.
        """
        if chunksize < 1 or (buffersize is not None and buffersize < 1):
            raise ValueError("chunksize and buffersize must be at least 1")
        end_s = None if timeout is None else time.monotonic() + timeout
        calls = zip(*iterables, strict=False)
        chunks = iter(lambda: list(itertools.islice(calls, chunksize)), [])
        options = self.options.of(fn)
        begun = (self.submit_with(options, fn, chunk, each=True) for chunk in chunks)
        return _results(deque(itertools.islice(begun, buffersize)), begun, end_s)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; end the workers when all are done."""
        with self._lock:
            self._closing = True
            waiting = list(self._waiting) if cancel_futures else []
        # Not under the lock: a cancelled future calls its callbacks, which may call this executor.
        for task in waiting:
            task.future.cancel()
        self._pump()
        if wait:
            with self._ended:
                self._ended.wait_for(lambda: not self._unfinished)
            self.backend.close()

    def __enter__(self) -> Self:
        """Use this executor for decorated functions and ``gather`` until the block's end."""
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
        """Cancel waiting tasks, and end the workers at once: their tasks are lost."""
        self._aborted = True
        self.shutdown(wait=False, cancel_futures=True)
        self.backend.close()
        with self._lock:
            under_way, later = list(self._open.values()), list(self._later)
        for task in under_way:
            self._done(task, task.call, RemoteTaskError(f"{task.call.name}: its caller ended it", "killed"))
        for task in later:
            self._retry(task)

    def stats(self) -> dict[str, float]:
        """Tasks by their ends, tries, cold starts; total seconds of waiting, working and travelling; GB-seconds."""
        with self._lock:
            return {name: round(value, 3) for name, value in self._stats.items()}

    def _task(self, future: "Future[Any]", options: Options, fn: Any, arguments: Any, each: bool) -> _Task:
        backend = self.backend
        function = unwrapped(fn)
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
        """Start waiting tasks while slots are free; one thread at a time does it for all."""
        # A backend that answers at once calls ``_done``, which pumps again: the flag makes a loop of that recursion.
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
            done = self._closing and not self._unfinished
            if done:
                self._ended.notify_all()
        if done:
            _end(self._timer, self.backend)

    def _next(self) -> _Task | None:
        with self._lock:
            while self._waiting and (len(self._open) < self._slots or self._waiting[0].future.cancelled()):
                task = self._waiting.popleft()
                # The future of a second try is running already, for which ``set_running_or_notify_cancel`` raises.
                if task.future.running() or task.future.set_running_or_notify_cancel():
                    task.started_s = time.monotonic()
                    self._stats["tries"] += 1
                    self._open[task.call.task_id] = task
                    return task
                self._stats["cancelled"] += 1
                self._unfinished.discard(task)
            # Under the same lock as the last look: a task that is added later finds no pump, and starts one.
            self._pumping = False
            return None

    def _start(self, task: _Task) -> None:
        try:
            patience_s = task.call.timeout_s + self.backend.waiting_s
            task.call = call = replace(task.call, expires_s=time.time() + patience_s)
            # Before ``start``, which may answer at once, and ``_done`` cancels the entry.
            task.deadline = self._timer.at(task.started_s + patience_s, functools.partial(self._give_up, task, call))
            self.backend.start(call, task.sizes[0], lambda end: self._done(task, call, end))
        except Exception as error:  # noqa: BLE001 - whatever a backend raises, the task must end
            end = error if isinstance(error, RemoteTaskError) else RemoteTaskError(f"{type(error).__name__}: {error}")
            self._done(task, task.call, end)

    def _give_up(self, task: _Task, call: Call) -> None:
        if self._open.get(call.task_id) is task and task.call is call:
            with contextlib.suppress(Exception):
                self.backend.give_up(call)
            self._done(task, call, RemoteTaskError(f"{call.name}: no answer came in time", "timeout"))

    def _done(self, task: _Task, call: Call, end: End) -> None:
        """End a try once; later ends of the same try are ignored."""
        with self._lock:
            # By identity: the task's next try has a call of its own under the same id.
            if self._open.get(call.task_id) is not task or task.call is not call:
                return None
            del self._open[call.task_id]
        if task.deadline:
            self._timer.cancel(task.deadline)
        with contextlib.suppress(TypeError, AttributeError):  # a worker may send anything as facts
            self._measure(task, end.facts)
        # Not under the lock: unpickling runs any code, and large answers are fetched.
        value, error = read(call, end, self.backend.contents)
        delay_s = self._delay_s(task, error, end) if error is not None and not self._aborted else None
        if delay_s is not None:
            with self._lock:
                self._stats["retried"] += 1
                self._later.add(task)
            self._timer.at(time.monotonic() + delay_s, functools.partial(self._retry, task))
            return self._pump()
        with self._lock:
            self._stats["succeeded" if error is None else "failed"] += 1
        if error is None:
            task.future.set_result(value)
        else:
            task.future.set_exception(error)
        # Last: whoever waits in ``shutdown`` for no unfinished task must find every future done.
        with self._lock:
            self._unfinished.discard(task)
        return self._pump()

    def _retry(self, task: _Task) -> None:
        with self._lock:
            if task in self._later:
                self._later.remove(task)
                self._waiting.appendleft(task)
        self._pump()

    def _delay_s(self, task: _Task, error: BaseException, end: End) -> float | None:
        """Seconds until the next try; None if it was the last."""
        reason = error.reason if isinstance(error, RemoteTaskError) else ""
        attempt = task.call.attempt + 1
        if reason == "throttled" and task.throttled < MAX_THROTTLED:
            # The call keeps its number, and so its record: if it was taken after all, it is performed once.
            task.throttled += 1
            return back_off_s(task.throttled, BACK_OFF_S, MAX_BACK_OFF_S)
        if (reason in LARGER_HELPS or _is(MemoryError, error, end)) and len(task.sizes) > 1:
            task.sizes.pop(0)
            self._stats["escalated"] += 1
        elif _is(task.options.retry_on, error, end) and task.failures < task.options.retries:
            task.failures += 1
        else:
            return None
        task.call = replace(task.call, attempt=attempt)
        return back_off_s(max(task.failures, 1), BACK_OFF_S, MAX_BACK_OFF_S)

    def _measure(self, task: _Task, facts: Mapping[str, Any]) -> None:
        worked_s = facts.get("ended_s", 0.0) - facts.get("started_s", 0.0)
        with self._lock:
            self._stats["cold"] += bool(facts.get("cold"))
            self._stats["waiting_s"] += task.started_s - task.submitted_s
            self._stats["working_s"] += worked_s
            self._stats["gb_s"] += worked_s * self.backend.sizes[task.sizes[0]] / 1024
            self._stats["travelling_s"] += max(0.0, time.monotonic() - task.started_s - worked_s)


class Timer:
    """Ends tries at their deadlines and begins next ones: one daemon thread calls functions, which must not raise."""

    def __init__(self) -> None:
        self._due = sched.scheduler(time.monotonic)
        self._changed = threading.Event()
        self._looks_s = math.inf  # when the thread looks next, unless something changes
        self._stopped = False
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def at(self, when_s: float, action: Callable[[], None]) -> sched.Event:
        """Call ``action`` at a time of the monotonic clock; returns an entry for ``cancel``."""
        entry = self._due.enterabs(when_s, 0, action)
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sparklet-functions-timer", daemon=True)
                self._thread.start()
        if when_s < self._looks_s:
            self._changed.set()
        return entry

    def cancel(self, entry: sched.Event) -> None:
        """Do not call an entry's action any more."""
        with contextlib.suppress(ValueError):  # it was called
            self._due.cancel(entry)

    def stop(self) -> None:
        """Call nothing any more."""
        self._stopped = True
        self._changed.set()

    def _run(self) -> None:
        while not self._stopped:
            self._looks_s = math.inf  # what is entered from now on sets the event
            self._changed.clear()
            # Not blocking: the scheduler would sleep to its next entry, and miss an earlier one that is added.
            in_s = self._due.run(blocking=False)
            if in_s is not None:
                self._looks_s = time.monotonic() + in_s
            self._changed.wait(in_s)


def _is(classes: Any, error: BaseException, end: End) -> bool:
    """Whether a try raised a class, or one of a tuple or union; what could not be unpickled is known by its names."""
    if not isinstance(classes, type):
        return any(_is(kind, error, end) for kind in getattr(classes, "__args__", classes))
    names = end.classes if isinstance(end, Answer) and end.raised and isinstance(end.classes, list) else []
    return isinstance(error, classes) or class_name(classes) in names


def _end(timer: Timer, backend: Backend) -> None:
    timer.stop()
    backend.close()


def _backend(name: str, slots: int | None, stack: str) -> Backend:
    if name == "lambda":
        from sparklet.functions.deployed import LambdaFunctions

        return LambdaFunctions(stack, slots)
    makers: dict[str, Callable[..., Backend]] = {"processes": Processes, "threads": Threads}
    if name not in makers:
        raise ValueError(f"there is no backend {name!r}: choose one of lambda, {', '.join(makers)}")
    return makers[name](slots)


def _results(begun: deque[Future[list[T]]], further: Iterator[Future[list[T]]], end_s: float | None) -> Iterator[T]:
    """The results in order; before each, one of ``further`` begins."""
    try:
        while begun:
            begun.extend(itertools.islice(further, 1))
            results = begun[0].result(None if end_s is None else end_s - time.monotonic())
            # Only when it is there: after a timeout the future is among those that are cancelled.
            begun.popleft()
            # Popped from the end, so that no result is held here when the caller has it.
            results.reverse()
            while results:
                yield results.pop()
    finally:
        for future in begun:
            future.cancel()


entered: "ContextVar[LambdaExecutor | None]" = ContextVar("sparklet_executor", default=None)
"""The executor of the innermost ``with`` block."""

_executors: "weakref.WeakSet[LambdaExecutor]" = weakref.WeakSet()


def _end_all() -> None:
    """Wait for all tasks at the interpreter's end, as the standard library does; after Ctrl-C end them."""
    interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt
    for executor in list(_executors):
        executor.abort() if interrupted else executor.shutdown()


threading._register_atexit(_end_all)  # type: ignore[attr-defined]  # before pools do so, which came first, and wait
