"""A plan that is several times more expensive than necessary is reported, with the options that save money."""

import pytest

from sparklet.app.costs import Route, WorkerSize, load_prices
from sparklet.app.estimates import PlanEstimate, estimate_plan
from sparklet.model import RunOptions


def dear(shards: int, objects: int, object_bytes: int, **options: object) -> str:
    chosen = RunOptions(**options)  # type: ignore[arg-type]
    prices = load_prices()
    return estimate_plan(WorkerSize(), chosen, shards, objects, objects * object_bytes, prices).dear


@pytest.mark.parametrize(
    ("files", "file_bytes", "parts"),
    [
        (
            100_000,
            10_000,
            ("100,000 shards for 100,000 files cost about", "--max-objects 1000 --shard-size 128MiB save"),
        ),
        (365, 80_000, ("packed into 1 ", "of work")),  # the README's example: cents, but many times the work
    ],
)
def test_the_saving_by_packing_is_shown(files: int, file_bytes: int, parts: tuple[str, str]) -> None:
    told = dear(files, files, file_bytes, max_objects=1)

    assert all(part in told for part in parts), told


@pytest.mark.parametrize(
    ("shards", "objects", "object_bytes", "options"),
    [
        (100, 100_000, 10_000, {}),  # packed
        (10_000, 10_000, 120 * 2**20, {}),  # large files
        (100_000, 100_000, 10_000, {"group_by": "prefix"}),  # groups share no shard
        (30, 30, 80_000, {"max_objects": 1}),  # a minute
        (0, 0, 0, {}),
    ],
)
def test_a_small_saving_by_packing_is_not_shown(
    shards: int, objects: int, object_bytes: int, options: dict[str, object]
) -> None:
    assert dear(shards, objects, object_bytes, **options) == ""


def test_a_cap_on_the_runs_shards_delays_its_end() -> None:
    def end_s(cap: int) -> float:
        options = RunOptions(max_concurrency=cap)
        return estimate_plan(WorkerSize(), options, 1000, 1000, 10**9, load_prices()).estimate.end_s

    assert end_s(1) > 5 * end_s(10) > 5 * end_s(0)


def test_a_routed_plans_estimate_is_the_sum_of_its_routes() -> None:
    prices, options = load_prices(), RunOptions(too_large="engine")
    routed = [Route("lambda-large", 3, 3 * 10**9), Route("fargate", 2, 2 * 10**10)]

    every = estimate_plan(WorkerSize(), options, 15, 15, 23 * 10**9 + 10 * 10**8, prices, engine_routes=routed)
    here = estimate_plan(WorkerSize(), options, 10, 10, 10 * 10**8, prices)

    functions, large, there = every.routes
    assert (functions.shards, functions.size_bytes, large.shards, there.shards) == (10, 10 * 10**8, 3, 2)
    work, all_work = (each.estimate.cost - each.estimate.costs["run"] for each in (here, every))
    assert functions.cost_usd == pytest.approx(work) and functions.end_s == here.estimate.end_s
    assert all_work == pytest.approx(sum(route.cost_usd for route in every.routes))
    assert every.estimate.end_s == there.end_s > large.end_s > functions.end_s
    assert [route["engine"] for route in every.document()["routes"]] == ["", "lambda-large", "fargate"]
    assert here.routes == ()


def test_an_hour_of_the_large_function_is_lambdas_price() -> None:
    prices = load_prices()
    for architecture in ("x86_64", "arm64"):
        second = 10 * prices[f"prices.lambda_gb_s_{architecture}"] + 9.5 * prices["prices.scratch_gb_s"]
        assert prices.hour_of("lambda-large", architecture) == pytest.approx(3600 * second, rel=1e-5)


def test_a_run_that_costs_more_than_its_work_is_named() -> None:
    def of(objects: int) -> PlanEstimate:
        size = 10_000 * objects
        return estimate_plan(WorkerSize(), RunOptions(), objects, objects, size, load_prices())

    one, many = of(1), of(1000)

    assert one.estimate.costs["run"] > one.estimate.cost / 2 and "in one run" in one.overhead
    assert one.document()["run_itself"] == one.overhead and one.document()["costs_usd"]["run"] > 0
    assert 0 < many.estimate.costs["run"] < 0.02 * many.estimate.cost and many.overhead == ""


def test_the_memory_that_costs_least_is_named_first() -> None:
    """A second vCPU hardly helps small shards; less memory is not offered if shards would not end in time."""
    small = estimate_plan(WorkerSize(), RunOptions(), 1000, 1000, 10**7, load_prices())
    large = estimate_plan(WorkerSize(timeout_s=300), RunOptions(), 10, 10, 10**10, load_prices())

    costs_usd = [each.cost_usd for each in small.sizes]
    assert costs_usd == sorted(costs_usd) and small.sizes[0].memory_mb < 3008
    (default,) = [each for each in small.sizes if each.memory_mb == 3008]
    assert default.cost_usd == pytest.approx(small.estimate.cost)
    assert default.end_s == small.estimate.end_s
    assert small.document()["memory_sizes"][0]["memory_mb"] == small.sizes[0].memory_mb
    assert [each.memory_mb for each in large.sizes] == [3008]


def test_a_memory_size_has_one_price_as_default_or_alternative() -> None:
    """A size that would refuse shards as large as these is left out."""
    for memory_mb in (1769, 3008):
        found = estimate_plan(WorkerSize(memory_mb=memory_mb), RunOptions(), 100, 1000, 10**9, load_prices())
        (own,) = [size for size in found.sizes if size.memory_mb == memory_mb]
        assert (own.shard_s, own.end_s) == (found.time.seconds, found.estimate.end_s)
        assert own.cost_usd == pytest.approx(found.estimate.cost)
    heavy = estimate_plan(WorkerSize(), RunOptions(), 10, 10, 10 * 700 * 2**20, load_prices())

    assert [size.memory_mb for size in heavy.sizes] == [3008]
