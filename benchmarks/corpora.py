"""Is what shards give of real files what one Spark job gives? The oracle of folders over files that are given.

    python -m benchmarks.corpora FOLDER… [--files 300] [--together 20] [--max-bytes 500000] [--seed 0]

Takes so many of the CSV, TSV, JSON, JSON Lines and Parquet files below the folders, also of compressed ones, evenly
spread. Up to ``--together`` files make one folder: any of CSV, which are read as columns of text unless their headers
are equal; those of one real folder that are alike of others. By the seed each is given as it is or packed, cut or not,
and read by its name or its folder. What is not equal is tried again in halves, so that single files remain. Prints
them, then the line that ``tests/functional/worker/test_one_job.py`` prints; fails if anything is different.
"""

import argparse
import bz2
import gzip
import io
import json
import lzma
import random
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tests.functional.worker.conftest import local_jars
from tests.functional.worker.ledgered import Function, deployed
from tests.functional.worker.test_one_job import PACKERS, READ, ROOT, Folder, verdict

KINDS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
TEXTS = ", ".join(f"c{place} STRING" for place in range(30))


class File(NamedTuple):
    """A real file, and its content without compression."""

    path: Path
    body: bytes
    suffix: str  # of the content

    @property
    def alike(self) -> tuple[str, ...]:
        """One job reads files with the same."""
        kind = KINDS[self.suffix]
        if kind == "csv":
            return (self.suffix,)
        if kind == "json":
            return self.suffix, str(self.path.parent), str(self.is_lines)
        with suppress(pa.ArrowException, OSError):
            schema = pq.read_schema(io.BytesIO(self.body)).remove_metadata()
            return self.suffix, str(self.path.parent), schema.to_string()
        return self.suffix, str(self.path)

    @property
    def header(self) -> bytes:
        """The first line."""
        return self.body.partition(b"\n")[0].strip()

    @property
    def is_lines(self) -> bool:
        """Whether it is JSON Lines, whatever its name says."""
        with suppress(ValueError):
            return isinstance(json.loads(self.header), dict)
        return False


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--files", type=int, default=300, help="so many of all")
    parser.add_argument("--max-bytes", type=int, default=500_000, help="of a file without its compression")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--together", type=int, default=20, help="files of one folder, at most")
    asked = parser.parse_args()
    counts: Counter[str] = Counter()
    chosen = list(chosen_files(asked.folders, asked.files, asked.max_bytes))
    with tempfile.TemporaryDirectory(prefix="corpora-") as name:
        scratch = Path(name) / "scratch"
        scratch.mkdir()
        with deployed(Path(name), scratch, SPARKLET_SCRIPT_PREFIXES=f"{ROOT}/scripts/", **local_jars()) as function:
            function.store.put(f"{ROOT}/scripts/read.py", READ)
            for _, alike in groupby(chosen, lambda file: file.alike):
                together = list(alike)
                for first in range(0, len(together), asked.together):
                    for found, files in judged(function, together[first : first + asked.together], asked.seed):
                        counts[found.partition(":")[0] if found.startswith("different") else found] += files
    print(f"{len(chosen)} files: {dict(counts)}")
    sys.exit(bool(counts["different"]))


def judged(function: Function, group: Sequence[File], seed: int) -> Iterator[tuple[str, int]]:
    """Verdicts, and of how many files each is; in halves unless they are equal."""
    folder = as_folder(group, random.Random(f"{seed} {group[0].path} {len(group)}"))
    found = verdict(function, folder)
    print(f"{group[0].path}{f' and {len(group) - 1} more' if len(group) > 1 else ''}: {found}", flush=True)
    if found == "equal" or len(group) == 1:
        if found != "equal":
            print(f"    {folder.reader}, split {folder.split!r}, as {list(folder.packed)}", flush=True)
        yield found, len(group)
        return
    middle = len(group) // 2
    halves = [each for half in (group[:middle], group[middle:]) for each in judged(function, half, seed)]
    known = {"one job fails", *(each.partition(":")[0] for each, _ in halves)}
    yield from halves if found.partition(":")[0] in known else [(found, len(group))]  # they fail together alone


def chosen_files(folders: Sequence[Path], count: int, max_bytes: int) -> Iterator[File]:
    """So many files, evenly spread, those that are alike one after the other."""
    paths = [path for folder in folders for path in sorted(folder.rglob("*")) if _suffix(path) and path.is_file()]
    small = [file for path in paths if (file := _file(path, max_bytes))]
    spread = small if len(small) <= count else [small[place * len(small) // count] for place in range(count)]
    random.Random(count).shuffle(spread)  # a folder gets small and large ones of several sources
    yield from sorted(spread, key=lambda file: file.alike)


def _suffix(path: Path) -> str:
    """That of the content; "" of a file that is not read here."""
    suffixes = [each.lower() for each in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in KINDS else ""


def _file(path: Path, max_bytes: int) -> File | None:
    """The file, if it is small enough and can be unpacked."""
    if path.stat().st_size > max_bytes:
        return None
    body, packed = path.read_bytes(), path.suffix.lower()
    with suppress(OSError, EOFError, ValueError, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowException):
        if packed == ".zip":
            with zipfile.ZipFile(io.BytesIO(body)) as archive:
                [name] = archive.namelist()
                body = archive.read(name)
        elif packed == ".zst":
            body = pa.CompressedInputStream(pa.BufferReader(body), "zstd").read()
        elif packed in PACKED:
            body = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}[packed](body)
        return File(path, body, _suffix(path)) if len(body) <= max_bytes else None
    return None


def as_folder(group: Sequence[File], chance: random.Random) -> Folder:
    """The files as one folder, packed and cut by chance."""
    kind, options, schema = KINDS[group[0].suffix], dict[str, str](), ""
    if kind == "csv":
        options = {"header": "true"} | ({"sep": "\t"} if group[0].suffix == ".tsv" else {})
        options |= chance.choice([{}, {}, {}, {"multiLine": "true"}])
        schema = TEXTS if len({file.header for file in group}) > 1 else ""
    if kind == "json" and not group[0].is_lines:
        options = {"multiLine": "true"}
    bodies: dict[str, bytes] = {}
    stored: dict[str, bytes] = {}
    for number, file in enumerate(group):
        name = f"{number}-{file.path.name}"
        if file.path.suffix.lower() in PACKED:
            bodies[name.removesuffix(file.path.suffix)], stored[name] = file.body, file.path.read_bytes()
            continue
        how = chance.choice(["", "", *PACKERS]) if kind != "parquet" else ""
        bodies[name], stored[name + how] = file.body, PACKERS[how](name, file.body) if how else file.body
    split, by_folder = chance.choice(["", "auto", "auto"]), chance.choice([False, True])
    sizes = [len(file.body) for file in group]
    cut_bytes = max(max(sizes) // 2 + 1, sum(sizes) // 5)  # few shards
    return Folder(bodies, stored, kind, options, schema, max(1, len(group) // 3), split, by_folder, cut_bytes)


if __name__ == "__main__":
    main()
