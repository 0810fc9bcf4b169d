"""The simulator: messages are neither lost nor made, more workers do no harm, and what it must reproduce it does."""

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulate import __main__ as command
from benchmarks.simulate.answers import LAMBDA, MAP, Question, answer
from benchmarks.simulate.constants import FACTS, RANGES, drawn, usual
from benchmarks.simulate.experiments import PUBLISHED, fitted, ours_now, ours_then
from benchmarks.simulate.local import predicted_s
from benchmarks.simulate.measured import measured
from benchmarks.simulate.setup import (
    MAX_RECEIVES,
    NEVER,
    VISIBILITY_TIMEOUTS,
    Scaling,
    Setup,
    by_engine,
    by_map,
    by_queue,
)
from benchmarks.simulate.simulation import DEAD, DELETED, IN_FLIGHT, QUEUED, Simulation, simulate
from sparklet.app.costs import WorkerSize, load_prices

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


@given(st.integers(1, 300), st.floats(1, 60), st.integers(2, 40), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_littles_law_holds(shards: int, seconds: float, concurrency: int, seed: int) -> None:
    """The integral of what is there is the sum of the times in it: for the shards sent, and for the workers."""
    setup = by_queue(shards, (seconds,), concurrency, sent_a_s=NEVER, cold_start_s=0.0)
    simulation = Simulation(setup, seed)
    simulation._sample_every_s = 0.0  # before each event

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.simulate.simulation.MAX_SAMPLES", 1_000_000)
        result = simulation.run()

    areas = ((b.at_s - a.at_s) * (b.sent - b.ended) for a, b in pairwise(result.samples))
    assert sum(areas) == pytest.approx(result.in_system_s, abs=0.001 * len(result.samples))
    assert result.running_s == pytest.approx(result.billed_s)
    assert result.running_s == pytest.approx(shards * seconds, rel=0.01, abs=0.01 * shards)


@given(st.integers(20, 400), st.lists(st.floats(1, 60), min_size=1, max_size=5), st.integers(2, 100), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_more_at_once_never_ends_later(shards: int, seconds: list[float], concurrency: int, seed: int) -> None:
    """Beyond noise: the last shard may begin late and take the longest of the times."""
    ends = [simulate(by_queue(shards, seconds, most), seed).end_s for most in (concurrency, 2 * concurrency)]

    assert ends[1] <= ends[0] + max(seconds)


def test_undisturbed_work_ends_when_arithmetic_says() -> None:
    assert simulate(plain()).end_s == pytest.approx(200, abs=0.1)


def test_the_same_seed_gives_the_same_run() -> None:
    setup = plain(failed=0.2, errors=0.1)

    assert simulate(setup, 7) == simulate(setup, 7) != simulate(setup, 8)


def test_a_failing_script_ends_its_shard_after_three_attempts() -> None:
    result = simulate(plain(failed=1.0))

    assert (result.states["failed"], result.attempts, result.lost) == (100, 300, 0)


def test_a_lost_worker_costs_a_lease_and_a_check() -> None:
    attempts = [simulate(plain(shards=1, errors=1.0, limit_s=limit_s)).attempts for limit_s in (59.9, 60.1, 180.0)]

    assert attempts == [1, 2, 3]


def test_a_throttled_message_becomes_a_dead_letter() -> None:
    setup = plain(scaling=Scaling(6, 0, 6), capacity=5, seconds=(1_000.0,), visibility_s=30.0, max_receives=1)

    alone, ours = simulate(replace(setup, ledger=None, shards=6)), simulate(replace(setup, shards=6))

    assert alone.dead == alone.lost > 0
    assert ours.dead > 0
    assert ours.lost == 0


def test_a_full_partition_of_the_ledger_holds_shards_up() -> None:
    """A thousand claims at once: four writes each, 1,000 a second less the renewals."""
    result = simulate(plain(shards=1_000, scaling=Scaling(1_000, 0, 1_000), capacity=1_000, burst=NEVER))

    assert 13.9 < result.end_s < 16


def test_a_map_batch_waits_for_the_one_before() -> None:
    setup = by_map(30, (10.0,), 10, batch=10, starts_s=0.0, cold_start_s=0.0)

    assert simulate(setup).end_s == pytest.approx(3 * 10 + 2 * 30, abs=2)


def test_an_engines_worker_starts_for_each_shard() -> None:
    """At most 1,000 a check; each start takes its time, and the next one waits for a check."""
    result = simulate(by_engine(2_000, (10.0,), 2_000, 90.0))

    assert (result.attempts, result.states["succeeded"]) == (2_000, 2_000)
    assert result.end_s == pytest.approx(120 + 100, abs=2)


def test_what_is_open_at_the_time_limit_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three days of five workers that take six hours a shard: sixty at most."""
    run(monkeypatch, "--shards", "100", "--seconds", str(6 * 3_600), "--concurrency", "5")

    assert re.search(r"lost=0 dead_letters=0; 4\d FAILED at the time limit of 72 h", capsys.readouterr().out)


def test_the_mapping_grows_as_aws_says() -> None:
    setup = by_queue(5_000, (3_600.0,), 1_000, sent_a_s=NEVER, limit_s=120.0)

    result = simulate(setup)

    assert result.samples[-1].slots == pytest.approx(5 + 2 * 300, abs=3)


def test_the_published_dead_letters_can_be_had() -> None:
    """With what the experiment must have had; a mapping that slows down at throttles loses none."""
    as_published = simulate(fitted(0))

    assert 0.6 * PUBLISHED < as_published.dead < 1.5 * PUBLISHED
    assert as_published.lost == as_published.dead
    assert simulate(fitted(0, changes={"retry_most_s": 20.0, "slots_a_throttle": 0.2})).dead < 20


@pytest.mark.parametrize("setup", [ours_then, ours_now])
def test_sparklets_settings_lose_none_of_them(setup: Any) -> None:
    result = simulate(setup(3), 3)

    assert (result.lost, result.states["succeeded"]) == (0, 15_000)


def test_what_is_not_known_is_drawn_within_its_range() -> None:
    import random

    for seed in range(50):
        found = drawn(random.Random(seed))
        assert all(RANGES[name].least <= value <= RANGES[name].most for name, value in found.items())
    assert usual().keys() == RANGES.keys()


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


def test_costs_grow_with_shards_and_name_their_parts() -> None:
    prices = load_prices()
    small, large = (answer(Question(shards=count, seconds=(3.0,), concurrency=5), prices) for count in (100, 1_000))
    by_map = answer(Question(shards=1_000, seconds=(3.0,), engine=MAP), prices)

    assert 8.5 < large.cost / small.cost < 10.1
    assert set(large.costs) == {"lambda", "cold starts", "dispatch", "ledger", "s3", "planner, checks"}
    assert by_map.costs["dispatch"] == pytest.approx(1_000 * prices["prices.transition"])
    assert large.limited_by.startswith("MaximumConcurrency, 1.7 ")


def test_durations_come_from_a_runs_result_files(tmp_path: Path) -> None:
    """The first shard of each environment is cold, and counts as that."""
    took = [("a", 0, 13.0), ("b", 1, 15.0), ("a", 14, 4.0), ("b", 17, 2.0), ("a", 18, 3.0)]
    entries = [
        {"StartDate": f"2026-11-25T00:00:{at:02}.000Z", "LogStream": name, "DurationSeconds": s} for name, at, s in took
    ]
    (tmp_path / "SUCCEEDED_0.json").write_text(json.dumps(entries))

    found = measured(str(tmp_path))

    assert (found.seconds, found.environments, found.lasted_s) == ((4.0, 2.0, 3.0), 2, 21.0)
    assert found.cold_start_s == 11.0
    assert found.gap_s == pytest.approx(2 / 3)
    assert predicted_s(replace(found, seconds=(3.0,), gap_s=0.0), 6, 2) == pytest.approx(11 + 9, abs=0.1)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["simulate", *arguments])
    command.main()


def test_a_sweep_finds_the_cheapest_that_ends_in_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    swept = ["--shards", "500", "--seconds", "10", "--sweep", "concurrency=10..160"]
    run(monkeypatch, *swept, "--within", "4", "--json")
    found = json.loads(capsys.readouterr().out)
    run(monkeypatch, *swept, "--within", "4")
    chosen = int(re.search(r"([\d,]+) at once", capsys.readouterr().out.split("\n\n")[1]).group(1))  # type: ignore[union-attr]

    in_time = [each for each in found if each["end_s"] <= 240]
    assert len(found) == 9
    assert 0 < len(in_time) < 9
    assert chosen == min(in_time, key=lambda each: each["cost_usd"])["question"]["concurrency"]
    with pytest.raises(SystemExit, match="none ends within"):
        run(monkeypatch, *swept, "--within", "0.1")


def test_the_page_has_its_plots_and_needs_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("vl_convert")
    run(monkeypatch, "--shards", "50", "--engine", LAMBDA, "--html", str(tmp_path / "run.html"))

    page = (tmp_path / "run.html").read_text()

    assert not re.search(r"<(script|link)[^>]+(src|href)=", page)
    spec = json.loads(re.search(r'vegaEmbed\("#plots", (\{.*\}), \{"actions"', page).group(1))  # type: ignore[union-attr]
    import vl_convert

    assert vl_convert.vegalite_to_svg(spec).count("<svg") == 1
    assert len(spec["concat"]) == 6
