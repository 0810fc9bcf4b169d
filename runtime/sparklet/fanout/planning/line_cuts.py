"""Where a file of lines can be cut: a window is read around each place, not the file."""

from collections.abc import Callable

HEAD_BYTES = 64 * 1024
WINDOW_BYTES = 64 * 1024  # the first look around a cut; doubled until a line feed is in it
MAX_WINDOW_BYTES = 1024 * 1024
MAX_DISTANCE_BYTES = 8 * 1024 * 1024  # how far from a wanted cut a line feed is looked for, in each direction
MAX_HEADER_BYTES = 1024 * 1024

UTF8_MARK = b"\xef\xbb\xbf"
OTHERS = {  # how a file begins that is none of lines, or whose line breaks are not one byte
    b"\xff\xfe": "UTF-16 or UTF-32",
    b"\xfe\xff": "UTF-16",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\x1f\x8b": "compressed as a whole",
    b"BZh": "compressed as a whole",
    b"\x28\xb5\x2f\xfd": "compressed as a whole",
    b"\xfd7zXZ\x00": "compressed as a whole",
    b"\x04\x22\x4d\x18": "compressed as a whole",
    b"PK\x03\x04": "compressed as a whole",
    b"PAR1": "Parquet, not lines",
    b"ORC": "ORC, not lines",
    b"Obj\x01": "Avro, not lines",
}

Read = Callable[[int, int], bytes]
"""Bytes of the file from an offset, so many at most."""


class CannotCutError(Exception):
    """The object has to be planned whole; the message says why."""


def cut_lines(read: Read, size_bytes: int, target_bytes: int, *, with_header: bool) -> tuple[int, list[int]]:
    """How many bytes the header has (0 without one), and where to cut behind it.

    No part is longer than ``target_bytes``, unless a line is, or much shorter than half of it. Where lines are longer
    than 8 MiB a part may take in several targets: it still begins and ends with a line.
    """
    head = read(0, min(HEAD_BYTES, size_bytes))
    for mark, what in OTHERS.items():
        if head.startswith(mark):
            raise CannotCutError(what)
    if b"\0" in head:
        raise CannotCutError("holds zero bytes, as UTF-16 does")
    header_bytes = _header_bytes(read, head, size_bytes) if with_header else 0
    cuts: list[int] = []
    start, wanted = header_bytes, max(_even(0, size_bytes, target_bytes), header_bytes + 1)
    while wanted < size_bytes:
        cut = _before(read, start, wanted) or _after(read, wanted, size_bytes)
        if cut == size_bytes:
            break
        if cut:
            cuts.append(cut)
            start, wanted = cut, _even(cut, size_bytes, target_bytes)
        else:
            wanted += target_bytes
    return header_bytes, cuts


def _even(start: int, size_bytes: int, target_bytes: int) -> int:
    """Where the next part should end if all that follow are to be alike: no sliver is left at the end."""
    rest = size_bytes - start
    parts = -(-rest // target_bytes)
    return start + -(-rest // parts)


def _header_bytes(read: Read, head: bytes, size_bytes: int) -> int:
    """Up to and with the first line that is not blank, as Spark finds the header; byte order mark included."""
    if _header_end(head) is None and len(head) < size_bytes:
        head = read(0, min(MAX_HEADER_BYTES, size_bytes))
    end = _header_end(head)
    if end is None:
        raise CannotCutError("no line feed ends its header within 1 MiB")
    if head.count(b'"', 0, end) % 2:
        raise CannotCutError("its header goes over several lines")
    return end


def _header_end(head: bytes) -> int | None:
    at = len(UTF8_MARK) if head.startswith(UTF8_MARK) else 0
    while end := head.find(b"\n", at) + 1:
        if head[at:end].strip():
            return end
        at = end
    return None


def _before(read: Read, start: int, wanted: int) -> int:
    """The last beginning of a line in ``start < place <= wanted``; 0 if there is none near."""
    window, end, farthest = WINDOW_BYTES, wanted, max(start, wanted - MAX_DISTANCE_BYTES)
    while end > farthest:
        begin = max(farthest, end - window)
        found = read(begin, end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end, window = begin, min(2 * window, MAX_WINDOW_BYTES)
    return 0


def _after(read: Read, wanted: int, size_bytes: int) -> int:
    """The first beginning of a line behind ``wanted``, or the file's end; 0 if there is none near."""
    window, begin, farthest = WINDOW_BYTES, wanted, min(size_bytes, wanted + MAX_DISTANCE_BYTES)
    while begin < farthest:
        found = read(begin, min(window, farthest - begin)).find(b"\n")
        if found >= 0:
            return begin + found + 1
        begin, window = begin + min(window, farthest - begin), min(2 * window, MAX_WINDOW_BYTES)
    return size_bytes if farthest == size_bytes else 0
