"""The figures of estimates: each with its date and source, and only what is right may replace them."""

import json
import re
from pathlib import Path

import pytest

from sparklet.app import costs as module
from sparklet.app.costs import load_prices
from sparklet.errors import SettingsError
from sparklet.settings import IN_ORDER, engines
from tests.unit.cli.conftest import figure

OWN = figure("prices.transition", 0.00003)


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    return path


def test_every_figure_has_a_date_and_a_source() -> None:
    for name, each in load_prices().figures.items():
        assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", each.date), name
        assert len(each.source) > 5, name


def test_the_large_function_is_listed_first_then_by_price() -> None:
    prices = load_prices()
    first, *others = IN_ORDER

    assert first == "lambda-large"
    for architecture in ("x86_64", "arm64"):  # the same price: the same place
        assert others == sorted(others, key=lambda engine: prices.hour_of(engine, architecture))
    named = {engine: {"of": "1"} for engine in ("other", *reversed(IN_ORDER))}
    assert list(engines({"SPARKLET_ENGINES": json.dumps(named)})) == [*IN_ORDER, "other"]


def test_every_figure_is_used_and_every_one_used_is_there() -> None:
    code = "".join(path.read_text() for path in Path(module.__file__).parents[1].rglob("*.py"))
    used = set(re.findall(r'"((?:prices|assumptions)\.[a-z0-9_]+)"', code))
    used |= {f"prices.lambda_gb_s_{architecture}" for architecture in ("x86_64", "arm64")}  # named by the worker's
    used |= {f"prices.{engine}_hour" for engine in ("lambda-large", "fargate", "emr-serverless", "emr", "glue")}
    used |= {f"prices.{name}_arm64" for name in ("fargate_hour", "lambda-large_hour")}  # by both
    used -= {"prices.toml"}

    assert used == set(load_prices().figures)


def test_a_custom_price_file_changes_only_what_it_names(tmp_path: Path) -> None:
    usual, corrected = load_prices(), load_prices(own(tmp_path, OWN))

    assert corrected["prices.transition"] == 0.00003 and corrected.corrected == ("prices.transition",)
    assert corrected.figures["prices.transition"].source == "our contract"
    transition = {"prices.transition": corrected.figures["prices.transition"]}
    assert corrected.figures == {**usual.figures, **transition}
    assert usual.corrected == () and corrected.dates == ("2026-11", "2027-01")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[prices", "are no TOML"),
        (figure("prices.transitions", 1), "figure prices.transitions; did you mean prices.transition"),
        (figure("price.transition", 1), "figure price.transition; did you mean prices.transition"),
        (OWN.replace('date = "2027-01"\n', ""), "prices.transition .* must have exactly a value, a date and a source"),
        (figure("prices.transition", '"cheap"'), "has the value 'cheap'; it must be a number from 0 on"),
        (figure("prices.transition", -1), "the value -1"),
        (figure("prices.transition", "nan"), "the value nan"),
        (figure("prices.transition", "true"), "the value True"),
        ("prices = 3", "must have exactly a value"),
        (figure("assumptions.planned_a_s", 0), "is 0; it must be above"),
    ],
)
def test_a_wrong_price_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load_prices(own(tmp_path, text))
