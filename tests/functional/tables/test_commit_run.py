"""The script of a commit run makes the commits that the run's commit files describe."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparklet.connectors.tables.commit import main, plan
from sparklet.connectors.tables.declaration import Commit, Declaration
from sparklet.job import Job
from sparklet.job.errors import TableError
from sparklet.job.fields import Table
from tests.functional.tables.lakes import Lake, rows_of
from tests.functional.tables.sessions import spark_here


def declaration(table: Table, shard: int, mode: str = "append", **options: Any) -> Declaration:
    return Declaration(table, mode, "1", f"file:///{shard}", (), **options, shard=shard)


class CommitRun:
    """The commit files of a run so far, and the outcome of the last commit run."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._monkeypatch = monkeypatch
        self._inputs: list[str] = []

    def fix(self, *commits: Commit) -> None:
        """Write the next commit file, with the declarations of the shards for these commits."""
        lines: list[Any] = [{"identity": "flights_18c", "run_id": "flights", "commit": len(self._inputs)}]
        for each in commits:
            for write in each.writes:
                declared = replace(write, table=each.table, mode=each.mode).to_document()
                shard = write.shard + 100 * len(self._inputs)  # each commit has other shards
                lines.append({"shard": shard, "attempt": "a", "writes": [declared]})
        file = self._folder / f"_commit-{len(self._inputs)}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self._inputs.append(f"file://{file}")

    def run(self, made: Sequence[int] = (), **params: str) -> dict[str, Any]:
        outcome = self._folder / "outcome.json"
        outcome.unlink(missing_ok=True)
        event = {"inputs": self._inputs, "params": {"commits_made": list(made), **params}}
        self._monkeypatch.setenv("SPARKLET_OUTCOME_FILE", str(outcome))
        self._monkeypatch.setattr(sys, "argv", ["commit.py", "--event", json.dumps(event)])
        main()
        return dict(json.loads(outcome.read_text())) if outcome.exists() else {}


@pytest.fixture
def commit_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommitRun:
    monkeypatch.setattr(Job, "spark", lambda job: spark_here(job.params.get("warehouse")))
    return CommitRun(tmp_path, monkeypatch)


def test_the_missing_commits_are_made_in_order(lake: Lake, commit_run: CommitRun) -> None:
    for number in range(3):
        commit_run.fix(lake.planned(rows_of(id=[number])))

    first = commit_run.run()
    second = commit_run.run(made=[0, 1])

    assert [made["commit_id"] for made in first["answer"]] == [f"flights_18c/commit-{number}" for number in range(3)]
    assert (first["rows"], first["outputs"]) == (3, [str(lake.table)])
    assert [(made["commit_id"], made["already"]) for made in second["answer"]] == [("flights_18c/commit-2", True)]
    assert lake.rows() == [(0,), (1,), (2,)]
    assert lake.versions() == 3


def test_two_writes_of_a_shard_are_one_commit(lake: Lake, commit_run: CommitRun) -> None:
    commit_run.fix(lake.planned(rows_of(id=[0])), lake.planned(rows_of(id=[1])))

    assert commit_run.run()["answer"][0]["files"] == 2
    assert lake.rows() == [(0,), (1,)]


@pytest.mark.spark
@pytest.mark.slow
def test_each_table_gets_a_commit(delta: Lake, commit_run: CommitRun) -> None:
    other = replace(delta, place=f"{delta.place}/other")
    commit_run.fix(delta.planned(rows_of(id=[1])), other.planned(rows_of(id=[1])))

    outcome = commit_run.run()

    assert outcome["outputs"] == [str(delta.table), str(other.table)]
    assert outcome["rows"] == 2


def test_a_commit_run_without_missing_commits_reports_nothing(lake: Lake, commit_run: CommitRun) -> None:
    commit_run.fix(lake.planned(rows_of(id=[1])))

    assert commit_run.run(made=[0]) == {}


def test_shards_must_agree_on_the_options_of_a_table_write() -> None:
    table = Table("iceberg", "db.t")
    upsert = declaration(table, 2, mode="upsert", keys=("id",))
    other = declaration(table, 4, mode="upsert", keys=("day",))

    with pytest.raises(TableError, match=r"db.t: shard 4 has keys=\('day',\), shard 2 \('id',\)"):
        plan({"identity": "i", "commit": 0}, [[upsert, other]])


def test_a_later_commit_has_the_earlier_writes_of_the_run() -> None:
    table, other = Table("iceberg", "db.t"), Table("iceberg", "db.o")
    overwrites = [declaration(table, shard, mode="overwrite_partitions") for shard in range(3)]
    appends = [declaration(other, shard) for shard in range(3)]

    planned = plan({"identity": "i", "commit": 1}, [[overwrites[0], appends[1]], [overwrites[2], appends[2]]])

    assert [(commit.table, commit.writes, commit.earlier) for commit in planned] == [
        (table, (overwrites[2],), (overwrites[0],)),
        (other, (appends[2],), ()),
    ]


@pytest.mark.parametrize("mode", ["overwrite_partitions", "upsert"])
def test_a_repeated_shard_replaces_its_earlier_writes(mode: str) -> None:
    table = Table("iceberg", "db.t")
    keys = ("id",) if mode == "upsert" else ()
    old, other, new, last = (replace(declaration(table, n, mode, keys=keys), folder=f"{n}") for n in (0, 1, 0, 1))

    [again] = plan({"identity": "i", "commit": 1}, [[old, other], [new]])
    [later] = plan({"identity": "i", "commit": 2}, [[old, other], [new], [last]])

    assert (again.writes, again.earlier) == ((new,), (other,))
    assert (later.writes, later.earlier) == ((last,), (new,))


def test_a_repeated_shard_cannot_append_to_a_table_twice() -> None:
    table, other = Table("iceberg", "db.t"), Table("iceberg", "db.o")
    appends = [declaration(table, shard) for shard in (0, 1)]

    with pytest.raises(TableError, match=r"has the rows of the shards \[0\]"):
        plan({"identity": "i", "commit": 1}, [appends, appends[:1]])
    assert plan({"identity": "i", "commit": 1}, [appends, [declaration(other, 0)]])
