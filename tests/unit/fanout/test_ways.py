"""Which way a plan goes and what it costs: figures computed by hand, and what holds for any plan."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.fanout.choosing.prices import load_prices
from sparklet.fanout.choosing.ways import (
    PlanFigures,
    Way,
    Worker,
    assumed_shard_s,
    compare,
    most_turns,
    scaled_shard_s,
    work_s,
)

PRICES = load_prices()
TWO_GB = Worker(memory_mb=2048)
FIGURES = PlanFigures(shards=100, shard_s=20.0, worker=TWO_GB, concurrency=50, map_concurrency=50)

plans = st.builds(
    PlanFigures,
    shards=st.integers(0, 3_000_000),
    shard_s=st.floats(0.01, 900),
    worker=st.builds(
        Worker,
        st.integers(512, 10240),
        st.integers(512, 10240),
        st.sampled_from([60, 120, 900]),
        st.sampled_from(["x86_64", "arm64"]),
    ),
    concurrency=st.integers(1, 2000),
    map_concurrency=st.integers(1, 20_000),
    rate_per_s=st.sampled_from([0.0, 0.5, 50.0]),
)


# --- by hand ---


def test_the_loop_by_hand() -> None:
    loop = compare(FIGURES, PRICES).of(Way.LOOP)

    # 5 pollers, 5 more a second up to 50: after 9 s they have done 9 × (5 + 50) / 2 = 247.5 s of the 100 × 20 = 2,000 s
    # of work; the rest takes (2000 - 247.5) / 50 = 35.05 s. With 5 s of the machine's steps and a cold start of 10 s:
    assert loop.end_s == pytest.approx(5 + 10 + 9 + 35.05)
    # 2,000 s of work and 50 cold starts of 10 s in 2 GB, and 100 requests:
    assert loop.costs["lambda"] == pytest.approx(2500 * 2 * 0.0000166667 + 100 * 0.0000002)
    # 100 × 2.1 requests to the queue; 59.05 s are 12 turns (each 5 s) of 3 states, and 8 states are entered once:
    assert loop.costs["dispatch"] == pytest.approx(210 * 0.0000004 + (12 * 3 + 8) * 0.000025)
    # a lease is renewed every 8 s of 2,500:
    assert loop.costs["ledger"] == pytest.approx((100 * 8 + 2500 / 8) * 0.000000625 + 100 * 4 * 0.000000125)
    assert loop.costs["s3"] == pytest.approx(100 * (63 * 0.000005 + 60 * 0.0000004))
    # 0.0833535 + 0.001184 + 0.0007453125 + 0.0339
    assert loop.cost == pytest.approx(0.1191828)


def test_the_map_by_hand() -> None:
    mapped = compare(FIGURES, PRICES).of(Way.MAP)

    # 15 s as before, 100 shards planned at 250 a second, then 2,000 s of work with 50 at once:
    assert mapped.end_s == pytest.approx(15 + 0.4 + 40)
    # a state for each child, and 8 for the machine:
    assert mapped.costs["dispatch"] == pytest.approx((100 * 1 + 8) * 0.000025)
    assert mapped.costs["lambda"] == compare(FIGURES, PRICES).of(Way.LOOP).costs["lambda"]


def test_scratch_and_arm_by_hand() -> None:
    arm = replace(FIGURES, worker=Worker(2048, scratch_mb=4608, architecture="arm64"))
    # 2,500 s with 4 GB of /tmp above the free 512 MB
    wanted = 2500 * (2 * 0.0000133334 + 4 * 0.0000000309) + 100 * 0.0000002
    assert compare(arm, PRICES).of(Way.LOOP).costs["lambda"] == pytest.approx(wanted)


def test_workers_that_become_more_by_hand() -> None:
    assert work_s(0, 60, 5, 5, 1000) == 0
    assert work_s(3, 60, 5, 5, 1000) == 60  # never shorter than one shard
    assert work_s(100, 10, 4, 1, 4) == 250  # four all the time
    # 10 × 60 s = 600 s of work are done before all 1,000 are there: 5 t + 5 t² / 2 = 600, t = (-5 + √(25 + 6000)) / 5
    assert work_s(10, 60, 5, 5, 1000) == 60
    # 1,000 × 60 s: t = (-5 + √(25 + 600,000)) / 5
    assert work_s(1000, 60, 5, 5, 1000) == pytest.approx(153.92, abs=0.01)


def test_a_machines_turns_by_hand() -> None:
    assert [most_turns(s) for s in (0, 1, 200)] == [0, 1, 40]
    assert most_turns(2000) == 133  # 40, and 40 × ln 10 = 92.1 more
    assert most_turns(3 * 24 * 3600) == 1028  # 40 + 40 × ln 60 = 203.8, and 247,200 s / 300 s = 824 more


def test_a_shards_time_by_hand() -> None:
    assert assumed_shard_s(100_000_000, PRICES) == pytest.approx(2 + 20)
    assert scaled_shard_s(12.0, 1000, 3000, PRICES) == pytest.approx(2 + 10 * 3)
    assert scaled_shard_s(1.5, 1000, 3000, PRICES) == 1.5  # all of it is the part that every task has
    assert scaled_shard_s(12.0, 0, 3000, PRICES) == 12.0


# --- the choice ---


def test_few_shards_go_inline_and_41_do_not() -> None:
    assert compare(replace(FIGURES, shards=40), PRICES).chosen is Way.INLINE
    more = compare(replace(FIGURES, shards=41), PRICES)
    assert more.chosen is Way.LOOP
    assert more.of(Way.INLINE).refused == (
        "41 shards are more than the 40 that run at once in an inline Map; use map or loop"
    )


def test_the_loop_is_taken_where_a_map_saves_little_time() -> None:
    found = compare(FIGURES, PRICES)  # 59.05 s against 55.4 s
    assert found.chosen is Way.LOOP and found.reason.startswith("a map would end 0.1 min sooner, and cost 0.00")


def test_a_map_is_taken_where_the_queues_workers_come_too_slowly() -> None:
    large = replace(FIGURES, shards=1000, shard_s=60.0, concurrency=1000, map_concurrency=1000)

    found = compare(large, PRICES)

    # the loop: 15 + 153.92 s; the map: 15 + 1000 / 250 + 60 = 79 s
    assert (found.of(Way.LOOP).end_s, found.of(Way.MAP).end_s) == pytest.approx((168.92, 79), abs=0.01)
    assert found.chosen is Way.MAP and found.reason.startswith("it ends 1.5 min sooner than the loop, for 0.02")


def test_a_map_that_costs_much_more_is_not_taken() -> None:
    tiny = replace(FIGURES, shards=100_000, shard_s=0.5, worker=Worker(512), concurrency=10, map_concurrency=1000)
    dear = load_prices()
    dear = replace(dear, figures={**dear.figures, "prices.s3_put": replace(dear.figures["prices.s3_put"], value=0.0)})

    found = compare(tiny, dear)

    assert found.of(Way.MAP).end_s < found.of(Way.LOOP).end_s / 2
    assert found.chosen is Way.LOOP and "but cost" in found.reason


def test_a_paced_run_takes_the_loop() -> None:
    paced = compare(replace(FIGURES, shards=30, rate_per_s=0.5), PRICES)
    assert paced.chosen is Way.LOOP and "--rate" in paced.reason
    # the last of 30 messages is sent after 58 s, its shard takes 20 s
    assert paced.of(Way.LOOP).end_s == pytest.approx(15 + 58 + 20)


# --- what is assumed of the state machines is so ---


def states_of(machine: str) -> dict[str, Any]:
    path = Path(__file__).parents[3] / "sam" / "statemachines" / f"{machine}.asl.json"
    states: dict[str, Any] = json.loads(path.read_text())["States"]
    return states


def test_a_child_of_the_map_enters_as_many_states_as_are_paid_for() -> None:
    maps = [state for state in states_of("map").values() if state["Type"] == "Map"]
    assert len(maps) == 2
    for state in maps:
        states, name, entered = state["ItemProcessor"]["States"], state["ItemProcessor"]["StartAt"], 1
        while not states[name].get("End"):
            name, entered = states[name]["Next"], entered + 1
        assert entered == PRICES["assumptions.states_a_map_shard"]


def test_a_turn_of_the_loop_enters_as_many_states_as_are_paid_for() -> None:
    states = states_of("loop")
    choice = states[states["Check"]["Next"]]
    wait = states[choice["Default"]]
    assert (choice["Type"], wait["Type"], wait["Next"]) == ("Choice", "Wait", "Check")
    assert PRICES["assumptions.states_a_turn"] == 3  # Check, that choice, that wait


# --- whatever the plan ---


@given(plans)
def test_nothing_is_ever_negative_and_what_is_chosen_can_be_done(figures: PlanFigures) -> None:
    found = compare(figures, PRICES)
    for each in found.estimates:
        assert each.end_s >= 0 and min(each.costs.values()) >= 0 and each.workers <= figures.shards
    assert not found.of(found.chosen).refused
    assert (found.of(Way.INLINE).refused == "") == (figures.shards <= 40)


@given(plans, st.integers(0, 100_000))
def test_more_shards_never_end_sooner_nor_cost_less(figures: PlanFigures, more: int) -> None:
    fewer, all_of_them = compare(figures, PRICES), compare(replace(figures, shards=figures.shards + more), PRICES)
    for way in Way:
        assert all_of_them.of(way).end_s >= fewer.of(way).end_s * (1 - 1e-12)
        assert all_of_them.of(way).cost >= fewer.of(way).cost * (1 - 1e-12)
