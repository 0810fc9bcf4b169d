"""What the README says that 1,000 inputs cost, here and elsewhere: its arithmetic is that of estimates and prices."""

import re
from pathlib import Path

import pytest

from sparklet.app.costs import Load, WorkerSize, estimate, load_prices
from sparklet.app.estimates import PlanEstimate, estimate_plan
from sparklet.model import Dispatch, RunOptions

ROOT = Path(__file__).parents[3]
README = ROOT / "README.md"
VCPU_MB = 1769  # of memory, with which Lambda gives one


@pytest.fixture(scope="module")
def costs() -> dict[str, tuple[str, str]]:
    """Arithmetic and sum by the first words of a row."""
    text = README.read_text().partition("## What it costs")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in text.splitlines() if row.startswith("| ")]
    return {row[0]: (row[1], row[2]) for row in rows}


def test_a_thousand_shards_cost_what_an_estimate_says(costs: dict[str, tuple[str, str]]) -> None:
    [(arithmetic, said)] = [row for name, row in costs.items() if name.startswith("as shards here")]
    found = estimate(Dispatch.QUEUE, Load(1000), 2.0, WorkerSize(), load_prices())
    a_second, requests = map(float, re.findall(r"0\.\d+", arithmetic))

    assert f"{found.cost:.2f}" == said
    assert (1000 * 2 + 50 * 10) * a_second + requests == pytest.approx(found.cost, rel=0.01)


@pytest.mark.parametrize("engine", ["Glue", "EMR Serverless"])
def test_other_services_cost_what_the_prices_say(costs: dict[str, tuple[str, str]], engine: str) -> None:
    hour = load_prices().hour_of(engine.lower().replace(" ", "-"), "x86_64")
    [many] = [row[1] for name, row in costs.items() if name.startswith(f"as 1,000 jobs of {engine}")]
    [one] = [row[1] for name, row in costs.items() if name.startswith(f"as one job of {engine}")]
    longest_s = 1000 * 2 * WorkerSize().memory_mb / VCPU_MB / 4

    assert longest_s == pytest.approx(850, abs=1)
    assert f"{1000 * 60 * hour / 3600:.2f}" == many
    assert f"{60 * hour / 3600:.2f} to {longest_s * hour / 3600:.2f}" == one


def test_a_vcpu_costs_what_the_prices_say() -> None:
    text = README.read_text().partition("**The others are cheaper**")[2].partition("\n## ")[0]
    prices = load_prices()
    by_name = {
        "here": VCPU_MB / 1024 * 3600 * prices["prices.lambda_gb_s_x86_64"],
        "arm64": VCPU_MB / 1024 * 3600 * prices["prices.lambda_gb_s_arm64"],
        "Glue": prices.hour_of("glue", "x86_64") / 8,
        "EMR Serverless": prices.hour_of("emr-serverless", "x86_64") / 8,
    }

    said = map(float, re.findall(r"0\.\d+", text))
    assert list(said) == pytest.approx(list(by_name.values()), rel=0.01)


@pytest.fixture(scope="module")
def small_files() -> dict[int, PlanEstimate]:
    """100,000 files of 10 KB, by their shards."""
    plans = {shards: RunOptions(max_objects=100_000 // shards) for shards in (100_000, 100)}
    plan = "daily", load_prices()
    return {n: estimate_plan(WorkerSize(), plan[0], each, n, 100_000, 10**9, plan[1]) for n, each in plans.items()}


def test_the_guide_says_what_small_files_cost(small_files: dict[int, PlanEstimate]) -> None:
    page = " ".join((ROOT / "docs/guide/costs.md").read_text().split())
    text = page.partition("100,000 files of 10 KB cost")[2].partition("**A shard's seconds**")[0]
    alone, packed, *_, one_vcpu = map(float, re.findall(r"\d+\.\d+", text))
    smaller = small_files[100_000].smaller

    assert small_files[100_000].estimate.cost == pytest.approx(alone, abs=0.005)
    assert small_files[100].estimate.cost == pytest.approx(packed, abs=0.005)
    assert smaller and smaller.cost == pytest.approx(one_vcpu, abs=0.005)


def test_an_output_for_each_of_many_small_files_is_cheap() -> None:
    options = RunOptions(output_per="input")
    found = estimate_plan(WorkerSize(), "daily", options, 100, 100_000, 10**9, load_prices())

    page = (ROOT / "docs/guide/costs.md").read_text()
    assert f"costs {found.estimate.cost:.2f} USD in 100 shards, 1.04 of it" in page
    assert 1.04 < found.estimate.costs["s3"] < found.estimate.cost < 1.5


def test_a_warning_has_the_price_of_the_plan_it_names(small_files: dict[int, PlanEstimate]) -> None:
    assert f"packed into 100 about {small_files[100].estimate.cost:.4f} USD" in small_files[100_000].dear
    assert small_files[100].smaller is None  # its files keep two vCPUs busy
