"""Which objects a plan left out, and why: a file beside each part, ``skipped-…`` where the part is ``part-…``.

The files hold what lies between the objects of one part and the next, ``skipped-end.jsonl`` what lies behind the last.
Those of parts that were never sealed mean nothing. What patterns leave out is counted only: users asked for it.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from sparklet.errors import ObjectNotFoundError
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.inventory.globs import EXCLUDED, NOT_INCLUDED
from sparklet.fanout.scratch import scratch_error
from sparklet.model import PartRecord, Run

END = "skipped-end.jsonl"
IN_MEMORY_BYTES = 1024 * 1024
MAX_LINES = 100_000  # named beside one part; the counts are complete whatever is named


@dataclass
class LeftOut:
    """Objects left out since the last part, in the order in which they were met; on disk once they are many."""

    _file: "tempfile.SpooledTemporaryFile[bytes]" = field(
        default_factory=lambda: tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES, prefix="sparklet-skipped-")  # noqa: SIM115
    )
    _taken_bytes: int = 0

    def add(self, uri: str, version_id: str, reason: str) -> None:
        """Note one."""
        version = {"version_id": version_id} if version_id else {}
        try:
            self._file.seek(0, 2)
            self._file.write(json.dumps({"uri": uri, **version, "reason": reason}).encode() + b"\n")
        except OSError as error:
            raise scratch_error("the names of objects left out", error) from error

    def take(self, count: int) -> bytes:
        """The next ``count`` of them, as lines; of very many the first, and how many more there are."""
        self._file.seek(self._taken_bytes)
        lines = list(islice(self._file, min(count, MAX_LINES)))
        more = sum(1 for _ in islice(self._file, count - len(lines)))
        self._taken_bytes = self._file.tell()
        if more:
            lines.append(json.dumps({"more": more}).encode() + b"\n")
        return b"".join(lines)

    def close(self) -> None:
        """Forget them."""
        self._file.close()


def named(skipped: Mapping[str, int]) -> int:
    """How many of those left out are named in files."""
    return sum(count for reason, count in skipped.items() if reason not in (NOT_INCLUDED, EXCLUDED))


def beside(part: str) -> str:
    """The file beside a plan part."""
    return part.replace("part-", "skipped-", 1)


def reasons_for(at: Deployment, run: Run, parts: list[PartRecord], uri: str) -> Iterator[str]:
    """Why an object, or a version of it, was left out of a plan."""
    files = [beside(part.part) for part in parts if named(part.skipped)]
    if named(run.skipped) > sum(named(part.skipped) for part in parts):
        files.append(END)
    wanted = json.dumps(uri).encode()
    for name in files:
        for line in _lines(at, run.run_id, name):
            if wanted in line and (found := json.loads(line)).get("uri") == uri:
                yield str(found["reason"])


def _lines(at: Deployment, run_id: str, name: str) -> list[bytes]:
    try:
        return at.store.get(at.part_uri(run_id, name)).splitlines()
    except ObjectNotFoundError:
        return []  # planned before there were such files
