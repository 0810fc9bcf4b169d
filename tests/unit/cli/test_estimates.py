"""A plan that is several times dearer than it need be is told so, with the options that save it."""

from pathlib import Path

import pytest

from sparklet.app.costs import WorkerSize, load_prices
from sparklet.app.estimates import Route, explain
from sparklet.model import RunOptions
from tests.unit.cli.conftest import RUN, Terminal
from tests.world import SCRIPT, SOURCE

DEAR_PUTS = '[prices.s3_put]\nvalue = 0.01\ndate = "2026-11"\nsource = "a test"\n'


def dear(shards: int, objects: int, object_bytes: int, **options: object) -> str:
    chosen = RunOptions(**options)  # type: ignore[arg-type]
    prices = load_prices()
    return explain(WorkerSize(), "daily", chosen, shards, objects, objects * object_bytes, prices).dear


def test_the_saving_by_packing_small_files_is_shown() -> None:
    told = dear(100_000, 100_000, 10_000, max_objects=1)

    assert "100,000 shards for 100,000 files cost about" in told
    assert "--max-objects 1000 --shard-size 128MiB save" in told


def test_the_readmes_example_of_a_dear_plan_is_one() -> None:
    """365 files, one a shard: cents, but many times the work."""
    told = dear(365, 365, 80_000, max_objects=1)

    assert "packed into 1 " in told and "of work" in told


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


def test_a_routed_plan_is_the_sum_of_its_routes() -> None:
    prices, options = load_prices(), RunOptions(route="auto")
    routed = Route("fargate", 2, 2 * 10**9)

    both = explain(WorkerSize(), "daily", options, 12, 12, 2 * 10**9 + 10 * 10**8, prices, routed=routed)
    here = explain(WorkerSize(), "daily", options, 10, 10, 10 * 10**8, prices)

    functions, there = both.routes
    assert (functions.shards, functions.size_bytes, there.shards) == (10, 10 * 10**8, 2)
    assert (functions.cost_usd, functions.end_s) == (here.estimate.cost, here.estimate.end_s)
    assert both.estimate.cost == pytest.approx(functions.cost_usd + there.cost_usd)
    assert both.estimate.end_s == there.end_s > functions.end_s
    assert [route["engine"] for route in both.document()["routes"]] == ["", "fargate"]
    assert here.routes == ()


@pytest.mark.parametrize("words", [("run",), ("plan", "--explain"), ("plan", "--explain", "--dry-run")])
def test_run_and_plan_warn_of_a_dear_plan(terminal: Terminal, tmp_path: Path, words: tuple[str, ...]) -> None:
    terminal.world.put(50)
    (tmp_path / "prices.toml").write_text(DEAR_PUTS)
    arguments = (
        "-i",
        SOURCE,
        "-o",
        "s3://data/out/{run_id}/",
        "--run-id",
        RUN,
        "--prices",
        str(tmp_path / "prices.toml"),
    )

    packed = terminal.types(words[0], SCRIPT, *words[1:], *arguments[:-3], "packed", *arguments[-2:])
    alone = terminal.types(words[0], SCRIPT, *words[1:], *arguments, "--max-objects", "1")

    assert (packed.code, alone.code) == (0, 0), packed.err + alone.err
    assert "--max-objects 1000" in alone.err + alone.out
    assert "--max-objects" not in packed.err + packed.out


def test_unused_snapshots_are_part_of_what_snapstart_costs() -> None:
    def kept(unused_mb: int) -> float:
        size = WorkerSize(memory_mb=2048, unused_snapshots_mb=unused_mb)
        found = explain(size, "daily", RunOptions(), 100, 100, 100 * 500 * 10**6, load_prices())
        return next(each.kept_usd_hour for each in found.choices if each.name == "snapstart")

    assert kept(3 * 2048) == pytest.approx(4 * kept(0))


def test_every_way_of_starting_workers_has_its_cost() -> None:
    """With 2,048 MB at 0.0000166667 a GB-second, 50 workers at once, and shards of 102 s, all by hand."""
    size = WorkerSize(memory_mb=2048, scratch_bytes=0)
    found = explain(size, "daily", RunOptions(), 100, 100, 100 * 500 * 10**6, load_prices())
    ways = {each.name: each for each in found.choices}

    assert ways["on demand"].cost_usd == found.estimate.cost
    run_usd, cold_usd = 100 * 102 * 2 * 0.0000166667, 50 * 10 * 2 * 0.0000166667
    restored_usd = 50 * 2 * (2 * 0.0000166667 + 0.0001397998)
    assert ways["on demand"].cost_usd - ways["snapstart"].cost_usd == pytest.approx(cold_usd - restored_usd)
    assert ways["on demand"].cost_usd - ways["provisioned"].cost_usd == pytest.approx(cold_usd + 0.41667 * run_usd)
    assert ways["snapstart"].kept_usd_hour == pytest.approx(3600 * 2 * 0.0000015046)
    assert ways["provisioned"].kept_usd_hour == pytest.approx(3600 * 50 * 2 * 0.0000166667 / 4)
    assert ways["fargate"].cost_usd > 100 * 102 * 0.23304 / 3600
    assert [ways[name].kept_usd_hour for name in ("on demand", "fargate")] == [0, 0]
