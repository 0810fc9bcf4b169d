"""Room on the disk of the state folder: asked for before anything is written, refused in words where there is none.

The stand-in keeps an object in memory and only logs it if the disk has no room for it: it would be there until the
stack ends, then gone. So whoever would write more than there is room for is refused before.
"""

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, unquote

from sparklet.errors import LocalStackError

MIB = 1024 * 1024
START_BYTES = 128 * MIB  # without this much free a stack is not even started
RESERVE_BYTES = 64 * MIB  # never given to objects: what the ledger and the queues say has to be kept as well
REMEDY = "make room there, or name another folder with --state-dir or SPARKLET_STATE_DIR"


def refuse_full(root: Path) -> None:
    """LocalStackError unless a stack's state folder has room to begin with; nothing is made."""
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    usage = shutil.disk_usage(existing)
    if usage.free < START_BYTES:
        raise LocalStackError(
            f"the disk of the state folder {root} is full: {usage.free // MIB} MiB of {usage.total // MIB} are free, "
            f"{START_BYTES // MIB} MiB are needed; {REMEDY}"
        )


class Room:
    """Says which requests to S3 there is room for.

    Parameters
    ----------
    folder
        Where objects are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: Counter[str] = Counter()  # bytes of uploads whose parts are in memory still, by their id

    def refusal(self, method: str, query: str, headers: Mapping[str, str]) -> str:
        """Why a request cannot be taken, as S3 would say it (XML); "" if it can."""
        if method not in ("PUT", "POST", "DELETE") or "/s3/aws4_request" not in headers.get("authorization", ""):
            return ""
        upload = parse_qs(query, keep_blank_values=True).get("uploadId", [""])[0]
        wanted = _length(headers) or self._copied_bytes(headers.get("x-amz-copy-source", ""))
        if method == "DELETE":
            self._parts.pop(upload, None)
            return ""
        free = shutil.disk_usage(self._folder).free
        if free < self._parts.total() + wanted + RESERVE_BYTES:
            return self._told(free)
        if upload and method == "PUT":
            self._parts[upload] += wanted
        elif upload:
            self._parts.pop(upload, None)
        return ""

    def _copied_bytes(self, source: str) -> int:
        """Size of the object that a request copies, where it lies as a file under its own name."""
        place = unquote(source).partition("?")[0].strip("/")
        if not place or ".." in place.split("/"):
            return 0
        copied = [path for path in (account / place for account in self._folder.iterdir()) if path.is_file()]
        return max((path.stat().st_size for path in copied), default=0)

    def _told(self, free_bytes: int) -> str:
        message = f"the disk of the state folder {self._folder.parent} is full ({free_bytes // MIB} MiB free); {REMEDY}"
        escaped = message.replace("&", "&amp;").replace("<", "&lt;")
        return f"<Error><Code>DiskFull</Code><Message>{escaped}</Message></Error>"


def _length(headers: Mapping[str, str]) -> int:
    text = headers.get("x-amz-decoded-content-length") or headers.get("content-length") or "0"
    return int(text) if text.isascii() and text.isdigit() else 0
