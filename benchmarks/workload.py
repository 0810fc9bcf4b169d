"""The jobs that cold and warm starts are measured with, their data, and what must be there after each run."""

import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
from deltalake import DeltaTable

JOBS = Path(__file__).parent / "jobs"
ROWS = 5_000
NAMES = 9
SALES = "id INT, name STRING, amount DOUBLE, day DATE"
SHOPS, VISITORS = 40, 600


class WrongOutputError(Exception):
    """A run said that it went well, and what it wrote is not what it should be."""


@dataclass
class Job:
    """A script, and where it writes: a file of its own for each side, or one table that all append to in turn.

    So all sides meet a table with the same history, and each must see what the others have committed. ``renew`` begins
    another table: what an append costs grows with the table.
    """

    name: str
    folder: Path
    check: Callable[["Job", Path], None]
    shares_output: bool
    reader: Mapping[str, Any] = field(default_factory=dict)  # of CSV: options of its reader, in the event
    tables: int = field(default=0)
    appends: int = field(default=0)  # to the newest table

    @property
    def script(self) -> Path:
        """The same for every side, and for all forms of a job (``NAME-FORM``)."""
        return JOBS / f"{self.name.partition('-')[0]}.py"

    def event(self, side: str) -> dict[str, Any]:
        """What the script is told; its output is empty, or the table."""
        output = self._output(side)
        if not self.shares_output:
            shutil.rmtree(output, ignore_errors=True)
        event = {"input": str(self.folder / "sales.csv"), "output": str(output), "first_id": self.appends * ROWS}
        return {**event, "reader": dict(self.reader)} if self.reader else event

    def renew(self) -> None:
        """What comes now goes to a new table, if to any."""
        self.tables += 1
        self.appends = 0

    def verify(self, side: str) -> None:
        """Stop unless the run has written what it should, once.

        Raises
        ------
        WrongOutputError
            If it has not.
        """
        self.appends += 1
        self.check(self, self._output(side))

    def _output(self, side: str) -> Path:
        return self.folder / self.name / (f"table-{self.tables}" if self.shares_output else side)


def jobs(folder: Path) -> list[Job]:
    """All of them, with their data below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sales.csv").write_text(sales())
    (folder / "visits.json").write_text(visits())
    (folder / "shops.csv").write_text("shop,town\n" + "".join(f"s{n},town {n % 7}\n" for n in range(SHOPS)))
    return [
        Job("hello", folder, lambda job, path: None, shares_output=False),  # it checks its count itself
        Job("csv_to_parquet", folder, lambda job, path: check_groups(path), shares_output=False),
        Job("csv_to_parquet-header", folder, lambda job, path: check_groups(path), False, {"inferSchema": False}),
        Job("csv_to_parquet-schema", folder, lambda job, path: check_groups(path), False, {"schema": SALES}),
        Job("json_to_delta", folder, lambda job, path: check_last_visits(path), shares_output=False),
        Job("delta_append", folder, _check_delta, shares_output=True),
        Job("iceberg_append", folder, _check_iceberg, shares_output=True),
        Job("hudi_append", folder, _check_hudi, shares_output=True),
    ]


def sales() -> str:
    """The jobs' input, the same every time."""
    draw = random.Random(7)
    lines = (
        f"{number},name {number % NAMES},{draw.randrange(100_000) / 100:.2f},"
        f"2026-{number % 12 + 1:02d}-{number % 28 + 1:02d}"
        for number in range(ROWS)
    )
    return "\n".join(["id,name,amount,day", *lines]) + "\n"


def visits() -> str:
    """The input of ``json_to_delta``; each visitor comes several times, last on the day of the highest number."""
    lines = (
        json.dumps({"visitor": f"v{n % VISITORS}", "shop": f"s{n % SHOPS}", "arrived": n, "spent": {"euros": n / 100}})
        for n in range(ROWS)
    )
    return "\n".join(lines) + "\n"


def check_last_visits(path: Path) -> None:
    """Stop unless the last visit of each visitor is there, once; WrongOutputError."""
    table = DeltaTable(path)
    found = sorted(
        number
        for file in _delta_files(table)
        for number in parquet.read_table(path / file, columns=["arrived"])["arrived"].to_pylist()
    )
    if found != list(range(ROWS - VISITORS, ROWS)):
        raise WrongOutputError(f"json_to_delta: {len(found)} visits, not the last one of each of {VISITORS} visitors")


def check_groups(path: Path) -> None:
    """Stop unless the groups of ``csv_to_parquet`` are there, once; WrongOutputError."""
    if not (path / "_SUCCESS").exists():
        raise WrongOutputError("csv_to_parquet: its output is not marked as complete")
    table = parquet.read_table(path)
    found = table.num_rows, sum(table["sales"].to_pylist())
    if found != (NAMES, ROWS):
        raise WrongOutputError(f"csv_to_parquet: {found[0]} groups of {found[1]} rows, not {NAMES} of {ROWS}")


def _check_delta(job: Job, path: Path) -> None:
    table = DeltaTable(path)
    _expect(job, "commits", table.version() + 1, job.appends)
    rows = sum(parquet.read_metadata(path / file).num_rows for file in _delta_files(table))
    _expect(job, "rows", rows, job.appends * ROWS)


def _delta_files(table: DeltaTable) -> list[str]:
    return [str(name) for name in table.get_add_actions(flatten=True).column("path").to_pylist()]


def _check_iceberg(job: Job, path: Path) -> None:
    metadata = path / "db" / "sales" / "metadata"
    version = (metadata / "version-hint.text").read_text().strip()
    table = json.loads((metadata / f"v{version}.metadata.json").read_bytes())
    _expect(job, "commits", len(table["snapshots"]), job.appends)
    [current] = [each for each in table["snapshots"] if each["snapshot-id"] == table["current-snapshot-id"]]
    _expect(job, "rows", int(current["summary"]["total-records"]), job.appends * ROWS)


def _check_hudi(job: Job, path: Path) -> None:
    """Of each file group the newest file counts; its name ends with the instant that wrote it."""
    newest: dict[str, Path] = {}
    for file in sorted(path.glob("*.parquet"), key=lambda file: file.stem.rpartition("_")[2]):
        newest[file.name.partition("_")[0]] = file
    rows = sum(parquet.read_metadata(file).num_rows for file in newest.values())
    _expect(job, "rows", rows, job.appends * ROWS)
    instants = {file.stem.rpartition("_")[2] for file in newest.values()}
    done = {file.name.partition("_")[0] for file in (path / ".hoodie" / "timeline").glob("*.commit")}
    _expect(job, "its newest files are committed", instants - done, set())


def _expect(job: Job, what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise WrongOutputError(f"{job.name}: {what}: {found}, not {wanted}")
