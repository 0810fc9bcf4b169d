"""Each rule of advice: when it proposes a change, when all is fine, and when its verdict is unknown."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sparklet.app.costs import WorkerSize, load_prices
from sparklet.app.report.advice import advise
from sparklet.app.stack import OpenStack
from sparklet.app.status import view_run
from sparklet.ledger.rules import LEASE_EXPIRED
from sparklet.model import RunState, ShardRecord, ShardState
from sparklet.runs.manifest import ShardTable
from tests.stand_ins.memory import MemoryCompute
from tests.unit.cli.conftest import RUN, Terminal

Change = Callable[[ShardRecord], ShardRecord]
MIB = 1024 * 1024


def advice_of(terminal: Terminal, shards: int, change: Change, **size: Any) -> dict[str, dict[str, Any]]:
    """Each rule's advice, by the rule's name, on a run whose shards are changed by ``change``."""
    world = terminal.world
    run = replace(world.run(shards), state=RunState.SUCCEEDED, ended_s=world.clock.now_s())
    for record in list(world.ledger.shards.list(RUN)):
        began_s = run.created_s + 10.0 * record.number
        done = replace(record, state=ShardState.SUCCEEDED, attempts=1, size_bytes=20 * MIB, started_s=began_s)
        done = change(replace(done, changed_s=began_s + 60, memory_mb=2000))
        world.ledger.put(done)
    stack = OpenStack(
        world.deployment, MemoryCompute({}), "worker", terminal.logs, WorkerSize(**size), terminal.orchestrator
    )
    table, prices = ShardTable(run.created_s), load_prices()
    view = view_run(stack, run, prices, table.add)
    return {each["rule"]: each for each in advise(run, view, table.document(), stack, prices)}


def lasting(took_s: float, **changes: Any) -> Change:
    return lambda record: replace(record, changed_s=record.started_s + took_s, **changes)


def test_a_good_run_gets_no_advice(terminal: Terminal) -> None:
    found = advice_of(terminal, 60, lasting(60.0))

    assert {each["verdict"] for each in found.values()} == {"fine"}


def test_with_few_shards_the_verdict_is_unknown(terminal: Terminal) -> None:
    found = advice_of(terminal, 5, lasting(60.0))

    for rule in ("SmallShards", "Skew", "Memory"):
        assert found[rule]["verdict"] == "unknown"
        assert "5 shards" in found[rule]["finding"]


def test_larger_shards_are_advised_if_shards_are_small(terminal: Terminal) -> None:
    """Each shard takes two seconds, and 10 ms for each of its 1 to 20 MiB."""

    def change(record: ShardRecord) -> ShardRecord:
        mib = 1 + record.number % 20
        return replace(record, size_bytes=mib * MIB, changed_s=record.started_s + 2 + 0.01 * mib)

    found = advice_of(terminal, 2000, change)["SmallShards"]

    assert found["verdict"] == "act" and "2.0 s of it" in found["finding"]
    assert "--shard-size" in found["remedy"]
    assert 0.01 < found["saves_usd"] < 2000 * 2.1 * 3008 / 1024 * 0.0000166667 + 0.05  # no more than the run costs


def test_no_fixed_time_is_reported_if_durations_ignore_size(terminal: Terminal) -> None:
    def change(record: ShardRecord) -> ShardRecord:
        size_bytes = (20 * MIB, 40 * MIB)[record.number % 2]
        took_s = (2.0, 3.0)[record.number // 2 % 2]  # each size takes both times
        return lasting(took_s, size_bytes=size_bytes)(record)

    assert "whatever it holds" not in advice_of(terminal, 40, change)["SmallShards"]["finding"]


def test_one_file_shards_are_compared_with_the_default(terminal: Terminal) -> None:
    """30 files of 3 KB, a shard each, took two workers 49 s; packed by default they take 2.2 s."""
    change = lasting(3.2, size_bytes=3000)

    found = advice_of(terminal, 30, change, concurrency=2, is_local=True)["SmallShards"]

    assert found["verdict"] == "act" and "1 shard of all" in found["finding"]
    assert "--max-objects 1000" in found["remedy"] and "--shard-size 128MiB" in found["remedy"]
    assert 40 < found["saves_s"] < 49 and found["saves_usd"] < 0.01  # time is saved, but not a cent


def test_a_run_without_a_success_gets_no_advice(terminal: Terminal) -> None:
    found = advice_of(terminal, 30, lasting(3.2, state=ShardState.FAILED, error_class="NameError"))

    assert [each["verdict"] for each in found.values()] == ["unknown"]


@pytest.mark.parametrize(("mib", "remedy"), [(20, f"sparklet logs {RUN} 39"), (900, "--split")])
def test_a_slow_shard_is_named_with_the_time_it_costs(terminal: Terminal, mib: int, remedy: str) -> None:
    """The advice is to look at the shard's log, or to split the shard if it is large."""

    def change(record: ShardRecord) -> ShardRecord:
        return lasting(900.0, size_bytes=mib * MIB)(record) if record.number == 39 else lasting(30.0)(record)

    found = advice_of(terminal, 40, change)["Skew"]

    assert found["verdict"] == "act" and "39" in found["finding"]
    assert remedy in found["remedy"]
    assert 800 < found["saves_s"] < 900


@pytest.mark.parametrize(
    ("memory_mb", "rule", "verdict", "option"),
    [
        (700, "WastedMemory", "act", "--memory 960"),
        (2000, "Memory", "fine", ""),
        (2900, "TightMemory", "act", "--memory 3776"),
    ],
)
def test_memory_is_advised_by_its_peak(
    terminal: Terminal, memory_mb: int, rule: str, verdict: str, option: str
) -> None:
    found = advice_of(terminal, 60, lasting(60.0, memory_mb=memory_mb), memory_mb=3008)[rule]

    assert found["verdict"] == verdict and option in found["remedy"]
    assert f"{memory_mb:,} MB of 3,008 MB" in found["finding"]


def test_less_memory_saves_no_more_than_the_costs_of_memory(terminal: Terminal) -> None:
    found = advice_of(terminal, 60, lasting(60.0, memory_mb=700), memory_mb=3008)["WastedMemory"]

    seconds_cost = 60 * 60.0 * (3008 / 1024 * 0.0000166667 + 3.5 * 0.0000000309)
    assert found["saves_usd"] == pytest.approx(seconds_cost * (1 - 960 / 3008), rel=0.01)


def test_a_shard_near_its_timeout_is_named(terminal: Terminal) -> None:
    found = advice_of(terminal, 30, lasting(700.0), timeout_s=900)["NearTimeout"]

    assert found["verdict"] == "act" and "--shard-size" in found["remedy"]
    assert advice_of(terminal, 30, lasting(600.0), timeout_s=900)["NearTimeout"]["verdict"] == "fine"


def test_repeated_attempts_are_counted_with_their_time(terminal: Terminal) -> None:
    def change(record: ShardRecord) -> ShardRecord:
        again = record.number < 10
        return replace(
            record, attempts=1 + again, worked_s=9.0 * again, error_class=LEASE_EXPIRED, conflicts=int(again)
        )

    found = advice_of(terminal, 40, change)["Retries"]

    assert "10 met another writer of a table" in found["finding"] and found["remedy"].startswith("job.append")
    assert found["verdict"] == "act" and "10 of 50" in found["finding"]
    assert "and 1 min 30 s were in vain" in found["finding"] and found["saves_usd"] is None
