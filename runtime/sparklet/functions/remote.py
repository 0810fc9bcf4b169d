"""The decorator ``remote`` for functions, ``gather`` for different calls at once, and a bar that shows progress."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, as_completed, wait
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, TypeVar, overload

from sparklet.functions.backend import Options
from sparklet.functions.executor import LambdaExecutor, entered
from sparklet.functions.performer import reference

P = ParamSpec("P")
T = TypeVar("T")


class RemoteFunction(Generic[P, T]):
    """A function that ``remote`` decorated, with the decorator's ``options``."""

    is_remote = True
    __wrapped__: Callable[P, T]

    def __init__(self, function: Callable[P, T], options: Mapping[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self.options = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function in place."""
        return self.__wrapped__(*args, **kwargs)

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Submit a call to the executor of the ``with`` block.

        Raises
        ------
        RuntimeError
            Outside of a ``with`` block.
        """
        return _executor().submit(self, *args, **kwargs)

    def map(self, *iterables: Iterable[Any], **options: Any) -> Iterator[T]:
        """Call the function for each item; results in order. ``options`` are the ones of ``LambdaExecutor.map``."""
        return _executor().map(self, *iterables, **options)

    def __reduce__(self) -> str | tuple[Any, ...]:
        module, _, name = reference(self).partition(":")
        # A name suffices if a worker can import it; code of the main program is sent by value.
        return name if module not in ("", "__main__") else (RemoteFunction, (self.__wrapped__, self.options))


@overload
def remote(function: Callable[P, T], /) -> RemoteFunction[P, T]: ...
@overload
def remote(**options: Any) -> Callable[[Callable[P, T]], RemoteFunction[P, T]]: ...
def remote(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Let a function be called in place (``f(x)``), remotely (``f.submit(x)``) and mapped (``f.map(xs)``).

    ``f.submit`` and ``f.map`` work within ``with LambdaExecutor(…):``, and ``executor.submit(f, x)`` anywhere.

    Parameters
    ----------
    options
        Fields of ``Options``; they override the executor's.
    """
    Options(**options)  # raises at the decorator if an option is wrong
    if function is None:
        return functools.partial(RemoteFunction, options=options)
    return RemoteFunction(function, options)


@dataclass(frozen=True)
class Invocation:
    """One of the different calls of ``gather``.

    Parameters
    ----------
    function
        A function, or the name (``module:name`` or ``module.name``) of a function that only workers need to have.
    executor
        The executor of this call; the one of the ``with`` block if it is None.
    options
        Fields of ``Options``; they override those of the executor and of ``remote``.
    wait
        Whether to wait for the answer. If not, the result is None at once; the executor's ``stats`` count the outcome.
    """

    function: Callable[..., Any] | str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    executor: LambdaExecutor | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    wait: bool = True

    def begin(self) -> "Future[Any]":
        """Submit the call."""
        executor = self.executor or _executor()
        options = executor.options.for_function(self.function, **self.options)
        return executor.submit_with(options, self.function, (tuple(self.args), dict(self.kwargs)))


def gather(
    invocations: Iterable[Invocation], *, timeout: float | None = None, fail_on_timeout: bool = False
) -> list[Any]:
    """Run different calls at once; return their results, or the exceptions that they raised, in order.

    Parameters
    ----------
    timeout
        Seconds to wait for all calls together; then calls that still wait for a worker are cancelled.
    fail_on_timeout
        Whether to raise TimeoutError if an answer is missing; if not, the list has the TimeoutError in its place.
    """
    calls = list(invocations)
    futures = [call.begin() for call in calls]
    awaited = [future for call, future in zip(calls, futures, strict=True) if call.wait]
    try:
        unanswered = wait(awaited, timeout).not_done
    finally:  # after an interruption and after the timeout; a future that is done stays as it is
        for future in awaited:
            future.cancel()
    timeout_error = TimeoutError(f"{len(unanswered)} of {len(awaited)} calls gave no answer within {timeout} s")
    if unanswered and fail_on_timeout:
        raise timeout_error

    def result_or_error(future: "Future[Any]") -> Any:
        if future in unanswered:
            return timeout_error
        if future.cancelled():
            return CancelledError()
        error = future.exception()
        return future.result() if error is None else error

    return [result_or_error(future) if call.wait else None for call, future in zip(calls, futures, strict=True)]


def progress(results: Iterable[Any], total: float | None = None, description: str = "") -> Iterable[Any]:
    """Yield the same results, and show a bar for them on a terminal or in a notebook.

    Futures are yielded as they are done (``progress(futures)``). For results of ``map`` the ``total`` must be given.
    """
    from rich.console import Console
    from rich.progress import track

    if isinstance(results, Sequence) and all(isinstance(result, Future) for result in results):
        total, results = len(results), as_completed(results)
    console = Console(stderr=True)
    is_visible = console.is_terminal or console.is_jupyter
    return track(results, description, total, console=console, disable=not is_visible)


def _executor() -> LambdaExecutor:
    if (executor := entered.get()) is None:
        raise RuntimeError("there is no executor here: call this within `with LambdaExecutor(...):`")
    return executor
