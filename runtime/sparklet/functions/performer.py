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
from sparklet.functions.calls import CODECS, PYTHON, Answer, Call, Codec, Content, Contents, decode, encode, read_stored

ERROR_CHARACTERS = 2_000
TRACE_CHARACTERS = 8_000


@dataclass
class Performer:
    """Performs calls, one at a time, as its operator allows."""

    key: bytes  # shared with the callers that are allowed to use this worker
    codec: Codec  # the most powerful codec that callers are allowed to use
    contents: Contents  # the store of large arguments and answers
    # Patterns of modules whose functions can be called by name. A pickle can name functions of any module.
    modules: tuple[str, ...] = ("*",)
    facts: Mapping[str, Any] = field(default_factory=dict)  # about the worker, for its answers: log stream, memory
    clock: Callable[[], float] = time.time
    done: int = 0  # calls that were performed

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
        """Call the function; return the answer with its value, or with the exception or refusal."""
        try:
            function, arguments = self._load(call)
        # Reported as an exception of the function, since the caller then tries a larger worker.
        except MemoryError as error:
            return self._error_answer(call, error)
        except BaseException as error:  # noqa: BLE001 - unpickling and importing raise anything
            return Answer(call.task_id, None, **_description(error))
        try:
            if call.each:
                value = [function(*args) for args in arguments]
            else:
                args, kwargs = arguments
                value = function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - sys.exit in a task is that task's error
            return self._error_answer(call, error)
        finally:
            arguments = args = kwargs = None
        try:
            content = self._encode(call, value)
        except BaseException as error:  # noqa: BLE001 - pickling a value may raise anything, too
            return self._error_answer(call, error)
        return Answer(call.task_id, content)

    def _load(self, call: Call) -> tuple[Callable[..., Any], Any]:
        """The function and its arguments; PayloadError if the operator does not allow the call, or it has expired."""
        codec = call.content.codec
        # These checks come before anything is unpickled, since unpickling runs the caller's code. The module that
        # defines the function is checked only after that.
        if CODECS.index(codec) > CODECS.index(self.codec):
            raise PayloadError(
                f"this worker refuses codec={codec}: its operator allows only {self.codec} (parameter Codec)"
            )
        if codec == "cloudpickle" and call.python != PYTHON:
            raise PayloadError(f"code of Python {call.python} does not run in this worker's {PYTHON}")
        if self.clock() >= call.expires_s:
            raise PayloadError("the call has expired: its caller has stopped waiting for it")
        encoded = call.content.read(self.contents)
        decoded = decode(codec, encoded)
        if call.function:
            function, arguments = resolve(call.function, self.modules), decoded
        else:
            function, arguments = decoded
        [[function]] = read_stored([[function]], self.contents)
        return function, read_stored(arguments, self.contents)

    def _error_answer(self, call: Call, error: BaseException) -> Answer:
        """The answer with an exception and its traceback, without this module's frames, if they can be encoded."""
        content = None
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__ and trace.tb_next is not None:
            trace = trace.tb_next
        error = error.with_traceback(trace)
        if call.content.codec != "json":
            from tblib import Traceback

            try:
                content = self._encode(call, (error, Traceback(trace).to_dict() if trace else None))
                decode(content.codec, content.read(self.contents))  # some exceptions can be pickled, but not unpickled
            except BaseException:  # noqa: BLE001 - then the answer has the exception's text alone
                content = None
        return Answer(call.task_id, content, raised=True, **_description(error))

    def _encode(self, call: Call, value: Any) -> Content:
        codec = call.content.codec
        return Content.of(codec, encode(codec, value), call.answer_inline_bytes, self.contents)


def resolve(name: str, modules: tuple[str, ...] = ("*",)) -> Callable[..., Any]:
    """The function ``module:qualified.name``; PayloadError if it is not a function, or not allowed by the operator.

    Both the module that is named and the module that defines the function must be allowed. ImportError, AttributeError
    or ValueError if the name cannot be found.
    """
    _require_allowed(name.partition(":")[0], modules)
    function = undecorated(pkgutil.resolve_name(name))
    if not callable(function):
        raise PayloadError(f"{name} is not a function")
    # Without this check a module that imports ``os`` would allow the functions of ``os``.
    _require_allowed(str(function.__module__), modules)
    return function  # type: ignore[no-any-return]


def _require_allowed(module: str, patterns: tuple[str, ...]) -> None:
    if not any(fnmatchcase(module, pattern) for pattern in patterns):
        raise PayloadError(
            f"this worker refuses functions of {module}: its operator does not allow this module (parameter "
            "ModulePatterns)"
        )


def reference(function: Any) -> str:
    """A function's name as ``module:qualified.name``; "" if importing that name does not give the same function.

    The function can be decorated with ``remote``. A string is a name already, as ``module:name`` or ``module.name``.
    """
    if isinstance(function, str):
        return function if ":" in function else ":".join(function.rpartition(".")[::2])
    module, path = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    imported: Any = sys.modules.get(module or "")
    for part in path.split("."):
        imported = getattr(imported, part, None)
    is_same = function is imported or function is undecorated(imported)
    return f"{module}:{path}" if is_same and imported is not None else ""


def undecorated(function: Any) -> Any:
    """The function itself, without the decorator ``remote`` if it has that."""
    return getattr(function, "__wrapped__", function) if getattr(function, "is_remote", False) else function


def class_name(cls: type) -> str:
    """The name of a class that callers and workers share: in local processes the main module is ``__mp_main__``."""
    return f"{'__main__' if cls.__module__ == '__mp_main__' else cls.__module__}:{cls.__qualname__}"


def _description(error: BaseException) -> dict[str, Any]:
    short, trace = traceback.format_exception_only(error), traceback.format_exception(error)
    text = {"error": "".join(short).strip()[:ERROR_CHARACTERS], "trace": "".join(trace)[-TRACE_CHARACTERS:]}
    return {**text, "classes": [class_name(base) for base in type(error).__mro__]}
