"""Archives and compressed texts, made in memory."""

import io
import tarfile
import zipfile
from collections.abc import Mapping

import pyarrow


def by_arrow(kind: str, body: bytes) -> bytes:
    """A text as zstd or lz4 writes it."""
    with pyarrow.CompressedOutputStream(file := pyarrow.BufferOutputStream(), kind) as packed:
        packed.write(body)
    return bytes(file.getvalue().to_pybytes())


def zipped(members: Mapping[str, bytes]) -> bytes:
    """A zip archive of these files."""
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return file.getvalue()


def tarred(members: Mapping[str, bytes]) -> bytes:
    """A tar archive of these files."""
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as archive:
        for name, body in members.items():
            (info := tarfile.TarInfo(name)).size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return file.getvalue()
