"""``sparklet runs``: time, rows, bytes and cost of each run, compared with earlier runs of its name."""

from typing import Any
from unittest.mock import Mock

import pytest
from rich.text import Text

from sparklet.model import Failure, RunOptions, ShardResult
from sparklet.runs.checker import check
from sparklet.runs.redrive import redrive
from tests.unit.cli.conftest import BROKEN, Terminal

DASHES = {"duration_s": None, "rows": None, "output_bytes": None, "failed": None, "cost_usd": None, "small_files": None}


def ran(
    terminal: Terminal, run_id: str, took_s: float = 10.0, failed: int = 0, size: int = 2**30, **changes: Any
) -> None:
    """Do a run: each shard takes ``took_s``; the first ``failed`` shards fail, each other shard writes 10 rows."""
    world = terminal.world

    def do(number: int) -> ShardResult | Failure:
        world.clock.advance(took_s)
        return BROKEN if number < failed else ShardResult(rows=10, output_bytes=size)

    world.clock.advance(1)
    world.plan(**{"run_id": run_id, "name": "daily", "options": RunOptions(max_objects=1), **changes})
    world.work(do)
    check(world.deployment, run_id)


def listed_runs(terminal: Terminal) -> dict[str, Any]:
    return {each["run_id"]: each for each in terminal.types("runs", "--json").document}


def test_an_ended_run_has_the_same_figures_as_its_status(terminal: Terminal) -> None:
    terminal.world.put(3)
    ran(terminal, "run-1", failed=1)

    run, status = listed_runs(terminal)["run-1"], terminal.types("status", "run-1", "--json").document

    for name in ("duration_s", "rows", "output_bytes", "cost_usd", "objects"):
        assert run[name] == status[name], name
    assert (run["name"], run["failed"], run["rows"], run["duration_s"]) == ("daily", 1, 20, 30.0)


def test_a_run_in_an_engine_has_the_same_cost_as_its_status(terminal: Terminal) -> None:
    world = terminal.world
    world.run(1)
    attempt_id, claim = world.claim_ref(world.shards()[0].ref)
    world.clock.advance(60)
    world.ledger.attempts.escalate("run-1", 0, attempt_id, BROKEN, "fargate")
    attempt_id, claim = world.claim_ref(claim.record.ref, "fargate")
    world.clock.advance(600)
    world.ledger.attempts.succeed("run-1", 0, attempt_id, ShardResult(rows=1))
    world.check()

    cost_usd = listed_runs(terminal)["run-1"]["cost_usd"]

    assert cost_usd == terminal.types("status", "run-1", "--json").document["cost_usd"] > 0.035


def test_a_run_without_its_manifest_has_dashes(terminal: Terminal) -> None:
    world = terminal.world
    world.put(2)
    ran(terminal, "cleaned")
    ran(terminal, "whole")
    ran(terminal, "redriven", failed=1)
    world.store.delete_all([uri := world.deployment.run_uri("cleaned", "manifest.json")], uri)
    redrive(world.deployment, "redriven")
    world.clock.advance(1)
    world.plan(run_id="open", name="daily")

    runs = listed_runs(terminal)

    assert list(runs) == ["open", "redriven", "whole", "cleaned"]
    for run_id in ("cleaned", "open", "redriven"):
        assert DASHES.items() <= runs[run_id].items() and runs[run_id]["marks"] == []
    assert runs["whole"]["failed"] == 0 and runs["whole"]["trend"]["runs"] == 0
    row = next(line for line in terminal.types("runs").out.splitlines() if "cleaned" in line)
    assert row.count("–") == 3


def test_the_manifest_of_another_ledgers_run_is_not_used(terminal: Terminal) -> None:
    """The run id was used before, in a ledger that is deleted; the bucket still has the earlier run's files."""
    terminal.world.put(1)
    ran(terminal, "run-1")
    uri = terminal.world.deployment.run_uri("run-1", "manifest.json")
    terminal.world.store.put(uri, terminal.world.store.get(uri).replace(b'"created_s": ', b'"created_s": 1'))

    assert DASHES.items() <= listed_runs(terminal)["run-1"].items()


def test_the_trend_compares_a_run_with_five_earlier_runs(terminal: Terminal) -> None:
    terminal.world.put(1)
    ran(terminal, "first", took_s=1000)
    for number in range(5):
        ran(terminal, f"usual-{number}", took_s=10 + number)
    ran(terminal, "other", took_s=1, name="weekly")
    ran(terminal, "slow", took_s=24)
    ran(terminal, "broken", failed=1)

    runs = listed_runs(terminal)

    assert runs["first"]["trend"] == {"runs": 0, "duration_s": None, "rows": None, "cost_usd": None}
    assert runs["other"]["trend"]["runs"] == 0
    assert (runs["slow"]["trend"]["runs"], runs["slow"]["trend"]["duration_s"]) == (5, 2.0)  # of 12 s
    assert runs["usual-4"]["marks"] == []
    assert runs["slow"]["marks"][0] == "time ×2"
    assert (runs["broken"]["rows"], runs["broken"]["trend"]["rows"]) == (None, None)


@pytest.mark.parametrize(("shards", "size", "marked"), [(99, 2**20, False), (100, 2**20, True), (100, 2**22, False)])
def test_many_small_files_are_marked(terminal: Terminal, shards: int, size: int, marked: bool) -> None:
    terminal.world.put(shards)
    ran(terminal, "run-1", took_s=1, size=size)

    run = listed_runs(terminal)["run-1"]

    assert (run["small_files"], "small files" in run["marks"]) == (marked, marked)
    assert ("small files" in terminal.types("runs").out) is marked


def test_with_an_output_for_each_input_small_files_are_counted(terminal: Terminal) -> None:
    """Each input has a file, and one shard has many inputs."""
    terminal.world.put(200)
    ran(terminal, "run-1", options=RunOptions(output_per="input"), size=2**20)

    assert listed_runs(terminal)["run-1"]["small_files"]


def test_runs_reads_no_shards_and_only_the_newest_manifests(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparklet.app.history.MAX_READ", 2)
    terminal.world.put(1)
    for number in range(3):
        ran(terminal, f"run-{number}")
    shards, get = Mock(), Mock(side_effect=terminal.world.store.get)
    monkeypatch.setattr(terminal.world.ledger, "shards", shards)
    monkeypatch.setattr(terminal.world.store, "get", get)

    runs = listed_runs(terminal)

    assert [runs[f"run-{number}"]["rows"] for number in range(3)] == [None, 10, 10]
    assert get.call_count == 2 and not shards.mock_calls


@pytest.mark.parametrize("columns", ["80", "120"])
def test_the_table_of_runs_fits_into_the_terminal(
    terminal: Terminal, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    terminal.world.put(120)
    ran(terminal, "flights-20261120t113000-3f9a1c", took_s=1, failed=1, size=100)
    ran(terminal, "flights-20261121t113000-3f9a1c", took_s=40, size=100)

    lines = Text.from_ansi(terminal.types("runs").out).plain.splitlines()

    assert max(map(len, lines)) <= int(columns)
    text = "\n".join(lines)
    told_of = "1 h 20 min", "1,200", "SUCCEEDED, 120 shards", "time ×40", "small files", "FAILED, 1 of 120 shards"
    assert all(shown in text for shown in told_of), text
