"""The options of a local stack, and how those of several clients are compared."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparklet.errors import SettingsError
from sparklet.local.attach import differences_between
from sparklet.local.deploy import parameters_of
from sparklet.local.stack import StackOptions


def options(**changes: Any) -> StackOptions:
    return StackOptions(state_dir=Path("/nowhere"), **changes)


@pytest.mark.parametrize(
    ("name", "value"),
    [("workers", 0), ("workers", 1001), ("timeout_s", 0), ("timeout_s", 7201), ("memory_mb", 0), ("runner", "cold")],
)
def test_impossible_options_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"{name} is"):
        options(**{name: value})


def test_differing_options_of_two_clients_are_named() -> None:
    runs = options(workers=2, worker_env={"A": "1"})
    other = options(workers=4, worker_env={"A": "2"})

    assert differences_between(replace(runs, processing=False).shared_settings(), runs.shared_settings()) == ()
    found = differences_between(other.shared_settings(), runs.shared_settings())
    assert found == ("workers: 2 instead of 4", "worker_env differs")


def test_only_options_that_a_client_names_are_compared() -> None:
    """A command without options accepts a stack of one worker."""
    runs = options(workers=1, worker_env={"SPARKLET_CORES": "2"}).shared_settings()
    stack_settings = {**runs, **runs["worker_env"]}

    for asked, told in (((), ()), (("workers",), ("workers: 1 instead of 2",))):
        client_options = options(workers=2, worker_env={"SPARKLET_CORES": "1"}, chosen=asked)
        chosen_settings = client_options.chosen_settings(client_options.shared_settings())
        assert differences_between(chosen_settings, stack_settings) == told


@pytest.mark.parametrize(("workers", "mapped"), [(1, "2"), (2, "2"), (9, "9")])
def test_a_mapping_gets_at_least_its_minimum_concurrency(workers: int, mapped: str) -> None:
    assert parameters_of(options(workers=workers).shared_settings())["MaximumConcurrency"] == mapped


def test_the_template_has_every_parameter_of_the_local_stack() -> None:
    from sparklet.local.deploy import load_template

    assert set(parameters_of(options().shared_settings())) <= set(load_template()["Parameters"])
