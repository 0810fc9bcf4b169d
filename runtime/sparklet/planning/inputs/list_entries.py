"""The object that a row of a list names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from sparklet.errors import SparkletError
from sparklet.model import SCHEME

KNOWN_NAMES = frozenset(
    {
        *("uri", "bucket", "key", "versionid", "islatest", "isdeletemarker", "size", "sizebytes", "etag"),
        *("lastmodified", "lastmodifieddate", "storageclass", "intelligenttieringaccesstier"),
    }
)
MAX_KEY_BYTES = 1024
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
TIERS = frozenset({"ARCHIVE", "ARCHIVE_ACCESS", "DEEP_ARCHIVE", "DEEP_ARCHIVE_ACCESS"})


class RowError(SparkletError):
    """A row is wrong; ``row`` counts from 1 as the list's own format does."""

    def __init__(self, problem: str, row: int = 0) -> None:
        super().__init__(problem)
        self.row = row


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as a list names it; None: not in the list."""

    uri: str
    version_id: str = ""
    size_bytes: int | None = None
    etag: str | None = None
    modified_s: float | None = None
    archived: bool = False  # when the list was written; it may have been restored since
    deleted: bool = False
    latest: bool | None = None
    partition: tuple[str, ...] = ()  # of a table of the catalog: the values of its columns


def entry_of(value: object) -> Entry:
    """The object that a row names; RowError if a value is not possible."""
    if isinstance(value, str):
        return Entry(address_of(value))
    if not isinstance(value, Mapping):
        raise RowError(f"{_short(value)} is neither an address nor has it columns; write s3://bucket/key")
    row = {plain(str(name)): cell for name, cell in value.items()}
    tier = _text(row, "intelligenttieringaccesstier")
    return Entry(
        uri=_address(row),
        version_id=_text(row, "versionid"),
        size_bytes=_size(row.get("size", row.get("sizebytes"))),
        etag=_text(row, "etag").strip('"') or None,
        modified_s=_time(row.get("lastmodifieddate", row.get("lastmodified"))),
        archived=_text(row, "storageclass") in ARCHIVES or tier in TIERS,
        deleted=_flag(row.get("isdeletemarker")) or False,
        latest=_flag(row.get("islatest")),
    )


@lru_cache(maxsize=256)
def plain(name: str) -> str:
    """A column's name without case and punctuation: LastModified and last_modified are the same."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def address_of(text: str) -> str:
    """``s3://bucket/key`` of an address with or without the scheme; the key is taken literally."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme in ("s3", "s3a", "s3n"):
        text = rest
    # A key may hold :// itself, so only what could be a scheme is refused as one.
    elif separator and BUCKET.fullmatch(scheme):
        raise RowError(f"{_short(text)} is no address in S3; write s3://bucket/key")
    bucket, _, key = text.partition("/")
    return _joined(bucket, key, text)


def _joined(bucket: str, key: str, text: object) -> str:
    if not BUCKET.fullmatch(bucket) or not key:
        raise RowError(f"{_short(text)} names no object; write s3://bucket/key, or bucket/key")
    if len(key.encode(errors="replace")) > MAX_KEY_BYTES:
        raise RowError(f"{_short(text)} has a key of more than {MAX_KEY_BYTES} bytes, which S3 cannot hold")
    return f"{SCHEME}{bucket}/{key}"


def _address(row: Mapping[str, object]) -> str:
    if "uri" in row:
        return address_of(_text(row, "uri"))
    if "bucket" in row and "key" in row:
        bucket, key = _text(row, "bucket"), _text(row, "key")
        return _joined(bucket, key, f"{bucket}/{key}")
    raise RowError(
        f"no column is called uri, or bucket and key, only {', '.join(row)[:400] or 'nothing'}; name them so"
    )


def _text(row: Mapping[str, object], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError(f"{name} is {_short(value)}, which is no text")
    return value


def _size(value: object) -> int | None:
    if value is None or value == "":
        return None
    try:
        # In Python true is an int, too, and would be a size of 1.
        size = int(value) if isinstance(value, str | int) and not isinstance(value, bool) else -1
    except ValueError:
        size = -1
    if size < 0:
        raise RowError(f"size is {_short(value)}, which is no number of bytes")
    return size


def _time(value: object) -> float | None:
    if value is None or value == "":
        return None
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        pass
    raise RowError(f"the time is {_short(value)}; write it as 2013-01-31T12:00:00Z")


def _flag(value: object) -> bool | None:
    if value is None or value == "":
        return None
    if str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise RowError(f"{_short(value)} is neither true nor false")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
