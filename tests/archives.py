"""Archives and compressed texts, made in memory."""

import io
import struct
import tarfile
import zipfile
from collections.abc import Mapping

import pyarrow


def by_arrow(codec: str, body: bytes) -> bytes:
    """Return a text compressed with a codec of PyArrow: "zstd" or "lz4"."""
    with pyarrow.CompressedOutputStream(file := pyarrow.BufferOutputStream(), codec) as packed:
        packed.write(body)
    return bytes(file.getvalue().to_pybytes())


def zipped(members: Mapping[str, bytes], mode: int = 0) -> bytes:
    """Return a zip archive of files by their names; ``mode`` is their Unix mode, such as a symbolic link's."""
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(info := zipfile.ZipInfo(name), body, zipfile.ZIP_DEFLATED)
            info.external_attr = mode << 16
    return file.getvalue()


def tarred(members: Mapping[str, bytes]) -> bytes:
    """Return a tar archive of files by their names."""
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as archive:
        for name, body in members.items():
            (info := tarfile.TarInfo(name)).size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return file.getvalue()


def in_v7(members: Mapping[str, bytes]) -> bytes:
    """Return a tar archive in the format from before 1988: its headers have no magic bytes, only a checksum."""
    body = bytearray(tarred(members))
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        headers = [info.offset for info in archive]
    for header in headers:
        body[header + 148 : header + 512] = b" " * 8 + body[header + 156 : header + 257] + bytes(255)
        body[header + 148 : header + 156] = b"%06o\0 " % sum(body[header : header + 512])
    return bytes(body)


def skipped(body: bytes) -> bytes:
    """Return a frame that readers of zstd and lz4 skip; pzstd writes such frames."""
    return b"\x50\x2a\x4d\x18" + struct.pack("<I", len(body)) + body
