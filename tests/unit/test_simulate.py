"""The simulator: messages are neither lost nor made, more workers do no harm, and what it must reproduce it does."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulate.answers import Question
from benchmarks.simulate.constants import FACTS
from benchmarks.simulate.experiments import PUBLISHED, fitted, ours_now, ours_then
from benchmarks.simulate.setup import (
    MAX_RECEIVES,
    NEVER,
    VISIBILITY_TIMEOUTS,
    Scaling,
    Setup,
    by_map,
    by_queue,
)
from benchmarks.simulate.simulation import DEAD, DELETED, IN_FLIGHT, QUEUED, Simulation, simulate
from sparklet.app.costs import WorkerSize

ROOT = Path(__file__).parents[2]

setups = st.builds(
    by_queue,
    shards=st.integers(1, 300),
    seconds=st.lists(st.floats(0.1, 40), min_size=1, max_size=4),
    concurrency=st.integers(2, 60),
    failed=st.sampled_from([0.0, 0.1, 1.0]),
    errors=st.sampled_from([0.0, 0.1]),
    capacity=st.integers(1, 60),
    burst=st.sampled_from([2.0, 1_000.0]),
    max_receives=st.integers(1, 5),
    visibility_s=st.sampled_from([5.0, 60.0, NEVER]),
    slots_a_throttle=st.sampled_from([0.0, 0.3]),
)
"""Of every kind: throttled, failing, with a visibility timeout that is too short."""


def plain(**changes: Any) -> Setup:
    """A hundred shards of 10 s by five workers, which nothing disturbs."""
    setup = by_queue(100, (10.0,), 5, sent_a_s=1e6, cold_start_s=0.0, turnaround_s=0.0)
    return replace(setup, **changes)


@pytest.mark.nightly
@given(setups, st.booleans(), st.integers(0, 3), st.sampled_from([20.0, 300.0, NEVER]))
@settings(max_examples=150, deadline=None)
def test_no_message_is_lost_or_made(setup: Setup, has_ledger: bool, seed: int, limit_s: float) -> None:
    setup = replace(setup, ledger=setup.ledger if has_ledger else None, limit_s=limit_s)
    if not has_ledger:  # nothing else ends what always fails
        setup = replace(setup, failed=min(setup.failed, 0.1))
    simulation = Simulation(setup, seed)

    result = simulation.run()

    last, messages = result.samples[-1], simulation._message
    unsent = setup.shards - last.sent
    assert messages.count(QUEUED) == unsent + last.waiting
    assert messages.count(IN_FLIGHT) == last.in_flight
    assert messages.count(DELETED) + messages.count(DEAD) == last.sent - last.waiting - last.in_flight
    assert sum(result.states.values()) == setup.shards
    assert result.lost == result.states["open"] + result.states["lost"]
    assert all(0 <= each.running <= setup.capacity for each in result.samples)


@pytest.mark.nightly
def test_ends_are_those_of_arithmetic() -> None:
    """Undisturbed, of a Map's batches one after the other, with a thousand claims at once in one partition."""
    batches = by_map(30, (10.0,), 10, batch=10, starts_s=0.0, cold_start_s=0.0)
    full = plain(shards=1_000, scaling=Scaling(1_000, 0, 1_000), capacity=1_000, burst=NEVER)

    assert simulate(plain()).end_s == pytest.approx(200, abs=0.1)
    assert simulate(batches).end_s == pytest.approx(3 * 10 + 2 * 30, abs=2)
    assert 13.9 < simulate(full).end_s < 16  # four writes each, 1,000 a second less the renewals


@pytest.mark.nightly
def test_attempts_are_those_of_the_rules() -> None:
    """A failing script has three; a lost worker costs a lease and a check."""
    failed = simulate(plain(failed=1.0))
    lost = [simulate(plain(shards=1, errors=1.0, limit_s=limit_s)).attempts for limit_s in (59.9, 60.1, 180.0)]

    assert (failed.states["failed"], failed.attempts, failed.lost, lost) == (100, 300, 0, [1, 2, 3])
    assert simulate(by_queue(5_000, (3_600.0,), 1_000, sent_a_s=NEVER, limit_s=120.0)).samples[
        -1
    ].slots == pytest.approx(5 + 2 * 300, abs=3)  # the mapping grows as AWS says


@pytest.mark.nightly
def test_the_published_dead_letters_can_be_had() -> None:
    """With what the experiment must have had; a mapping that slows down at throttles loses none."""
    as_published = simulate(fitted(0))

    assert 0.6 * PUBLISHED < as_published.dead < 1.5 * PUBLISHED
    assert as_published.lost == as_published.dead
    assert simulate(fitted(0, changes={"retry_most_s": 20.0, "slots_a_throttle": 0.2})).dead < 20


@pytest.mark.nightly
@pytest.mark.parametrize("setup", [ours_then, ours_now])
def test_sparklets_settings_lose_none_of_them(setup: Any) -> None:
    result = simulate(setup(3), 3)

    assert (result.lost, result.states["succeeded"]) == (0, 15_000)


def test_every_constant_has_a_source_and_a_date() -> None:
    assert not [name for name, each in FACTS.items() if not each.source or not re.match(r"20\d\d-\d\d", each.date)]


def test_sparklets_settings_are_the_templates() -> None:
    template = (ROOT / "sam" / "template.yaml").read_text()
    defaults = dict(re.findall(r"^  (\w+):\n    Type: \w+\n    Default: (\d+)$", template, re.M))
    visibility = re.findall(r'"(\d+)": \{ Queue: (\d+) \}', template)

    assert int(defaults["MaxReceiveCount"]) == MAX_RECEIVES
    assert int(defaults["MaximumConcurrency"]) == WorkerSize.concurrency == Question.concurrency
    assert {int(queue) / int(timeout) for timeout, queue in visibility} == {VISIBILITY_TIMEOUTS}
    assert "Schedule: rate(1 minute)" in template
