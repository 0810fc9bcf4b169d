"""Aggregated Kinesis records for tests, encoded as protocol buffers specify, without any code of Sparklet.

``AWS_MADE`` is what AWS's own library (aws-kinesis-agg 1.2.3, RecordAggregator.add_user_record) once made of the
records in ``AWS_MADE_OF``; the second record has an explicit hash key. The library itself is not among the locked
packages: it imports ``six`` without declaring it, and its generated code needs protobuf below 4.
"""

import hashlib
from collections.abc import Sequence

MAGIC = bytes.fromhex("F3899AC2")

AWS_MADE_OF = [
    ("sensor-1", b'{"sensor": "a", "celsius": 21.5}'),
    ("sensor-2", b'{"sensor": "b", "celsius": -3.0}'),
    ("sensor-1", '{"sensor": "grün", "celsius": 0}'.encode()),
]
AWS_MADE = bytes.fromhex(
    "f3899ac20a0873656e736f722d310a0873656e736f722d3212273137303134313138333436303436393233313733313638373330333731"
    "353838343130353732381a2408001a207b2273656e736f72223a202261222c202263656c73697573223a2032312e357d1a26080110001a"
    "207b2273656e736f72223a202262222c202263656c73697573223a202d332e307d1a2508001a217b2273656e736f72223a20226772c3bc"
    "6e222c202263656c73697573223a20307dd78a3fba7e780e419179c0f7d43916ef"
)


def aggregate(records: Sequence[tuple[str, bytes]], keys: Sequence[str] = ()) -> bytes:
    """Return one aggregated record of ``(partition key, data)`` pairs; its table of keys begins with ``keys``."""
    table = list(dict.fromkeys([*keys, *(key for key, _ in records)]))
    message = b"".join(field(1, key.encode()) for key in table)
    for key, data in records:
        message += field(3, number(1, table.index(key)) + field(3, data))
    return sealed(message)


def sealed(message: bytes) -> bytes:
    """Return a message with the magic bytes before it and its digest behind it."""
    return MAGIC + message + hashlib.md5(message).digest()


def field(tag: int, content: bytes) -> bytes:
    """Encode a field that holds bytes."""
    return varint(tag << 3 | 2) + varint(len(content)) + content


def number(tag: int, value: int) -> bytes:
    """Encode a field that holds a number."""
    return varint(tag << 3) + varint(value)


def varint(value: int) -> bytes:
    """Encode a number with seven bits per byte, the lowest bits first."""
    encoded = b""
    while value >= 0x80:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])
