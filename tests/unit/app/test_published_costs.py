"""What the README says that 1,000 inputs cost, here and elsewhere: its arithmetic is that of estimates and prices."""

import re
from pathlib import Path

import pytest

from sparklet.app.costs import WorkerSize, estimate, load_prices
from sparklet.model import Dispatch

README = Path(__file__).parents[3] / "README.md"
VCPU_MB = 1769  # of memory, with which Lambda gives one


@pytest.fixture(scope="module")
def costs() -> dict[str, tuple[str, str]]:
    """Arithmetic and sum by the first words of a row."""
    text = README.read_text().partition("## What it costs")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in text.splitlines() if row.startswith("| ")]
    return {row[0]: (row[1], row[2]) for row in rows}


def test_a_thousand_shards_cost_what_an_estimate_says(costs: dict[str, tuple[str, str]]) -> None:
    [(arithmetic, said)] = [row for name, row in costs.items() if name.startswith("as shards here")]
    found = estimate(Dispatch.QUEUE, 1000, 2.0, WorkerSize(), load_prices())
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
