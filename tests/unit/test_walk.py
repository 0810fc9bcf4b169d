"""The number of modules and functions that a typical call passes through stays small."""

import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.waiting import deadline_s


def test_each_walk_passes_few_modules_and_functions() -> None:
    counts = measured(["event", "engine", "run", "check"])

    assert counts["event"][0] <= 15 and counts["event"][1] <= 66
    assert counts["engine"][0] <= 9 and counts["engine"][2] <= 4  # in addition to those of an event
    assert counts["run"][0] <= 24 and counts["run"][1] <= 117  # one asks whether --help-all was given
    assert counts["check"][0] <= 14 and counts["check"][1] <= 91


@pytest.mark.slow  # it starts Spark
def test_a_commit_passes_few_modules() -> None:
    [commit] = measured(["commit"]).values()

    assert commit[0] <= 8 and commit[2] <= 3


def measured(walks: Sequence[str]) -> dict[str, list[int]]:
    """By walk, the numbers of modules, functions and packages that it passes."""
    command = [sys.executable, "-m", "benchmarks.walk", *walks]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=deadline_s(40))
    assert not done.stderr and "interrupted" not in done.stdout  # a walk ends early, which is no alarm
    lines = [line.split() for line in done.stdout.splitlines()]
    counts = {name: [int(word.partition("=")[2]) for word in words] for name, *words in lines}
    assert [*counts] == [f"walk={name}" for name in walks]
    return {name.partition("=")[2]: of_walk for name, of_walk in counts.items()}
