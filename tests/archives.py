"""Archives and compressed texts, made in memory."""

import io
import struct
import tarfile
import zipfile
from collections.abc import Mapping

import pyarrow


def by_arrow(kind: str, body: bytes) -> bytes:
    """A text as zstd or lz4 writes it."""
    with pyarrow.CompressedOutputStream(file := pyarrow.BufferOutputStream(), kind) as packed:
        packed.write(body)
    return bytes(file.getvalue().to_pybytes())


def zipped(members: Mapping[str, bytes], mode: int = 0) -> bytes:
    """A zip archive of these files, of the type that a Unix ``mode`` names."""
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(info := zipfile.ZipInfo(name), body, zipfile.ZIP_DEFLATED)
            info.external_attr = mode << 16
    return file.getvalue()


def tarred(members: Mapping[str, bytes]) -> bytes:
    """A tar archive of these files."""
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as archive:
        for name, body in members.items():
            (info := tarfile.TarInfo(name)).size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return file.getvalue()


def in_v7(members: Mapping[str, bytes]) -> bytes:
    """A tar archive in the format of before 1988, whose headers have no mark, only a checksum."""
    body = bytearray(tarred(members))
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        headers = [info.offset for info in archive]
    for header in headers:
        body[header + 148 : header + 512] = b" " * 8 + body[header + 156 : header + 257] + bytes(255)
        body[header + 148 : header + 156] = b"%06o\0 " % sum(body[header : header + 512])
    return bytes(body)


def skipped(body: bytes) -> bytes:
    """A frame that readers of zstd and lz4 skip, as pzstd writes them."""
    return b"\x50\x2a\x4d\x18" + struct.pack("<I", len(body)) + body
