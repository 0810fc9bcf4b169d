"""``LambdaExecutor``: a ``concurrent.futures.Executor`` whose calls run in other processes, here or in Lambda.

A task is submitted, waits for a slot, is tried, perhaps again, and ends as value, error or cancelled. Nothing is waited
for past its deadline, whatever the backend does.
"""

import atexit
import functools
import itertools
import random
import secrets
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from sparklet.errors import PayloadError, RemoteTaskError
from sparklet.functions.backend import Backend, End
from sparklet.functions.calls import Answer, Call, Content, decode, encode_arguments
from sparklet.functions.local import Processes, Threads
from sparklet.functions.options import Options as Options
from sparklet.functions.perform import reference
from sparklet.functions.timer import Timer

P = ParamSpec("P")
T = TypeVar("T")

BACK_OFF_S, MAX_BACK_OFF_S = 0.2, 20.0
MAX_THROTTLED = 12  # tries that did not begin: some two minutes of back-off
LARGER_HELPS = ("memory", "timeout")


@dataclass(eq=False, slots=True)
class _Task:
    future: Future[Any]
    call: Call
    options: Options
    sizes: list[int]  # of the backend's: this try's first, then larger ones
    submitted_s: float
    failures: int = 0
    throttled: int = 0
    started_s: float = 0.0
    open: bool = False  # whether a try is under way


class LambdaExecutor(Executor):
    """Calls Python functions in AWS Lambda, or in other workers, with the standard library's interface.

    Parameters
    ----------
    backend
        ``"processes"`` or ``"threads"`` of this machine, or a ``Backend``.
    max_workers
        Tasks under way at a time; None: as many as the backend takes.
    options
        Fields of ``Options``, for all tasks that say nothing else.

    Raises
    ------
    ValueError
        If ``max_workers`` is below 1.
    """

    def __init__(self, backend: str | Backend = "processes", *, max_workers: int | None = None, **options: Any) -> None:
        if max_workers is not None and max_workers < 1:
            raise ValueError("max_workers must be at least 1")
        self.backend = _backend(backend, max_workers) if isinstance(backend, str) else backend
        self.options = Options(**options)
        self._caller, self._numbers = secrets.token_hex(8), itertools.count()
        self._slots = min(max_workers or self.backend.slots, self.backend.slots)
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._waiting: deque[_Task] = deque()
        self._open: dict[str, _Task] = {}  # by the try's id
        self._later = 0  # tasks whose next try waits for its time
        self._closing = self._aborted = False
        self._outer: LambdaExecutor | None = None
        self._timer = Timer()
        self._counts: Counter[str] = Counter()
        self._seconds = dict.fromkeys(("waiting_s", "working_s", "travelling_s"), 0.0)
        _executors.add(self)

    # --- what the standard library's executors do ---

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Have a call performed; its future. An argument that cannot be encoded is the future's error."""
        return self.submit_with(self.options.of(fn), fn, (args, kwargs))

    def submit_with(
        self, options: Options, fn: Callable[..., Any] | str, arguments: Any, each: bool = False
    ) -> "Future[Any]":
        """The same with options of its own, and of a function that only its workers have (``module:name``).

        ``arguments`` is ``(args, kwargs)``, or with ``each`` a list of args.
        """
        future: Future[Any] = Future()
        with self._lock:
            if self._closing:
                raise RuntimeError("cannot schedule new futures after shutdown")
        try:
            task = self._task(future, options, fn, arguments, each)
        except PayloadError as error:
            future.set_running_or_notify_cancel()
            future.set_exception(error)
            return future
        with self._lock:
            self._waiting.append(task)
            self._counts["submitted"] += 1
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
            Chunks that are under way or not yet taken; the iterables are read as results are. None: all, at once.
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
            cancelled = list(self._waiting) if cancel_futures else []
            if cancel_futures:
                self._waiting.clear()
        for task in cancelled:
            if task.future.cancel():
                task.future.set_running_or_notify_cancel()
            self._counts["cancelled"] += 1
        self._close_if_done()
        if wait:
            with self._ended:
                while self._unfinished():
                    self._ended.wait()
            self.backend.close()

    def __enter__(self) -> Self:
        """From here to the block's end it is the executor of what ``remote`` decorates and of ``gather``."""
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
        """Cancel what waits, and end the workers at once: what they were doing is lost."""
        self._aborted = True
        self.shutdown(wait=False, cancel_futures=True)
        self.backend.close()
        for task in list(self._open.values()):
            self._done(task, task.call, RemoteTaskError(f"{_named(task.call)} was given up", "killed"))

    def stats(self) -> dict[str, float]:
        """Tasks by their ends, tries, cold starts; seconds in all of waiting, working and travelling."""
        with self._lock:
            return {**self._counts, **{name: round(total, 3) for name, total in self._seconds.items()}}

    # --- a task's way ---

    def _task(self, future: "Future[Any]", options: Options, fn: Any, arguments: Any, each: bool) -> _Task:
        backend = self.backend
        function = getattr(fn, "__wrapped__", fn) if getattr(fn, "is_remote", False) else fn
        name = "" if options.codec == "cloudpickle" and not isinstance(fn, str) else reference(function)
        if not name and options.codec == "json":
            raise PayloadError(f"{function!r} has no name that a worker could import: put it into a module")
        sizes = options.sizes_of(backend.sizes)
        timeout_s = min(options.timeout_s or backend.max_timeout_s, backend.max_timeout_s)
        encoded = encode_arguments(options.codec, None if name else function, arguments, backend.contents)
        inline_bytes = 0 if options.offload_arguments else backend.inline_bytes
        content = Content.of(options.codec, encoded, inline_bytes, backend.contents)
        task_id = f"{self._caller}-{next(self._numbers):06}"
        answer_inline_bytes = 0 if options.offload_result else backend.inline_bytes
        call = Call(task_id, name, content, timeout_s, 0.0, answer_inline_bytes, each)
        return _Task(future, call, options, sizes, time.monotonic())

    def _pump(self) -> None:
        """Start waiting tasks while slots are free."""
        while True:
            with self._lock:
                if not self._waiting or len(self._open) >= self._slots:
                    break
                task = self._waiting.popleft()
                if task.call.attempt == 1 and not task.throttled and not task.future.set_running_or_notify_cancel():
                    self._counts["cancelled"] += 1
                    continue
                task.started_s, task.open = time.monotonic(), True
                self._counts["tries"] += 1
                self._open[task.call.task_id] = task
            self._start(task)
        self._close_if_done()

    def _start(self, task: _Task) -> None:
        patience_s = self.backend.patience_s(task.call)
        task.call = call = replace(task.call, expires_s=time.time() + patience_s)
        self._timer.at(task.started_s + patience_s, functools.partial(self._give_up, call.task_id, call.expires_s))
        try:
            self.backend.start(call, task.sizes[0], lambda end: self._done(task, call, end))
        except Exception as error:  # noqa: BLE001 - whatever a backend raises, the task must end
            self._done(task, call, error if isinstance(error, RemoteTaskError) else RemoteTaskError(str(error)))

    def _give_up(self, task_id: str, expires_s: float) -> None:
        task = self._open.get(task_id)
        if task and task.call.expires_s == expires_s:  # else a later try is under way
            call = task.call
            self.backend.give_up(call)
            self._done(task, call, RemoteTaskError(f"{_named(call)}: no answer came in time", "timeout"))

    def _done(self, task: _Task, call: Call, end: End) -> None:
        """One try has ended; anything that comes later for it is ignored."""
        with self._lock:
            if not task.open or task.call is not call:
                return
            task.open = False
        self._measure(task, end)
        value, error = self._read(end)
        delay_s = self._delay_s(task, error) if error else None
        if delay_s is not None:
            with self._lock:
                del self._open[call.task_id]
                self._later += 1
                self._counts["retried"] += 1
            self._timer.at(time.monotonic() + delay_s, lambda: self._again(task))
        else:
            self._counts["failed" if error else "succeeded"] += 1
            if error:
                task.future.set_exception(error)
            else:
                task.future.set_result(value)
            with self._lock:
                del self._open[call.task_id]  # last: who waits for the shutdown finds each future done
        self._pump()

    def _again(self, task: _Task) -> None:
        with self._lock:
            self._later -= 1
            self._waiting.appendleft(task)
        self._pump()

    def _read(self, end: End) -> tuple[Any, BaseException | None]:
        """The value, or the error to raise."""
        if isinstance(end, RemoteTaskError):
            return None, end
        try:
            found = decode(end.content.codec, end.content.read(self.backend.contents)) if end.content else None
        except Exception as error:  # noqa: BLE001 - unpickling raises anything
            return None, RemoteTaskError(f"the answer cannot be read: {type(error).__name__}: {error}")
        if end.content and not end.raised:
            return found, None
        if end.content:
            return None, _raised(found, end)
        return None, RemoteTaskError(end.error, "" if end.raised else "refused", log_tail=end.trace, facts=end.facts)

    def _delay_s(self, task: _Task, error: BaseException) -> float | None:
        """Seconds until the next try; None if there is none."""
        if self._aborted:
            return None
        reason = error.reason if isinstance(error, RemoteTaskError) else ""
        attempt = task.call.attempt + 1
        if reason == "throttled" and task.throttled < MAX_THROTTLED:
            task.throttled += 1
            return _back_off_s(task.throttled)
        if (reason in LARGER_HELPS or isinstance(error, MemoryError)) and len(task.sizes) > 1:
            task.sizes.pop(0)
            self._counts["escalated"] += 1
        elif isinstance(error, task.options.retry_on) and task.failures < task.options.retries:
            task.failures += 1
        else:
            return None
        task.call = replace(task.call, attempt=attempt)
        return _back_off_s(max(task.failures, 1))

    def _measure(self, task: _Task, end: End) -> None:
        now_s = time.monotonic()
        facts = end.facts
        worked_s = facts.get("ended_s", 0.0) - facts.get("started_s", 0.0)
        with self._lock:
            self._counts["cold"] += bool(facts.get("cold"))
            self._seconds["waiting_s"] += task.started_s - task.submitted_s
            self._seconds["working_s"] += worked_s
            self._seconds["travelling_s"] += max(0.0, now_s - task.started_s - worked_s)

    def _unfinished(self) -> int:
        return len(self._waiting) + len(self._open) + self._later

    def _close_if_done(self) -> None:
        with self._lock:
            done = self._closing and not self._unfinished()
            if done:
                self._ended.notify_all()
        if done:
            self._timer.stop()
            self.backend.close()


def _backend(name: str, slots: int | None) -> Backend:
    makers: dict[str, Callable[..., Backend]] = {"processes": Processes, "threads": Threads}
    if name not in makers:
        raise ValueError(f"there is no backend {name!r}: choose one of {', '.join(makers)}")
    return makers[name](slots)


def _named(call: Call) -> str:
    return call.function or f"task {call.task_id}"


def _back_off_s(tries: int) -> float:
    """Exponential, with full jitter on its upper half."""
    max_s = min(MAX_BACK_OFF_S, BACK_OFF_S * 2.0**tries)
    return random.uniform(max_s / 2, max_s)


class RemoteTraceback(Exception):  # noqa: N818 - it is a cause, never raised
    """Where an exception was raised in its worker; its traceback has the remote frames."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _raised(found: Any, end: Answer) -> BaseException:
    error, frames = found
    cause = RemoteTraceback(end.trace)
    if frames:
        from tblib import Traceback

        cause.__traceback__ = Traceback.from_dict(frames).as_traceback()
    error.__cause__ = cause
    return error  # type: ignore[no-any-return]


def _results(begun: deque[Future[list[T]]], further: Iterator[Future[list[T]]], end_s: float | None) -> Iterator[T]:
    """The results in order; one of ``further`` begins before each that is taken."""
    try:
        while begun:
            begun.extend(itertools.islice(further, 1))
            found = begun.popleft().result(None if end_s is None else end_s - time.monotonic())
            found.reverse()
            while found:
                yield found.pop()
    finally:
        for future in begun:
            future.cancel()


entered: "ContextVar[LambdaExecutor | None]" = ContextVar("sparklet_executor", default=None)
"""The executor of the innermost ``with`` block."""

_executors: "weakref.WeakSet[LambdaExecutor]" = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """Wait for all tasks at the interpreter's end, as the standard library does; but not after Ctrl-C."""
    interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt
    for executor in list(_executors):
        executor.abort() if interrupted else executor.shutdown()
