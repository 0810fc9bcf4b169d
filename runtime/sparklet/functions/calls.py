"""A call of a function and its answer as they are sent: signed JSON documents, with large contents by reference.

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
REPEATED_BYTES = 64 * 1024  # a larger argument is stored once for all calls that share it
COMPACT = json.JSONEncoder(separators=(",", ":"))
MAX_CONTENT_BYTES = 5 * 1024**3  # S3's limit of one request


class Contents(Protocol):
    """The store of large contents."""

    def put(self, name: str, content: bytes) -> str:
        """Store a content under its digest; return its URI. Can be called twice. ObjectStoreError if storing fails."""

    def get(self, uri: str) -> bytes:
        """Read a content; ObjectStoreError if it does not exist, PayloadError if the URI is outside the folder."""


@dataclass(frozen=True, slots=True)
class Content:
    """An encoded value: in the document itself, or at a URI."""

    codec: Codec
    size_bytes: int
    text: str = ""  # JSON, or base64 of a pickle
    uri: str = ""
    sha256: str = ""  # of the file at the URI

    @classmethod
    def of(cls, codec: Codec, encoded: bytes, inline_bytes: int, contents: Contents) -> Self:
        """Make a content; more than ``inline_bytes`` are stored in ``contents``. PayloadError if it is too large."""
        size_bytes = len(encoded)
        if size_bytes <= inline_bytes:
            text = encoded.decode() if codec == "json" else base64.b64encode(encoded).decode("ascii")
            return cls(codec, size_bytes, text)
        if size_bytes > MAX_CONTENT_BYTES:
            raise PayloadError(f"{size_bytes} bytes are too many for a call or an answer: at most {MAX_CONTENT_BYTES}")
        digest = hashlib.sha256(encoded).hexdigest()
        return cls(codec, size_bytes, uri=contents.put(digest, encoded), sha256=digest)

    def read(self, contents: Contents) -> bytes:
        """The encoded value; PayloadError if the stored bytes do not have the signed digest."""
        if not self.uri:
            return self.text.encode() if self.codec == "json" else base64.b64decode(self.text)
        encoded = contents.get(self.uri)
        if hashlib.sha256(encoded).hexdigest() != self.sha256:
            raise PayloadError(f"the content of {self.uri} does not have the digest that was signed")
        return encoded


class Signed:
    """A document with a signature over its text."""

    __slots__ = ()
    kind: ClassVar[str]
    content: Content | None

    def sealed(self, key: bytes) -> dict[str, str]:
        """The signed document: ``{"sparklet_call": text, "signature": hex}``; an answer's has ``sparklet_answer``."""
        # The text that is sent is signed itself: a document that the reader encodes again could have other bytes.
        text = COMPACT.encode(asdict(self))  # type: ignore[call-overload]
        return {self.kind: text, "signature": _signature(self.kind, text, key)}

    @classmethod
    def opened(cls, envelope: Any, key: bytes) -> Self:
        """Verify and read a signed document; PayloadError if it is malformed or not signed with this key."""
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
    # The kind is signed, too, so that an answer is not accepted as a call, or a call as an answer.
    return hmac.digest(key, f"{kind}\n{text}".encode(), "sha256").hex()


@dataclass(frozen=True, slots=True)
class Call(Signed):
    """One try of a task.

    ``function`` is ``module:qualified.name``, or "" if the content has the function itself. With ``each`` the content
    is a list of argument tuples, and the answer's content is the list of their results.
    """

    kind = "sparklet_call"
    task_id: str
    function: str
    content: Content
    timeout_s: float  # the time limit of the function's work
    expires_s: float  # a time of the caller's clock after which no worker begins the call
    answer_inline_bytes: int  # a larger answer is stored in the contents
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

    If the function ``raised``, the content is the exception, or None if that could not be encoded. If there is neither
    ``raised`` nor a content, the function was not called.
    """

    kind = "sparklet_answer"
    task_id: str
    content: Content | None
    raised: bool = False
    error: str = ""  # class and message, for people
    trace: str = ""  # the formatted traceback
    facts: Mapping[str, Any] = field(default_factory=dict)  # started_s, ended_s, memory_mb, cold, pid, log_stream, …
    classes: Sequence[str] = field(default_factory=list)  # the exception's class and its bases, by ``class_name``


TryResult = Answer | RemoteTaskError
"""The result of a try: a worker's answer, or the reason why there is none."""


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A large argument, or a function, that is stored once for all calls that share it."""

    content: Content


def encode(codec: Codec, value: Any, description: str = "") -> bytes:
    """Encode a value, which an error calls by its ``description``; PayloadError if the codec cannot encode it."""
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
        subject, remedy = description or f"a {type(value).__name__}", ""
        if isinstance(value, list) and value and callable(value[0]):  # a call with its function: ``encode_arguments``
            subject = f"{getattr(value[0], '__qualname__', value[0])}, or an argument of it,"
            remedy = '; put it into a module, or choose codec="cloudpickle"'
        raise PayloadError(f"{subject} cannot be encoded as {codec}: {error}{remedy}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f'it holds {name}, which JSON lacks; use None in its place, or choose codec="pickle"')


def decode(codec: Codec, encoded: bytes) -> Any:
    """Decode a value; any exception can be raised, for example if a class cannot be imported here."""
    return json.loads(encoded) if codec == "json" else pickle.loads(encoded)  # noqa: S301 - its signature was checked


def encode_arguments(codec: Codec, function: Any, arguments: Any, contents: Contents) -> bytes:
    """Encode a call's arguments, ``(args, kwargs)`` or a list of args, and its ``function`` unless that is None.

    Each large argument is stored once in ``contents`` for all calls that share it; so is a function with the values
    that it holds. In JSON such arguments are in an object, each in a list of its own or as its ``Content``.
    """
    if codec == "json":  # it has no tuples
        arguments = [list(argument) if isinstance(argument, tuple) else argument for argument in arguments]
    encoded = encode(codec, arguments if function is None else [function, arguments], "an argument")
    if len(encoded) <= REPEATED_BYTES:
        return encoded
    by_identity: dict[int, Any] = {}  # an object that several calls share is stored, and decoded, once

    def stored_if_large(argument: Any) -> Any:
        if id(argument) not in by_identity:
            if len(encoded_argument := encode(codec, argument)) > REPEATED_BYTES:
                content = Content.of(codec, encoded_argument, 0, contents)
                by_identity[id(argument)] = asdict(content) if codec == "json" else Stored(content)
            else:
                by_identity[id(argument)] = [argument] if codec == "json" else argument
        return by_identity[id(argument)]

    arguments = _map_arguments(stored_if_large, arguments)
    if codec == "json":
        return encode(codec, {"arguments": arguments})
    return encode(codec, arguments if function is None else [stored_if_large(function), arguments])


def read_stored(arguments: Any, contents: Contents) -> Any:
    """Return the arguments as the caller had them: those that ``encode_arguments`` stored are read."""

    @functools.cache
    def value_of(stored: Stored) -> Any:
        return decode(stored.content.codec, stored.content.read(contents))

    def from_json(argument: Any) -> Any:
        # A JSON call must not choose another codec for a content: its worker unpickles nothing.
        return argument[0] if isinstance(argument, list) else Stored(Content(**{**argument, "codec": "json"}))

    if isinstance(arguments, dict):
        arguments = _map_arguments(from_json, arguments["arguments"])
    return _map_arguments(lambda argument: value_of(argument) if isinstance(argument, Stored) else argument, arguments)


def _map_arguments(change: Callable[[Any], Any], arguments: Any) -> Any:
    """Change each argument of ``(args, kwargs)``, or of a list of args."""
    return type(arguments)(
        {name: change(value) for name, value in part.items()} if isinstance(part, dict) else [*map(change, part)]
        for part in arguments
    )


class RemoteTraceback(Exception):  # noqa: N818 - it is a cause, never raised
    """The cause of a worker's exception: its text is the worker's traceback, and its own traceback has those frames."""

    def __init__(self, tb: str) -> None:
        super().__init__(f"\n{tb}")
        self.tb = tb  # the name that the standard library uses, too


def read(call: Call, result: TryResult, contents: Contents) -> tuple[Any, BaseException | None]:
    """Read a result: the value and None, or None and the error to raise.

    Only an answer to this call, in the call's own codec, is unpickled.
    """
    if isinstance(result, RemoteTaskError):
        return None, result
    content = result.content
    try:
        if result.task_id != call.task_id or (content and content.codec != call.content.codec):
            raise PayloadError("the payload answers another call")
        if content:
            decoded = decode(content.codec, content.read(contents))
            return (None, _exception_of(decoded, result)) if result.raised else (decoded, None)
    except BaseException as error:  # noqa: BLE001 - unpickling raises anything, even SystemExit
        cause = f"the answer cannot be read: {type(error).__name__}: {error}; {result.error}".rstrip("; ")
        return None, RemoteTaskError(cause, log_tail=result.trace, facts=result.facts)
    reason = "" if result.raised else "refused"
    return None, RemoteTaskError(result.error, reason, log_tail=result.trace, facts=result.facts)


def _exception_of(decoded: Any, answer: Answer) -> BaseException:
    error, frames = decoded
    cause = RemoteTraceback(answer.trace)
    if frames:
        from tblib import Traceback

        cause.__traceback__ = Traceback.from_dict(frames).as_traceback()
    error.__cause__ = cause
    return error  # type: ignore[no-any-return]
