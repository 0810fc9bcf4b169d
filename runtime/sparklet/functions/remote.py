"""Functions that are called in place, remotely or mapped; lists of different calls; a bar while they are under way."""

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
            Outside of one.
        """
        return _executor().submit(self, *args, **kwargs)

    def map(self, *iterables: Iterable[Any], **how: Any) -> Iterator[T]:
        """Results in order; ``how`` are arguments of ``LambdaExecutor.map``."""
        return _executor().map(self, *iterables, **how)

    def __reduce__(self) -> str | tuple[Any, ...]:
        module, _, name = reference(self).partition(":")
        # A name suffices where a worker can import it; code of the main program travels by value.
        return name if module not in ("", "__main__") else (RemoteFunction, (self.__wrapped__, self.options))


@overload
def remote(function: Callable[P, T], /) -> RemoteFunction[P, T]: ...
@overload
def remote(**options: Any) -> Callable[[Callable[P, T]], RemoteFunction[P, T]]: ...
def remote(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Let a function be called in place (``f(x)``), remotely (``f.submit(x)``) and mapped (``f.map(xs)``).

    The last two need a ``with LambdaExecutor(…):`` around them. ``executor.submit(f, x)`` works anywhere.

    Parameters
    ----------
    options
        Fields of ``Options``; they override the executor's.
    """
    Options(**options)  # report a mistake where it is made
    return functools.partial(RemoteFunction, options=options) if function is None else RemoteFunction(function, options)


@dataclass(frozen=True)
class Invocation:
    """One of the different calls of ``gather``.

    Parameters
    ----------
    function
        A function, or ``module:name`` (``module.name``) of one that only its workers need to have.
    executor
        Where it runs; None: in the executor of the ``with`` block.
    options
        Fields of ``Options``; they override those of the executor and of ``remote``.
    wait
        Whether to wait for its answer; False: the result is None at once, and the executor's ``stats`` count its end.
    """

    function: Callable[..., Any] | str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    executor: LambdaExecutor | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    wait: bool = True

    def begin(self) -> "Future[Any]":
        """Submit it."""
        executor = self.executor or _executor()
        options = executor.options.of(self.function, **self.options)
        return executor.submit_with(options, self.function, (tuple(self.args), dict(self.kwargs)))


def gather(
    invocations: Iterable[Invocation], *, timeout: float | None = None, fail_on_timeout: bool = False
) -> list[Any]:
    """Run different calls at once; their results, or the exceptions that they raised, in order.

    Parameters
    ----------
    timeout
        Seconds to wait for all of them. Calls that wait for a worker then are cancelled.
    fail_on_timeout
        Whether to raise TimeoutError for a missing answer, instead of putting it into the list.
    """
    calls = list(invocations)
    futures = [call.begin() for call in calls]
    awaited = [future for call, future in zip(calls, futures, strict=True) if call.wait]
    try:
        late = wait(awaited, timeout).not_done
    finally:  # after an interruption and after the timeout; one that is done stays as it is
        for future in awaited:
            future.cancel()
    missing = TimeoutError(f"{len(late)} of {len(awaited)} calls gave no answer within {timeout} s")
    if late and fail_on_timeout:
        raise missing

    def end(future: "Future[Any]") -> Any:
        if future in late:
            return missing
        if future.cancelled():
            return CancelledError()
        error = future.exception()
        return future.result() if error is None else error

    return [end(future) if call.wait else None for call, future in zip(calls, futures, strict=True)]


def progress(results: Iterable[Any], total: float | None = None, description: str = "") -> Iterable[Any]:
    """The same results, with a bar on a terminal or in a notebook; elsewhere without.

    Futures are yielded as they are done (``progress(futures)``); results of ``map`` need their ``total``.
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
