"""The figures of estimates: each is used, and has a date and a source."""

import re
from pathlib import Path

from sparklet.app import costs as module
from sparklet.app.costs import MEMORY_MB, load_prices
from sparklet.aws.clients import AwsClients
from sparklet.engines.create import KINDS, engines_of


def test_every_figure_has_a_date_and_a_source() -> None:
    for name, each in load_prices().figures.items():
        assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", each.date), name
        assert len(each.source) > 5, name


def test_the_large_function_is_listed_first_then_by_price() -> None:
    prices = load_prices()
    first, *others = KINDS

    assert first == "lambda-large"
    for architecture in ("x86_64", "arm64"):  # the same price: the same place
        assert others == sorted(others, key=lambda engine: prices.hour_of(engine, architecture))
    named = {engine: {"of": "1"} for engine in ("other", *reversed([*KINDS]))}
    assert list(engines_of(AwsClients(), named, {})) == [*KINDS, "other"]


def test_every_figure_is_used_and_every_used_figure_exists() -> None:
    code = "".join(path.read_text() for path in Path(module.__file__).parents[1].rglob("*.py"))
    used = set(re.findall(r'"((?:prices|assumptions)\.[a-z0-9_]+)"', code))
    used |= {f"prices.lambda_gb_s_{architecture}" for architecture in ("x86_64", "arm64")}  # named by the worker's
    used |= {f"prices.{name}_hour{end}" for name, kind in KINDS.items() for end in kind.hours}
    used |= {f"assumptions.times_at_{memory_mb}" for memory_mb in MEMORY_MB}
    used -= {"prices.toml"}

    assert used == set(load_prices().figures)
