"""Pace, estimated end, slow shards and seconds of a run, from the ledger alone."""

from dataclasses import replace

import pytest

from sparklet.app.costs import WorkerSize, load_prices
from sparklet.app.status import Observation, costs_so_far, observe
from sparklet.model import Run, ScriptRef, ShardRecord, ShardState

PRICES = load_prices()
NOW_S = 10_000.0
RUN = Run("run-1", ("s3://in/",), "s3://out/", (ScriptRef("s3://b/s.py", "0" * 64, "s.py"),), created_s=9_000.0)


def shard(number: int, state: ShardState, began_s: float = 0.0, took_s: float = 0.0, attempts: int = 1) -> ShardRecord:
    record = ShardRecord("run-1", number, "part", 0, 10, 1, 100, state=state, log_stream=f"log-{number}")
    return replace(record, started_s=began_s, changed_s=began_s + took_s, attempts=attempts)


def seen(*shards: ShardRecord) -> Observation:
    return observe(RUN, shards, NOW_S)


def test_the_pace_is_the_last_minutes_and_gives_the_end() -> None:
    # from 9,400 on: 10 in the first 60 s, nothing for long, 30 in the last minute; 60 are open
    early = [shard(n, ShardState.SUCCEEDED, 9_400, 1 + n) for n in range(10)]
    late = [shard(10 + n, ShardState.SUCCEEDED, 9_980, 1 + n / 2) for n in range(30)]
    waiting = [shard(40 + n, ShardState.PENDING, attempts=0) for n in range(60)]

    pace = seen(*early, *late, *waiting).pace

    assert (pace.now, pace.average, pace.remaining_s or 0) == (30.0, 40 / 600 * 60, 120.0)


def test_slow_shards_are_found_over_the_time_three_need() -> None:
    # 10 minutes a shard: in the last minute none has ended, in the last half hour three have
    ended = [shard(n, ShardState.SUCCEEDED, 10_000 - 3_000 + 790 * n, 600) for n in range(4)]

    pace = seen(*ended, shard(4, ShardState.RUNNING, 9_400)).pace

    assert pace.now == pytest.approx(3 / 30)
    assert pace.remaining_s == pytest.approx(600)


def test_without_recent_results_the_average_gives_the_end() -> None:
    pace = seen(shard(0, ShardState.SUCCEEDED, 9_000, 10), shard(1, ShardState.RUNNING, 9_010)).pace
    assert (pace.now, pace.average, pace.remaining_s or 0) == pytest.approx((0.0, 60 / 1000, 1000.0))


def test_no_end_is_shown_before_the_first_or_after_the_last() -> None:
    assert seen(shard(0, ShardState.RUNNING, 9_900)).pace.remaining_s is None
    over = seen(shard(0, ShardState.SUCCEEDED, 9_000, 30), shard(1, ShardState.FAILED, attempts=0)).pace
    assert (over.now, over.average, over.remaining_s) == (0.0, 2.0, None)


def test_the_slowest_of_all_and_those_longest_at_work_are_named() -> None:
    ended = [shard(n, ShardState.SUCCEEDED, 9_000, n % 50) for n in range(100)]
    running = [shard(200 + n, ShardState.RUNNING, 9_900 + n) for n in range(20)]

    found = seen(*running, *ended)

    assert [record.number for record in found.slowest] == [49, 99, 48, 98, 47]
    assert [record.number for record in found.longest] == [200, 201, 202, 203, 204]
    assert found.longest[0].log_stream == "log-200"


def test_the_seconds_include_all_attempts() -> None:
    # three attempts took 29 s; another shard waits for its second attempt, one for what an engine does after a function
    found = seen(
        replace(shard(0, ShardState.SUCCEEDED, 9_028.1, 0.9, attempts=3), worked_s=28.1),
        shard(1, ShardState.PENDING, 9_001, 5),
        shard(2, ShardState.RUNNING, 9_980),
        shard(3, ShardState.FAILED, attempts=0),
        replace(shard(4, ShardState.SUCCEEDED, 9_000, 100), engine="fargate", worked_s=900.0),
    )

    assert {engine: work.known_s for engine, work in found.summary.work.items()} == pytest.approx(
        {"": 29 + 5 + 20 + 900, "fargate": 100}
    )
    assert (found.summary.task_s, found.summary.repeated_s) == pytest.approx((29 + 5 + 1000, 928.1))


def test_seconds_of_functions_and_engines_are_counted_apart() -> None:
    there = replace(shard(1, ShardState.SUCCEEDED, 9_000, 1800, attempts=2), engine="fargate")
    found = seen(shard(0, ShardState.SUCCEEDED, 9_000, 10), there)

    assert {engine: work.known_s for engine, work in found.summary.work.items()} == {"": 10, "fargate": 1800}
    costs = costs_so_far(found.summary.work, RUN, WorkerSize(), PRICES)
    assert costs["fargate"] == pytest.approx((4 * 0.04048 + 16 * 0.004445) / 2)
    only_here = costs_so_far(seen(shard(0, ShardState.SUCCEEDED, 9_000, 10)).summary.work, RUN, WorkerSize(), PRICES)
    assert {name: costs[name] for name in ("lambda", "dispatch")} == pytest.approx(
        {name: only_here[name] for name in ("lambda", "dispatch")}
    )
    assert costs["ledger"] > only_here["ledger"] and costs["s3"] > only_here["s3"]


def test_an_empty_run_has_nothing_to_show() -> None:
    found = seen()
    assert (found.summary.work[""].known_s, found.slowest, found.pace.remaining_s) == (0.0, [], None)


# --- the duration of a shard ---
