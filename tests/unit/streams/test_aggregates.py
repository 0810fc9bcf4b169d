"""Aggregated Kinesis records are unpacked, and records that only look like aggregates are refused."""

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.connectors.streams import MAGIC, MAGIC_IN_BASE64, AggregateError, split_aggregate, user_records
from tests.aggregated import AWS_MADE, AWS_MADE_OF, aggregate, field, number, sealed, varint

KEYS = st.text(max_size=64).filter(lambda text: text.isprintable())
RECORDS = st.lists(st.tuples(KEYS, st.binary(max_size=300)), max_size=20)


@given(RECORDS)
def test_all_records_come_out_in_order(records: list[tuple[str, bytes]]) -> None:
    assert user_records(aggregate(records)) == records


def test_unknown_fields_are_skipped() -> None:
    tags = field(4, field(1, b"tag") + field(2, b"value"))
    unknown = number(9, 2**63) + varint(10 << 3 | 1) + bytes(8) + varint(11 << 3 | 5) + bytes(4)
    record = field(3, tags + number(2, 0) + field(3, b"data") + number(1, 1))

    message = record + unknown + field(1, b"k0") + field(2, b"17") + field(1, b"k1")  # any order is allowed

    assert user_records(sealed(message)) == [("k1", b"data")]


def test_one_wrong_byte_anywhere_is_found() -> None:
    for position in range(len(MAGIC), len(AWS_MADE)):
        broken = bytearray(AWS_MADE)
        broken[position] ^= 0x20
        with pytest.raises(AggregateError, match="digest"):
            user_records(bytes(broken))


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (b'{"id": 1}', "does not begin"),
        *(((MAGIC + bytes(20))[:length], "digest") for length in (4, 10, 19)),  # too short for an aggregate
    ],
)
def test_a_record_that_is_not_an_aggregate_is_refused(record: bytes, why: str) -> None:
    with pytest.raises(AggregateError, match=why):
        user_records(record)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (field(3, number(1, 0) + field(3, b"x")), "without partition key"),
        (field(1, b"k") + field(3, number(1, 7) + field(3, b"x")), "without partition key"),
        (field(1, b"k") + field(3, number(1, 0)), "without partition key or data"),
        (field(1, b"k") + field(3, field(1, b"0") + field(3, b"x")), "without partition key or data"),
        (number(3, 5), "number where bytes"),
        (field(1, b"\xff"), "not UTF-8"),
        (field(1, b"k" * 257), "more than 256 characters"),
        (varint(1 << 3 | 2) + varint(100) + b"short", "in the middle of a field"),
        (varint(1 << 3 | 1) + b"123", "in the middle of a field"),
        (varint(1 << 3 | 3), "unknown type 3"),
        (b"\x80" * 11, "does not end"),
        (b"\x08", "does not end"),
    ],
)
def test_a_valid_digest_with_a_wrong_shape_is_refused(message: bytes, why: str) -> None:
    with pytest.raises(AggregateError, match=why):
        user_records(sealed(message))


@given(st.binary(max_size=200))
def test_no_message_crashes_the_parser(message: bytes) -> None:
    with contextlib.suppress(AggregateError):
        user_records(sealed(message))


def test_spark_gets_a_reason_instead_of_an_error() -> None:
    assert split_aggregate(None) is None
    assert split_aggregate(AWS_MADE) == (None, AWS_MADE_OF)
    assert split_aggregate(MAGIC + bytes(16)) == ("the aggregate's digest is wrong", [])
    assert split_aggregate(sealed(b"")) == (None, [])


@given(st.binary(max_size=8))
def test_the_driver_recognises_aggregates_by_their_base64(rest: bytes) -> None:
    assert base64.b64encode(MAGIC + rest).decode().startswith(MAGIC_IN_BASE64)
