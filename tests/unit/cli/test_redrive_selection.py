"""Which shards a redrive selects: by number, cause, input, partition or time, and what a dry run shows."""

from pathlib import Path

import pytest

from sparklet.model import RunState, ShardResult, ShardState
from tests.unit.cli.conftest import BROKEN, ONE_A_SHARD, RUN, Terminal, ended
from tests.world import SCRIPT, SOURCE

DAYS = [f"{SOURCE}day={day}/a.csv" for day in (2, 9, 10, 31)]  # a day is a number
MONTHS = [f"{SOURCE}year={year}/month={month}/a.csv" for year, month in ((2025, 12), (2026, 1), (2026, 2))]


def redriven(terminal: Terminal, *options: str) -> list[int]:
    told = terminal.types("redrive", RUN, *options, "--dry-run", "--json")
    assert told.code == 0, told.err
    assert terminal.world.ledger.runs.get(RUN).generation == 0
    return list(told.document["redriven"])


def done(terminal: Terminal, *uris: str, each_s: float = 0.0) -> None:
    for uri in uris:
        terminal.world.store.put(uri, b"x")
        terminal.world.clock.advance(each_s)
    assert terminal.types("run", SCRIPT, *ONE_A_SHARD, "--run-id", RUN).code == 0


def test_all_also_selects_succeeded_shards(terminal: Terminal) -> None:
    ended(terminal, BROKEN)

    assert (redriven(terminal), redriven(terminal, "--all")) == ([0], [0, 1])
    told = terminal.types("redrive", RUN, "--all", "--dry-run")

    assert "2 shards of run-1 would be redriven: 0-1" in told.out and "2 files, 20 B, about " in told.out
    assert "1 shard had succeeded: the output stays until the new one replaces it" in told.out
    assert terminal.types("redrive", RUN, "--all").code == 0
    assert [r.generation for r in terminal.world.shards()] == [1, 1]


def test_an_input_or_a_folder_names_its_shards(terminal: Terminal) -> None:
    done(terminal, *DAYS)
    order = sorted(DAYS)
    assert redriven(terminal, "--object", DAYS[1], "--object", DAYS[0]) == sorted(map(order.index, DAYS[:2]))
    assert redriven(terminal, "--object", f"{SOURCE}day=10/") == [order.index(DAYS[2])]
    told = terminal.types("redrive", RUN, "--object", f"{SOURCE}day=3", "--dry-run")
    assert told.code == 1 and "no shard of run-1 has such an input" in told.err


@pytest.mark.parametrize(
    ("options", "days"),
    [
        (("--from", "day=9"), DAYS[1:]),
        (("--from", "day=9", "--to", "day=10"), DAYS[1:3]),
        (("--to", "day=9"), DAYS[:2]),
        (("--from", "day=9", "--object", DAYS[2]), DAYS[2:3]),
    ],
)
def test_a_range_of_partitions_compares_values_as_numbers(
    terminal: Terminal, options: tuple[str, ...], days: list[str]
) -> None:
    done(terminal, *DAYS)
    assert redriven(terminal, *options) == sorted(map(sorted(DAYS).index, days))


def test_a_range_can_have_several_partition_columns(terminal: Terminal) -> None:
    done(terminal, *MONTHS)
    assert redriven(terminal, "--from", "year=2025/month=12", "--to", "year=2026/month=1") == [0, 1]
    assert redriven(terminal, "--from", "year=2026") == [1, 2]
    told = terminal.types("redrive", RUN, "--from", "year=2026", "--to", "month=1")
    assert told.code == 1 and "name different partitions" in told.err


def test_a_range_of_times_selects_by_the_modification_of_inputs(terminal: Terminal) -> None:
    """The clock of these tests begins on 14 November 2023, 22:13:20 UTC."""
    done(terminal, *(f"{SOURCE}{name}.csv" for name in "abcd"), each_s=2400)
    assert redriven(terminal, "--to", "2023-11-14") == [0, 1, 2]
    assert redriven(terminal, "--from", "2023-11-15") == [3]
    assert redriven(terminal, "--from", "2023-11-14T22:30", "--to", "2023-11-14T23:00") == [1]
    assert redriven(terminal, "--from", "2023-11-14T22:53:20", "--to", "2023-11-14T22:53:20") == [1]
    assert "must be a time like" in terminal.types("redrive", RUN, "--from", "soon").err


@pytest.mark.parametrize("more", [("--shards", "1"), ("--cause", "ValueError"), ("--from", "day=1")])
def test_all_excludes_other_selections(terminal: Terminal, more: tuple[str, ...]) -> None:
    ended(terminal, BROKEN)
    told = terminal.types("redrive", RUN, "--all", *more)
    assert told.code == 1 and "--all selects all shards" in told.err


def test_a_redrive_copies_a_changed_local_input_again(terminal: Terminal, tmp_path: Path) -> None:
    """The local output has the files of the last successful attempts, even if a redrive fails."""
    (tmp_path / "in").mkdir()
    for name in ("a.csv", "b.csv"):
        (tmp_path / "in" / name).write_text("old\n")
    terminal.do = lambda number: publish(terminal, number, "first")
    where = ("-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"))
    assert terminal.types("run", SCRIPT, *where, "--max-objects", "1", "--run-id", RUN).code == 0
    (tmp_path / "in" / "b.csv").write_text("corrected\n")
    terminal.do = lambda number: publish(terminal, number, "second")

    told = terminal.types("redrive", RUN, "--object", str(tmp_path / "in" / "b.csv"))

    assert told.code == 0 and "copying 1 repaired file to the bucket" in told.out, told.err
    assert outputs(tmp_path) == ["first-0", "second-1"]
    terminal.do = lambda _: BROKEN
    assert terminal.types("redrive", RUN, "--all").code == 2
    assert outputs(tmp_path) == ["first-0", "second-1"]
    assert terminal.world.ledger.runs.get(RUN).state is RunState.FAILED
    told = terminal.types("redrive", RUN, "--object", str(tmp_path / "c.csv"))
    assert told.code == 1 and f"{tmp_path}/c.csv is not an input of this run" in told.err


def publish(terminal: Terminal, number: int, name: str) -> ShardResult:
    """Publish one file as the shard's whole output, as a worker does."""
    world = terminal.world
    folder = world.ledger.runs.get(RUN).shard_output(number)
    assert world.ledger.shards.get(RUN, number).state is ShardState.RUNNING
    world.store.delete_all([info.uri for info in world.store.list(folder)], folder)
    world.store.put(f"{folder}/{name}-{number}", b"rows")
    return ShardResult(rows=1)


def outputs(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out").rglob("*") if path.is_file() and path.name[0] != ".")
