"""What a caller makes of a try's end: a value, or the error to raise."""

from typing import Any

from sparklet.errors import PayloadError, RemoteTaskError
from sparklet.functions.backend import End
from sparklet.functions.calls import Answer, Call, Contents, decode


class RemoteTraceback(Exception):  # noqa: N818 - it is a cause, never raised
    """Where an exception was raised in its worker; its traceback has the remote frames."""

    def __init__(self, tb: str) -> None:
        super().__init__(f"\n{tb}")
        self.tb = tb  # as the standard library's has it


def read(call: Call, end: End, contents: Contents | None) -> tuple[Any, BaseException | None]:
    """The value, or the error to raise. Unpickles only an answer to this very call, in the call's own codec."""
    if isinstance(end, RemoteTaskError):
        return None, end
    content = end.content
    try:
        if end.task_id != call.task_id or (content and content.codec != call.content.codec):
            raise PayloadError("it is not this call's")
        if content:
            found = decode(content.codec, content.read(contents))
            return (None, _raised(found, end)) if end.raised else (found, None)
    except BaseException as error:  # noqa: BLE001 - unpickling raises anything, even SystemExit
        told = f"the answer cannot be read: {type(error).__name__}: {error}; {end.error}".rstrip("; ")
        return None, RemoteTaskError(told, log_tail=end.trace, facts=end.facts)
    return None, RemoteTaskError(end.error, "" if end.raised else "refused", log_tail=end.trace, facts=end.facts)


def _raised(found: Any, end: Answer) -> BaseException:
    error, frames = found
    cause = RemoteTraceback(end.trace)
    if frames:
        from tblib import Traceback

        cause.__traceback__ = Traceback.from_dict(frames).as_traceback()
    error.__cause__ = cause
    return error  # type: ignore[no-any-return]
