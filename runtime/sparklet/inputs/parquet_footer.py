"""Parquet's footer: which row groups there are, where their bytes lie, and the same footer with only some of them.

It reads as much of Thrift's compact protocol as that needs. A shortened footer keeps the bytes of what stays.

::

    FileMetaData { 3: num_rows, 4: [RowGroup { 1: [ColumnChunk { 1: file_path, 3: ColumnMetaData { 7: compressed size,
        9, 11: offsets of pages, 14, 15: bloom filter }, 4-7: offset and column index }], 3: num_rows }] }
"""

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAGIC, ENCRYPTED_MAGIC = b"PAR1", b"PARE"
TRAILER_BYTES = 8  # length of the footer, magic
TAIL_BYTES = 64 * 1024  # most footers lie within
MAX_FOOTER_BYTES = 256 * 1024 * 1024
HEADER_PADDING_BYTES = 100  # writers before parquet-mr 1.3 left the dictionary's header out of a chunk's size
MAX_DEPTH = 32
MAX_NUMBER_BITS = 63

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT, _UUID = 1, 2, 3, 7, 8, 9, 10, 11, 12, 13
_I64 = 6
_INTEGERS = (4, 5, _I64)


Read = Callable[[int, int], bytes]
"""Bytes of the file: offset, length."""


class FooterError(ValueError):
    """The file is not Parquet, or of a kind that cannot be cut; the message fits behind 'because'."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group, as the footer describes it."""

    rows: int
    size_bytes: int  # stored: pages, and indexes and filters whose lengths are given
    pieces: tuple[tuple[int, int | None], ...]  # offset and length of pages, indexes, filters; None: not given
    document: bytes  # itself, within the footer


@dataclass(frozen=True, slots=True)
class Footer:
    """A file's footer, taken apart."""

    row_groups: tuple[RowGroup, ...]
    start: int  # where it begins in the file
    _around: tuple[bytes, bytes, bytes]  # before num_rows' value, between it and the row groups, behind them

    def ranges(self, first: int, end: int, gap_bytes: int = 0) -> list[tuple[int, int]]:
        """Where all of the row groups ``first`` to ``end - 1`` lies: sorted, with more than ``gap_bytes`` between."""
        starts = sorted({offset for group in self.row_groups for offset, _ in group.pieces} | {self.start})
        wanted = []
        for group in self.row_groups[first:end]:
            for offset, length in group.pieces:
                after = starts[bisect_right(starts, offset)] if offset < self.start else self.start
                wanted.append((offset, min(self.start, after if length is None else offset + length)))
        return _merged(sorted(wanted), gap_bytes)

    def shortened(self, first: int, end: int) -> bytes:
        """The footer, length and magic included, of a file that has only these row groups."""
        kept = self.row_groups[first:end]
        rows = _varint(2 * sum(group.rows for group in kept))  # zigzag of a number from 0
        head = bytes([len(kept) << 4 | _STRUCT]) if len(kept) < 15 else bytes([0xF0 | _STRUCT]) + _varint(len(kept))
        before, between, behind = self._around
        document = b"".join((before, rows, between, head, *(group.document for group in kept), behind))
        return document + struct.pack("<I", len(document)) + MAGIC


def load_footer(read: Read, size_bytes: int) -> Footer:
    """Read a file's footer and take it apart; FooterError if the file is not Parquet, or cannot be cut."""
    return read_footer(*fetch_footer(read, size_bytes))


def fetch_footer(read: Read, size_bytes: int) -> tuple[bytes, int]:
    """A file's footer, without length and magic, mostly with one read, and where it lies; FooterError as above."""
    tail_bytes = min(TAIL_BYTES, size_bytes)
    tail = read(size_bytes - tail_bytes, tail_bytes)
    length = _footer_bytes(tail, size_bytes)
    start = size_bytes - TRAILER_BYTES - length
    within = tail_bytes - TRAILER_BYTES - length
    return tail[within:-TRAILER_BYTES] if within >= 0 else read(start, length), start


def _footer_bytes(tail: bytes, size_bytes: int) -> int:
    """The length of a file's footer, without length and magic, from the file's last bytes."""
    if tail.endswith(ENCRYPTED_MAGIC):
        raise FooterError("its Parquet footer is encrypted")
    if len(tail) < TRAILER_BYTES or not tail.endswith(MAGIC):
        raise FooterError("it does not end as Parquet does")
    length: int = struct.unpack("<I", tail[-TRAILER_BYTES:-4])[0]
    if length + TRAILER_BYTES + len(MAGIC) > size_bytes:
        raise FooterError("it ends like Parquet, but is shorter than its footer")
    if length > MAX_FOOTER_BYTES:
        raise FooterError(f"its Parquet footer is longer than {MAX_FOOTER_BYTES // 1024**2} MiB")
    return length


def read_footer(document: bytes, start: int) -> Footer:
    """Take a footer apart: its bytes without length and magic, and where they lie in the file."""
    reader = _Compact(document)
    rows = groups_at = (0, 0)
    groups: tuple[RowGroup, ...] = ()
    try:
        for number, kind in reader.fields():
            at = reader.at
            if number == 3 and kind == _I64:
                reader.varint()
                rows = (at, reader.at)
            elif number == 4 and kind == _LIST:
                groups = tuple(_row_group(reader) for _ in range(_list_of_structs(reader)))
                groups_at = (at, reader.at)
            else:
                reader.skip(kind)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise FooterError(f"its Parquet footer cannot be read ({type(error).__name__}: {error})") from error
    if not 0 < rows[0] < groups_at[0]:
        raise FooterError("its Parquet footer has no row groups")
    around = document[: rows[0]], document[rows[1] : groups_at[0]], document[groups_at[1] :]
    return Footer(groups, start, around)


def _list_of_structs(reader: "_Compact") -> int:
    count, kind = reader.list_head()
    if count and kind != _STRUCT:
        raise FooterError("its Parquet footer cannot be read (row groups are no structs)")
    return count


def _row_group(reader: "_Compact") -> RowGroup:
    at = reader.at
    fields = reader.struct(
        {1: {1: None, 3: {7: None, 9: None, 11: None, 14: None, 15: None}, **dict.fromkeys((4, 5, 6, 7))}}
    )
    pages, pieces, others = 0, [], []
    for chunk in fields[1]:
        if chunk.get(1):
            raise FooterError("its columns lie in other files")
        if 3 not in chunk:
            raise FooterError("its columns are encrypted")
        size, offset = _pages(chunk[3])
        pages += size
        pieces.append((offset, size + HEADER_PADDING_BYTES))
        others += [(chunk[of], chunk[of + 1]) for of in (4, 6) if chunk.get(of)]
        if chunk[3].get(14):
            others.append((chunk[3][14], chunk[3].get(15)))
    pieces += others
    if any(offset < 0 or (length or 0) < 0 for offset, length in pieces) or fields[3] < 0:
        raise FooterError("its Parquet footer names places before the file")
    size_bytes = pages + sum(length or 0 for _, length in others)
    return RowGroup(fields[3], size_bytes, tuple(pieces), reader.data[at : reader.at])


def _pages(meta: Mapping[int, int]) -> tuple[int, int]:
    """Stored size and beginning of a column's pages; its dictionary lies first, where it has one."""
    data, dictionary = meta[9], meta.get(11, 0)
    return meta[7], min(data, dictionary) if dictionary > 0 else data


def _merged(ranges: Iterable[tuple[int, int]], gap_bytes: int) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in ranges:
        if merged and start <= merged[-1][1] + gap_bytes:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif start < end:
            merged.append((start, end))
    return merged


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


class _Compact:
    """Reads Thrift's compact protocol."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def varint(self) -> int:
        """An unsigned number."""
        number = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7
            if shift > MAX_NUMBER_BITS:
                raise FooterError("its Parquet footer cannot be read (a number without end)")

    def zigzag(self) -> int:
        """A signed number."""
        number = self.varint()
        return (number >> 1) ^ -(number & 1)

    def fields(self) -> Iterator[tuple[int, int]]:
        """Number and kind of each field of a struct; the caller reads its value before the next."""
        number = 0
        while head := self.data[self.at]:
            self.at += 1
            number = number + (head >> 4) if head >> 4 else self.zigzag()
            yield number, head & 0x0F
        self.at += 1

    def list_head(self) -> tuple[int, int]:
        """How many elements of which kind follow."""
        head = self.data[self.at]
        self.at += 1
        return (self.varint() if head >> 4 == 15 else head >> 4), head & 0x0F

    def struct(self, wanted: Mapping[int, Any], depth: int = 0) -> dict[int, Any]:
        """The integers and texts of a struct, and of those structs and lists of structs that ``wanted`` names."""
        read: dict[int, Any] = {}
        for number, kind in self.fields():
            inner = wanted.get(number)
            if kind in _INTEGERS:
                read[number] = self.zigzag()
            elif kind == _BINARY:
                read[number] = self._bytes(self.varint())
            elif kind == _STRUCT and inner is not None:
                read[number] = self.struct(inner, depth + 1)
            elif kind == _LIST and inner is not None:
                read[number] = [self.struct(inner, depth + 1) for _ in range(_list_of_structs(self))]
            else:
                self.skip(kind)
        return read

    def skip(self, kind: int, depth: int = 0) -> None:
        """Pass over a value."""
        if depth > MAX_DEPTH:
            raise FooterError(f"its Parquet footer is nested more than {MAX_DEPTH} deep")
        if kind in _INTEGERS:
            self.varint()
        elif kind in (_BYTE, _DOUBLE, _BINARY, _UUID):
            self._bytes({_BYTE: 1, _DOUBLE: 8, _UUID: 16}.get(kind) or self.varint())
        elif kind in (_LIST, _SET):
            count, element = self.list_head()
            self._skip_elements(count, (element,), depth)
        elif kind == _MAP:
            if count := self.varint():
                kinds = self._bytes(1)[0]
                self._skip_elements(count, (kinds >> 4, kinds & 0x0F), depth)
        elif kind == _STRUCT:
            for _, inner in self.fields():
                self.skip(inner, depth + 1)
        elif kind not in (_TRUE, _FALSE):
            raise FooterError(f"its Parquet footer cannot be read (a value of kind {kind})")

    def _skip_elements(self, count: int, kinds: tuple[int, ...], depth: int) -> None:
        if count > len(self.data) - self.at:
            raise FooterError("its Parquet footer cannot be read (it ends within a list)")
        for _ in range(count):
            for kind in kinds:
                if kind in (_TRUE, _FALSE):  # a byte each, within a list
                    self._bytes(1)
                else:
                    self.skip(kind, depth + 1)

    def _bytes(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise FooterError("its Parquet footer cannot be read (it ends within a value)")
        self.at += count
        return self.data[self.at - count : self.at]
