"""The worker's part of a call: check it, find its function, call it, and sign the answer."""

import os
import pkgutil
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from sparklet.errors import PayloadError
from sparklet.functions.calls import CODECS, PYTHON, Answer, Call, Codec, Content, Contents, decode, encode, restored

ERROR_CHARACTERS = 2_000
TRACE_CHARACTERS = 8_000


@dataclass
class Performer:
    """Performs calls, one at a time, as its operator allows."""

    key: bytes  # shared with the callers that may use this worker
    codec: Codec  # the most powerful one that callers may use
    contents: Contents  # of large arguments and answers
    modules: tuple[str, ...] = ("*",)  # patterns: whose functions may be called by name; a pickle can name any
    facts: Mapping[str, Any] = field(default_factory=dict)  # of the worker, in each answer: its log stream, its memory
    clock: Callable[[], float] = time.time
    done: int = 0

    def perform(self, envelope: Any) -> dict[str, str]:
        """The signed answer to a signed call; PayloadError if its signature is wrong."""
        return self.perform_opened(Call.opened(envelope, self.key))

    def perform_opened(self, call: Call) -> dict[str, str]:
        """The signed answer to a call whose signature was verified."""
        started_s = self.clock()
        answer = self._answer(call)
        facts = {
            **self.facts,
            "started_s": started_s,
            "ended_s": self.clock(),
            "cold": self.done == 0,
            "pid": os.getpid(),
            "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        self.done += 1
        return replace(answer, facts=facts).sealed(self.key)

    def _answer(self, call: Call) -> Answer:
        try:
            function, arguments = self._loaded(call)
        # Reported as an exception of the call: the caller then tries a larger worker.
        except MemoryError as error:
            return self._raised(call, error)
        except BaseException as error:  # noqa: BLE001 - unpickling and importing raise anything
            return Answer(call.task_id, None, **_description(error))
        try:
            if call.each:
                value = [function(*args) for args in arguments]
            else:
                args, kwargs = arguments
                value = function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - sys.exit in a task is that task's error
            return self._raised(call, error)
        finally:
            arguments = args = kwargs = None
        try:
            content = self._content(call, value)
        except BaseException as error:  # noqa: BLE001 - pickling a value may raise anything, too
            return self._raised(call, error)
        return Answer(call.task_id, content)

    def _loaded(self, call: Call) -> tuple[Callable[..., Any], Any]:
        codec = call.content.codec
        # These refusals come before anything is unpickled, since that runs what the caller wrote; a module that is not
        # allowed is refused only after it.
        if CODECS.index(codec) > CODECS.index(self.codec):
            raise PayloadError(f"this worker does not take {codec}, only {self.codec}: its operator decides")
        if codec == "cloudpickle" and call.python != PYTHON:
            raise PayloadError(f"code of Python {call.python} does not run in this worker's {PYTHON}")
        if self.clock() >= call.expires_s:
            raise PayloadError("the call has expired: its caller has stopped waiting for it")
        encoded = call.content.read(self.contents)
        decoded = decode(codec, encoded)
        function, arguments = (resolve(call.function, self.modules), decoded) if call.function else decoded
        [[function]] = restored([[function]], self.contents)
        return function, restored(arguments, self.contents)

    def _raised(self, call: Call, error: BaseException) -> Answer:
        """The exception and its traceback without this module's frames, as far as both can be encoded."""
        content = None
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__ and trace.tb_next is not None:
            trace = trace.tb_next
        error = error.with_traceback(trace)
        if call.content.codec != "json":
            from tblib import Traceback

            try:
                content = self._content(call, (error, Traceback(trace).to_dict() if trace else None))
                decode(content.codec, content.read(self.contents))  # some exceptions can be pickled, but not unpickled
            except BaseException:  # noqa: BLE001 - then its text must do
                content = None
        return Answer(call.task_id, content, raised=True, **_description(error))

    def _content(self, call: Call, value: Any) -> Content:
        codec = call.content.codec
        return Content.of(codec, encode(codec, value), call.answer_inline_bytes, self.contents)


def resolve(name: str, modules: tuple[str, ...] = ("*",)) -> Callable[..., Any]:
    """The function ``module:qualified.name``; PayloadError if it is none, or if the operator does not allow it.

    Both the module that is named and the one that the function comes from must be allowed. ImportError, AttributeError
    or ValueError if it is not there.
    """
    _refuse_others(name.partition(":")[0], modules)
    function = unwrapped(pkgutil.resolve_name(name))
    if not callable(function):
        raise PayloadError(f"{name} is not a function")
    _refuse_others(str(function.__module__), modules)  # or a module that imports ``os`` would allow its functions
    return function  # type: ignore[no-any-return]


def _refuse_others(module: str, patterns: tuple[str, ...]) -> None:
    if not any(fnmatchcase(module, pattern) for pattern in patterns):
        raise PayloadError(f"functions of {module} may not be called here: its operator decides")


def reference(function: Any) -> str:
    """``module:qualified.name`` if importing that gives the function, decorated with ``remote`` or not; else "".

    A string is the name itself, as ``module:name`` or ``module.name``.
    """
    if isinstance(function, str):
        return function if ":" in function else ":".join(function.rpartition(".")[::2])
    module, path = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    imported: Any = sys.modules.get(module or "")
    for part in path.split("."):
        imported = getattr(imported, part, None)
    same = function is imported or function is unwrapped(imported)
    return f"{module}:{path}" if same and imported is not None else ""


def unwrapped(function: Any) -> Any:
    """The function that ``remote`` decorated; any other function as it is."""
    return getattr(function, "__wrapped__", function) if getattr(function, "is_remote", False) else function


def class_name(of: type) -> str:
    """A class as callers and workers both name it; processes of this machine have another main module."""
    return f"{'__main__' if of.__module__ == '__mp_main__' else of.__module__}:{of.__qualname__}"


def _description(error: BaseException) -> dict[str, Any]:
    short, trace = traceback.format_exception_only(error), traceback.format_exception(error)
    text = {"error": "".join(short).strip()[:ERROR_CHARACTERS], "trace": "".join(trace)[-TRACE_CHARACTERS:]}
    return {**text, "classes": [class_name(base) for base in type(error).__mro__]}
