"""A call of a function and its answer as they travel: signed JSON documents, with large contents by reference.

The caller and the worker share a key. A worker refuses documents without the key's signature, and unpickles only what
its operator allows; a caller reads only answers to its own calls. A signed document has the SHA-256 of its contents.
"""

import base64
import functools
import hashlib
import hmac
import json
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol, Self, get_args

from sparklet.errors import PayloadError, RemoteTaskError
from sparklet.settings import Codec as Codec

CODECS: tuple[Codec, ...] = get_args(Codec)  # each allows all that the earlier ones allow
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
REPEATED_BYTES = 64 * 1024  # a larger argument is stored once for all calls that have it
COMPACT = json.JSONEncoder(separators=(",", ":"))
MAX_CONTENT_BYTES = 5 * 1024**3  # S3's limit of one request


class Contents(Protocol):
    """The store of large contents."""

    def put(self, name: str, content: bytes) -> str:
        """Store a content under its digest; return its URI. May be called twice. ObjectStoreError if it fails."""

    def get(self, uri: str) -> bytes:
        """A content; ObjectStoreError if it is not there, PayloadError if the URI is outside the folder."""


@dataclass(frozen=True, slots=True)
class Content:
    """An encoded value: in the document itself, or at a URI."""

    codec: Codec
    size_bytes: int
    text: str = ""  # JSON, or base64 of a pickle
    uri: str = ""
    sha256: str = ""  # of what lies at the URI

    @classmethod
    def of(cls, codec: Codec, encoded: bytes, inline_bytes: int, contents: Contents) -> Self:
        """A content; one of more than ``inline_bytes`` is stored in ``contents``. PayloadError if it is too large."""
        size_bytes = len(encoded)
        if size_bytes <= inline_bytes:
            text = encoded.decode() if codec == "json" else base64.b64encode(encoded).decode("ascii")
            return cls(codec, size_bytes, text)
        if size_bytes > MAX_CONTENT_BYTES:
            raise PayloadError(f"{size_bytes} bytes are too many for a call or an answer: at most {MAX_CONTENT_BYTES}")
        digest = hashlib.sha256(encoded).hexdigest()
        return cls(codec, size_bytes, uri=contents.put(digest, encoded), sha256=digest)

    def read(self, contents: Contents) -> bytes:
        """The encoded value; PayloadError if it is missing, or other than the signed digest."""
        if not self.uri:
            return self.text.encode() if self.codec == "json" else base64.b64decode(self.text)
        encoded = contents.get(self.uri)
        if hashlib.sha256(encoded).hexdigest() != self.sha256:
            raise PayloadError(f"{self.uri} has other content than the signed digest")
        return encoded


class Signed:
    """A document with a signature over its text."""

    __slots__ = ()
    kind: ClassVar[str]
    content: Content | None

    def sealed(self, key: bytes) -> dict[str, str]:
        """The signed document: ``{"sparklet_call": text, "signature": hex}``, or ``sparklet_answer``."""
        # The text that travels is what is signed: encoded anew, a document may have other bytes.
        text = COMPACT.encode(asdict(self))  # type: ignore[call-overload]
        return {self.kind: text, "signature": _signature(self.kind, text, key)}

    @classmethod
    def opened(cls, envelope: Any, key: bytes) -> Self:
        """Verify and read a signed document; PayloadError if it is malformed, or not signed with this key."""
        try:
            text, signature = envelope[cls.kind], envelope["signature"]
            if not hmac.compare_digest(signature, _signature(cls.kind, text, key)):
                raise PayloadError(f"the {cls.kind} was not signed with this deployment's key")
            document = json.loads(text)
            content = document.pop("content")
            return cls(**{**document, "content": content and Content(**content)})
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise PayloadError(f"this is not a {cls.kind}: {type(error).__name__}") from error


def _signature(kind: str, text: str, key: bytes) -> str:
    # With the kind, so that no answer passes for a call, nor a call for an answer.
    return hmac.digest(key, f"{kind}\n{text}".encode(), "sha256").hex()


@dataclass(frozen=True, slots=True)
class Call(Signed):
    """One try of a task.

    ``function`` is ``module:qualified.name``, or "" where the content holds the function itself. With ``each`` the
    content is a list of argument tuples, and the value the list of results.
    """

    kind = "sparklet_call"
    task_id: str
    function: str
    content: Content
    timeout_s: float  # for the function's work
    expires_s: float  # no worker begins it after this time of the caller's clock
    answer_inline_bytes: int  # a larger answer goes into the contents
    each: bool = False
    attempt: int = 1
    python: str = PYTHON

    @property
    def name(self) -> str:
        """The call's name in messages."""
        return self.function or f"task {self.task_id}"

    @property
    def record_id(self) -> str:
        """The id of this try's record in the ledger."""
        return f"{self.task_id}.{self.attempt}"


@dataclass(frozen=True, slots=True)
class Answer(Signed):
    """The result of a try: a value, an exception of the function, or the reason why it could not be called.

    ``raised``: the content has the exception, if it could be encoded. No content, not ``raised``: it was not called.
    """

    kind = "sparklet_answer"
    task_id: str
    content: Content | None
    raised: bool = False
    error: str = ""  # class and message, for people
    trace: str = ""  # the formatted traceback
    facts: Mapping[str, Any] = field(default_factory=dict)  # started_s, ended_s, memory_mb, cold, pid, log_stream, …
    classes: Sequence[str] = field(default_factory=list)  # of the exception and its bases, by ``class_name``


End = Answer | RemoteTaskError
"""How a try ended: with a worker's answer, or without one."""


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A large argument, or a function, stored once for all calls that have it."""

    content: Content


def encode(codec: Codec, value: Any, what: str = "") -> bytes:
    """A value's bytes; PayloadError if the codec cannot encode it, which says ``what`` it is."""
    try:
        if codec == "json":
            encoded = COMPACT.encode(value).encode()
            if json.loads(encoded, parse_constant=_refuse_constant) != value:
                raise TypeError("JSON changes it, as it changes tuples and keys that are not strings")
            return encoded
        if codec == "cloudpickle":
            import cloudpickle

            return bytes(cloudpickle.dumps(value))
        return pickle.dumps(value)
    except MemoryError:
        raise  # a larger worker may help
    except Exception as error:
        what, remedy = what or f"a {type(value).__name__}", '; put it into a module, or choose codec="cloudpickle"'
        if is_call := isinstance(value, list) and value and callable(value[0]):  # see ``encode_arguments``
            what = f"{getattr(value[0], '__qualname__', value[0])}, or an argument of it,"
        raise PayloadError(f"{what} cannot be encoded as {codec}: {error}{remedy if is_call else ''}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f'it holds {name}, which JSON lacks; use None in its place, or choose codec="pickle"')


def decode(codec: Codec, encoded: bytes) -> Any:
    """The value; any exception if a class cannot be imported here."""
    return json.loads(encoded) if codec == "json" else pickle.loads(encoded)  # noqa: S301 - its signature was checked


def encode_arguments(codec: Codec, function: Any, arguments: Any, contents: Contents) -> bytes:
    """``function`` (None: the call names it) and its arguments: ``(args, kwargs)``, or a list of args.

    Each large argument, and a function with what it holds, is stored once, in ``contents``. In JSON the arguments then
    are in an object, each in a list or as its ``Content``.
    """
    if codec == "json":  # it has no tuples
        arguments = [list(argument) if isinstance(argument, tuple) else argument for argument in arguments]
    encoded = encode(codec, arguments if function is None else [function, arguments], "an argument")
    if len(encoded) <= REPEATED_BYTES:
        return encoded
    shared: dict[int, Any] = {}  # by identity: what is one object for several calls stays one

    def one(argument: Any) -> Any:
        if id(argument) not in shared:
            if len(alone := encode(codec, argument)) > REPEATED_BYTES:
                content = Content.of(codec, alone, 0, contents)
                shared[id(argument)] = asdict(content) if codec == "json" else Stored(content)
            else:
                shared[id(argument)] = [argument] if codec == "json" else argument
        return shared[id(argument)]

    arguments = _mapped(one, arguments)
    if codec == "json":
        return encode(codec, {"arguments": arguments})
    return encode(codec, arguments if function is None else [one(function), arguments])


def restored(arguments: Any, contents: Contents) -> Any:
    """The arguments, with stored ones read."""

    @functools.cache
    def loaded(stored: Stored) -> Any:
        return decode(stored.content.codec, stored.content.read(contents))

    def unwrapped(argument: Any) -> Any:  # a JSON call must not choose another codec here: its worker unpickles nothing
        return argument[0] if isinstance(argument, list) else Stored(Content(**{**argument, "codec": "json"}))

    if isinstance(arguments, dict):
        arguments = _mapped(unwrapped, arguments["arguments"])
    return _mapped(lambda argument: loaded(argument) if isinstance(argument, Stored) else argument, arguments)


def _mapped(change: Callable[[Any], Any], arguments: Any) -> Any:
    return type(arguments)(
        {name: change(value) for name, value in part.items()} if isinstance(part, dict) else [*map(change, part)]
        for part in arguments
    )


class RemoteTraceback(Exception):  # noqa: N818 - it is a cause, never raised
    """The cause of a worker's exception: its text is the remote traceback, and its own traceback has those frames."""

    def __init__(self, tb: str) -> None:
        super().__init__(f"\n{tb}")
        self.tb = tb  # as the standard library's has it


def read(call: Call, end: End, contents: Contents) -> tuple[Any, BaseException | None]:
    """The value, or the error to raise. Unpickles only an answer to this call, in the call's own codec."""
    if isinstance(end, RemoteTaskError):
        return None, end
    content = end.content
    try:
        if end.task_id != call.task_id or (content and content.codec != call.content.codec):
            raise PayloadError("it belongs to another call")
        if content:
            decoded = decode(content.codec, content.read(contents))
            return (None, _exception_of(decoded, end)) if end.raised else (decoded, None)
    except BaseException as error:  # noqa: BLE001 - unpickling raises anything, even SystemExit
        cause = f"the answer cannot be read: {type(error).__name__}: {error}; {end.error}".rstrip("; ")
        return None, RemoteTaskError(cause, log_tail=end.trace, facts=end.facts)
    return None, RemoteTaskError(end.error, "" if end.raised else "refused", log_tail=end.trace, facts=end.facts)


def _exception_of(decoded: Any, end: Answer) -> BaseException:
    error, frames = decoded
    cause = RemoteTraceback(end.trace)
    if frames:
        from tblib import Traceback

        cause.__traceback__ = Traceback.from_dict(frames).as_traceback()
    error.__cause__ = cause
    return error  # type: ignore[no-any-return]
