"""How long a state machine waits between checks: its history does not overflow, and ends are noticed in time."""

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from sparklet.model import MAX_INLINE, Counts, Run, RunOptions, ScriptRef
from sparklet.runs.state_machine_steps import (
    MAX_S,
    MIN_OF_SMALL_S,
    MIN_S,
    wait_s,
)

THREE_DAYS_S = RunOptions().time_limit_s
EVENTS_A_TURN = 10
EVENTS_A_MAP = 15
MACHINE = Path(__file__).parents[3] / "sam" / "statemachines" / "run.asl.json"
STEP_S = 2.0  # the duration of the step itself
SCRIPT = ScriptRef("s3://b/x.py", "0" * 64, "s3://b/x.py")


def events_of_an_inline_child() -> int:
    """Four events of each child, two more if an error is caught, and three for each try that ``Retry`` allows."""
    states = json.loads(MACHINE.read_text())["States"]["Inline"]["ItemProcessor"]["States"]
    (shard,) = (state for state in states.values() if state["Type"] == "Task")
    return 6 + 3 * (1 + sum(retry["MaxAttempts"] for retry in shard["Retry"]))


def run_of(shards: int | None, created_s: float = 0.0, generations: int = 1) -> Run:
    return Run(
        "run-1", ("s3://b/in/",), "s3://b/out/", (SCRIPT,) * generations, shard_count=shards, created_s=created_s
    )


@settings(max_examples=60, deadline=None)
@given(
    shards=st.integers(1, 2_000_000),
    ends_s=st.floats(1.0, THREE_DAYS_S),
    stuck=st.floats(0.0, 1.0),
    generations=st.integers(1, 3),
    older_s=st.floats(0.0, 30 * 86_400.0),
)
def test_three_days_of_any_run_make_less_than_20_000_events(
    shards: int, ends_s: float, stuck: float, generations: int, older_s: float
) -> None:
    """Shards end evenly until ``ends_s``, then some are stuck; the run is older than the execution."""
    run = run_of(shards, created_s=-older_s, generations=generations)
    now_s, events = 0.0, 0
    while now_s < THREE_DAYS_S:
        ended = int(shards * (1 - stuck) * min(1.0, now_s / ends_s))
        counts = Counts(pending=shards - ended, succeeded=ended)
        now_s += wait_s(run, counts, now_s, since_s=0.0)
        events += EVENTS_A_TURN
    assert events < 12_000


def test_a_map_and_its_checks_make_under_15_000_events() -> None:
    """In the worst case each child of an inline Map uses all of its tries."""
    map_events = max(MAX_INLINE * events_of_an_inline_child(), EVENTS_A_MAP)
    assert 12_000 + map_events < 15_000


@settings(max_examples=100, deadline=None)
@given(shards=st.integers(1, 100_000), takes_s=st.floats(1.0, THREE_DAYS_S), generation=st.integers(1, 2))
def test_an_end_is_noticed_after_a_tenth_of_the_time_or_300_s(shards: int, takes_s: float, generation: int) -> None:
    run, now_s = run_of(shards, generations=generation), 0.0
    while now_s < takes_s:
        ended = int(shards * now_s / takes_s)
        now_s += wait_s(run, Counts(running=shards - ended, succeeded=ended), now_s) + STEP_S
    assert now_s - takes_s <= max(MIN_S, min(MAX_S, takes_s / 10)) + 1 + STEP_S


def test_a_small_run_is_checked_each_second_at_first() -> None:
    assert wait_s(run_of(40), Counts(running=40), now_s=1.0) == MIN_OF_SMALL_S
    assert wait_s(run_of(41), Counts(running=41), now_s=1.0) == MIN_S
    assert wait_s(run_of(None), Counts(pending=3), now_s=1.0) == MIN_S  # the number of its shards is not known yet


def test_the_wait_is_longer_while_the_end_is_far() -> None:
    run = run_of(1000)
    far = wait_s(run, Counts(pending=900, succeeded=100), now_s=600.0)  # 5,400 s to go
    near = wait_s(run, Counts(pending=10, succeeded=990), now_s=600.0)  # 6 s to go
    assert (far, near) == (60, 15)


def test_earlier_generations_do_not_shorten_the_estimate() -> None:
    counts = Counts(pending=100, succeeded=900)
    assert wait_s(run_of(1000, generations=2), counts, now_s=86_400.0, since_s=86_300.0) == MIN_S


def test_a_clock_behind_the_runs_start_gives_the_shortest_wait() -> None:
    assert wait_s(run_of(1000, created_s=500.0), Counts(pending=1000), now_s=400.0, since_s=600.0) == MIN_S
