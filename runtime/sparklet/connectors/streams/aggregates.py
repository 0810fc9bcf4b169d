"""Aggregated Kinesis records, which the Kinesis Producer Library makes of many small records.

::

    F3 89 9A C2 | AggregatedRecord, a protocol buffers message | MD5 of the message, 16 bytes

    message AggregatedRecord { repeated string partition_key_table = 1;
                               repeated string explicit_hash_key_table = 2;
                               repeated Record records = 3; }
    message Record { required uint64 partition_key_index = 1; optional uint64 explicit_hash_key_index = 2;
                     required bytes data = 3; repeated Tag tags = 4; }

It runs in Spark's Python workers, which may have the standard library alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Union

MAGIC = b"\xf3\x89\x9a\xc2"
MAGIC_IN_BASE64 = "84maw"  # how the base64 of every record that begins with MAGIC begins
DIGEST_BYTES = 16
MAX_KEY = 256  # characters Kinesis allows in a partition key

VARINT, EIGHT_BYTES, LENGTH_DELIMITED, FOUR_BYTES = 0, 1, 2, 5  # protocol buffers' wire types
PARTITION_KEYS, RECORDS = 1, 3  # fields of AggregatedRecord
KEY_INDEX, DATA = 1, 3  # fields of Record

UserRecord = tuple[str, bytes]  # partition key, data
Value = Union[int, bytes]  # noqa: UP007 - evaluated, and Python 3.9 knows no other syntax


class AggregateError(ValueError):
    """A record begins like an aggregated one but is malformed."""


def user_records(aggregate: bytes) -> list[UserRecord]:
    """The records in an aggregated one, in order; raises AggregateError if its digest or its message is wrong."""
    if not aggregate.startswith(MAGIC):
        raise AggregateError("it does not begin as an aggregated record does")
    message, digest = aggregate[len(MAGIC) : -DIGEST_BYTES], aggregate[-DIGEST_BYTES:]
    md5 = hashlib.md5(message, usedforsecurity=False)  # the format's checksum
    if len(aggregate) < len(MAGIC) + DIGEST_BYTES or md5.digest() != digest:
        raise AggregateError("the aggregate's digest is wrong")
    keys: list[str] = []
    records: list[bytes] = []
    for number, value in _fields(message):
        if number == PARTITION_KEYS:
            keys.append(_key(value))
        elif number == RECORDS:
            records.append(_bytes(value))
    return [_user_record(record, keys) for record in records]


def opened(aggregate: bytes | None) -> tuple[str | None, list[UserRecord]] | None:
    """``user_records`` for Spark: the aggregate's fault or None, and its records; None for None."""
    if aggregate is None:
        return None
    try:
        return None, user_records(bytes(aggregate))
    except AggregateError as error:
        return str(error), []


def _user_record(record: bytes, keys: list[str]) -> UserRecord:
    fields = dict(_fields(record))  # of a repeated field the last one counts
    index, data = fields.get(KEY_INDEX), fields.get(DATA)
    if not isinstance(index, int) or not isinstance(data, bytes) or index >= len(keys):
        raise AggregateError("the aggregate holds a record without partition key or data")
    return keys[index], data


def _fields(message: bytes) -> Iterator[tuple[int, Value]]:
    """Number and value of each field; 0 for fields of fixed size, which this format does not use."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        value: Value = 0
        if kind == VARINT:
            value, position = _varint(message, position)
        elif kind == LENGTH_DELIMITED:
            size, position = _varint(message, position)
            value = message[position : position + size]
            position += size
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            position += 8 if kind == EIGHT_BYTES else 4
        else:
            raise AggregateError(f"the aggregate has a field of the unknown kind {kind}")
        if position > len(message):
            raise AggregateError("the aggregate ends in the middle of a field")
        yield number, value


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """The number at ``position``, seven bits a byte, and where it ends."""
    value = 0
    # 64 bits take ten bytes: without the limit damage could become a number as long as the message.
    for count, byte in enumerate(message[position : position + 10]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, position + count + 1
    raise AggregateError("the aggregate holds a number without an end")


def _key(value: Value) -> str:
    """A partition key; many records may name it, so a long one would fill the memory."""
    try:
        key = _bytes(value).decode("utf-8")
    except UnicodeDecodeError:
        raise AggregateError("the aggregate has a partition key that is not UTF-8") from None
    if len(key) > MAX_KEY:
        raise AggregateError(f"the aggregate has a partition key of more than {MAX_KEY} characters")
    return key


def _bytes(value: Value) -> bytes:
    if isinstance(value, int):
        raise AggregateError("the aggregate has a number where bytes must be")
    return value
