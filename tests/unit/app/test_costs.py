"""The cost and duration of a run: figures computed by hand, and properties of any plan."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.app.costs import (
    Estimate,
    Load,
    Route,
    WorkerSize,
    estimate,
    estimate_route,
    load_prices,
    run_cost,
    shard_time,
)
from sparklet.app.stack import deployed_size
from sparklet.model import Dispatch, RunOptions
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from tests.stand_ins.memory import MemoryObjectStore
from tests.world import World, ledger_of

PRICES = load_prices()
ROOT = Path(__file__).parents[3]
STATES = json.loads((ROOT / "sam" / "statemachines" / "run.asl.json").read_text())["States"]
TWO_GB = WorkerSize(memory_mb=2048, scratch_bytes=512 * 2**20, concurrency=50, map_concurrency=50)
CONCURRENCY = st.integers(1, 20_000)
SIZES = st.builds(
    WorkerSize,
    memory_mb=st.integers(512, 10240),
    timeout_s=st.sampled_from([60, 120, 900]),
    scratch_bytes=st.integers(512, 10240).map(lambda mb: mb * 2**20),
    concurrency=CONCURRENCY,
    map_concurrency=CONCURRENCY,
    architecture=st.sampled_from(["x86_64", "arm64"]),
)


def of_100(dispatch: Dispatch, size: WorkerSize = TWO_GB, **more: float) -> Estimate:
    """100 shards of 20 s each, 50 at once."""
    return estimate(dispatch, Load(100), 20.0, size, PRICES, **more)


class Counting:
    """A port whose calls are counted."""

    def __init__(self, port: object, made: Counter[str]) -> None:
        self._port, self._made = port, made

    def __getattr__(self, name: str) -> object:
        is_get_of_store = name == "get" and isinstance(self._port, MemoryObjectStore)
        self._made["get_object" if is_get_of_store else name] += 1
        return getattr(self._port, name)


# --- by hand ---


def test_the_cost_of_a_queue_run_equals_the_sum_by_hand() -> None:
    found = of_100(Dispatch.QUEUE)

    # a cold start of 10 s, then 50 workers do 2 shards each, of which the first arrive while the plan is still written:
    assert found.end_s == pytest.approx(10 + 40) and found.workers == 50
    # 2,000 s of work and 50 cold starts of 10 s in 2 GB, and 100 requests:
    assert found.costs["lambda"] == pytest.approx(2500 * 2 * 0.0000166667 + 100 * 0.0000002)
    # 100 × 2.1 requests to the queue:
    assert found.costs["dispatch"] == pytest.approx(210 * 0.0000004)
    # a lease is renewed every 8 s of 2,500:
    assert found.costs["ledger"] == pytest.approx((100 * 8 + 2500 / 8) * 0.000000625 + 100 * 4 * 0.000000125)
    assert found.costs["s3"] == pytest.approx(100 * (4 * 0.000005 + 0.0000004))
    assert found.cost == pytest.approx(0.0833535 + 0.000084 + 0.0007453125 + 0.00204)


def test_the_cost_of_a_map_run_equals_the_sum_by_hand() -> None:
    found = of_100(Dispatch.MAP)

    # a cold start, 100 shards planned at 250 a second, then 2,000 s of work with 50 at once:
    assert found.end_s == pytest.approx(10 + 0.4 + 40)
    assert found.costs["dispatch"] == pytest.approx(100 * 2 * 0.000025)  # each child, and its state
    assert found.costs["lambda"] == of_100(Dispatch.QUEUE).costs["lambda"]


def test_the_cost_of_scratch_and_arm_equals_the_sum_by_hand() -> None:
    found = of_100(Dispatch.QUEUE, replace(TWO_GB, scratch_bytes=4608 * 2**20, architecture="arm64"))
    # 2,500 s with 4 GB of /tmp above the free 512 MB
    wanted = 2500 * (2 * 0.0000133334 + 4 * 0.0000000309) + 100 * 0.0000002
    assert found.costs["lambda"] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("engine", "architecture", "an_hour"),
    [
        ("fargate", "x86_64", 4 * 0.04048 + 16 * 0.004445),
        ("fargate", "arm64", 4 * 0.03238 + 16 * 0.00356),
        ("process", "x86_64", 4 * 0.04048 + 16 * 0.004445),  # locally, as it would be on AWS
        ("standalone", "arm64", 4 * 0.03238 + 16 * 0.00356),
        ("emr-serverless", "x86_64", 8 * 0.052624 + 32 * 0.0057785),
        ("glue", "x86_64", 2 * 0.44),
        ("glue", "arm64", 2 * 0.44),  # no matter of the image's
        ("emr", "x86_64", 0.0),
    ],
)
def test_the_cost_of_engine_shards_equals_the_sum_by_hand(engine: str, architecture: str, an_hour: float) -> None:
    size = replace(TWO_GB, architecture=deployed_size({"Architecture": architecture}).architecture)  # of the stack
    found = estimate_route(Route(engine, 4, 0), 60.0, size, PRICES)

    # four workers at once, 90 s until each has its shard
    assert (found.workers, found.end_s) == (4, 150.0)
    assert found.costs[engine] == pytest.approx(4 * 150 * an_hour / 3600)
    assert not {"lambda", "dispatch"} & found.costs.keys()
    assert estimate_route(Route(engine, 4, 0), 60.0, replace(size, is_local=True), PRICES).end_s == 600.0


def test_the_estimated_time_of_a_shard_equals_the_sum_by_hand() -> None:
    found = shard_time(Load(2, 2, 10_000_000), PRICES)

    assert found.seconds == pytest.approx(2 + 1) and found.origin == "assumed: 2 s, and 4.8 MiB at 5 MB/s"


def test_a_shards_files_take_time_and_requests() -> None:
    """100 shards, 1,000 files in each, and as many outputs."""
    load = Load(100, 100_000, 10**9, 100_000)

    assert shard_time(load, PRICES).seconds == pytest.approx(2 + 999 * (0.015 + 0.015) + 2)
    puts, gets = 100 * 2 + 100_000 * 2, 100_000
    found = estimate(Dispatch.QUEUE, load, 20.0, TWO_GB, PRICES)
    assert found.costs["s3"] == pytest.approx(puts * 0.000005 + gets * 0.0000004)


# --- assumptions about the state machine ---


def test_a_child_of_the_map_enters_the_priced_states() -> None:
    maps = [state for state in STATES.values() if state["Type"] == "Map"]
    assert len(maps) == 2
    for state in maps:
        states, name, entered = state["ItemProcessor"]["States"], state["ItemProcessor"]["StartAt"], 1
        while not states[name].get("End"):
            name, entered = states[name]["Next"], entered + 1
        assert 1 + entered == PRICES["assumptions.states_a_map_shard"]  # AWS bills a distributed child's start, too


def test_a_run_enters_the_priced_states() -> None:
    """A request by schedule.yaml for an object: it has neither a run's id nor a dispatch mode."""
    found = ["Accept"]
    taken = {"Planned": iter(["Check"]), "Ended": iter(["Wait", "Follow"]), "Verdict": iter(["Succeeded"])}
    while (state := STATES[found[-1]])["Type"] != "Succeed":
        found.append(next(taken[found[-1]]) if found[-1] in taken else state.get("Next") or state["Default"])

    of_checks = [each for each in found if each in ("Check", "Ended", "Wait")]
    assert len(found) - len(of_checks) == PRICES["assumptions.states_a_run"]
    assert len(of_checks) == 2 * PRICES["assumptions.states_a_check"] - 1


def test_a_run_of_one_shard_makes_the_priced_requests() -> None:
    world, made = World(), Counter[str]()
    world.put(1)
    ledger = ledger_of(world.ledger, lambda port: Counting(port, made))
    deployment = replace(world.deployment, store=Counting(world.store, made), ledger=ledger)  # type: ignore[arg-type]

    run = plan(deployment, new_run(deployment, world.request(options=RunOptions(max_objects=1))).run_id)
    planned = made.copy()
    assert not world.step("check", deployment)["ended"]
    check = made - planned
    world.work()
    assert world.step("check", deployment)["ended"] and run.shard_count == 1

    def count(*names: str) -> int:
        return sum(made[name] for name in names)

    assert check.total() == PRICES["assumptions.ledger_reads_a_check"], check
    assert count("put", "list") == PRICES["assumptions.s3_puts_a_run"], made
    assert count("get_object", "get_all", "head", "foreign_region") == PRICES["assumptions.s3_gets_a_run"], made
    writes = count("create", "add_part", "mark_dispatched", "seal_plan", "finish")
    assert writes == PRICES["assumptions.ledger_writes_a_run"], made


def test_the_cost_of_a_run_by_itself_equals_the_sum_by_hand() -> None:
    """Its shard takes 2 s in a warm worker: checks after 0, 1 and 2 s, and one that comes too late to see more."""
    found = run_cost(1, 2.5, "x86_64", PRICES)

    states, function_s = 8 + 4 * 3 - 1, 1 + 1 / 250 + 4 * 0.3
    of_functions = function_s * 1769 / 1024 * 0.0000166667 + 5 * 0.0000002
    requests = 27 * 0.000005 + 8 * 0.0000004 + 5 * 0.000000625 + 4 * 6 * 0.000000125
    assert found == pytest.approx(states * 0.000025 + of_functions + requests)


def test_a_run_for_each_object_costs_what_the_guide_says() -> None:
    guide = (ROOT / "docs" / "guide" / "costs.md").read_text()
    load = Load(100_000, 100_000, 10**9)
    shard_s = shard_time(load, PRICES).seconds

    work = estimate(Dispatch.QUEUE, load, shard_s, WorkerSize(), PRICES).cost
    apart = work + 100_000 * run_cost(1, shard_s, "x86_64", PRICES)

    assert f"a run for each of them costs {apart:.0f} USD, {apart / work:.1f} times the work" in " ".join(guide.split())


# --- properties of any plan ---


@given(
    st.sampled_from(Dispatch),
    st.integers(0, 3_000_000),
    st.integers(0, 100_000),
    st.floats(0.01, 900),
    SIZES,
)
def test_more_shards_never_end_sooner_nor_cost_less(
    dispatch: Dispatch, shards: int, more: int, shard_s: float, size: WorkerSize
) -> None:
    fewer, larger = (estimate(dispatch, Load(count), shard_s, size, PRICES) for count in (shards, shards + more))
    assert fewer.end_s >= 0 and min(fewer.costs.values()) >= 0 and fewer.workers <= shards
    assert larger.end_s >= fewer.end_s * (1 - 1e-12)
    assert larger.cost >= fewer.cost * (1 - 1e-12)
