"""The comparison over corpora of real files: which files are taken, and that a split hides no difference."""

import gzip
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import corpora
from benchmarks.corpora import File, as_folder, chosen_files, judged
from tests.functional.worker.test_one_job import Folder


def test_files_are_taken_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"id\n1\n")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"v\n2\n"))
    (tmp_path / "c.JSON").write_bytes(b'{"id": 1}\n')
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"v\n2\n")[:9])
    (tmp_path / "large.csv").write_bytes(b"x" * 100)
    (tmp_path / "read.me").write_bytes(b"id\n")

    found = sorted(chosen_files([tmp_path], count=10, max_bytes=50))

    assert [(file.path.name, file.suffix) for file in found] == [
        ("a.csv", ".csv"),
        ("b.csv.gz", ".csv"),
        ("c.JSON", ".json"),
    ]
    folder = as_folder(found[:2], random.Random(0))
    assert folder.files == {"0-a.csv": b"id\n1\n", "1-b.csv": b"v\n2\n"}
    assert folder.packed.keys() >= {"1-b.csv.gz"} and len(folder.packed) == 2
    assert len(list(chosen_files([tmp_path], count=2, max_bytes=50))) == 2


@pytest.mark.parametrize(
    ("bad", "alone", "counts"),
    [
        ("different", True, [("different", 1), ("equal", 1), ("equal", 2)]),
        ("different: rows", False, [("different: rows", 2), ("equal", 2)]),
        ("failed: why", False, [("equal", 2), ("failed: why", 2)]),
        ("one job fails", False, [("equal", 1), ("equal", 1), ("equal", 2)]),
    ],
)
def test_a_difference_of_files_together_counts(
    monkeypatch: pytest.MonkeyPatch, bad: str, alone: bool, counts: list[tuple[str, int]]
) -> None:
    def verdict(_: object, folder: Folder) -> str:
        return bad if "0-0.csv" in folder.files and (alone or len(folder.files) > 1) else "equal"

    monkeypatch.setattr(corpora, "verdict", verdict)
    group: Sequence[File] = [File(Path(f"{n}.csv"), b"id\n", ".csv") for n in range(4)]

    assert sorted(judged(None, group, 0)) == counts  # type: ignore[arg-type]
