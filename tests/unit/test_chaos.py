"""The table of ``make chaos``, and campaigns that are too small to count."""

import pytest

from benchmarks.chaos.__main__ import wrong
from benchmarks.chaos.table import table

pytestmark = pytest.mark.nightly


def test_the_table_adds_up_kills_and_leaves_the_baseline_out() -> None:
    sums = {"lost": 0, "duplicated": 0, "partial": 0, "unaccounted": 0, "seed": 1, "format": "delta"}
    sums |= {"commit": "4104858", "measured": "2026-11-22"}
    kills = {"kill at a step": 4, "kill the checker": 2, "reset": 5}
    results = [{"way": "staged", "kind": kind, "struck": ["…"] * n, **sums} for kind, n in kills.items()]
    lost = {**sums, "lost": 7, "way": "plain", "kind": "kill at a step", "struck": ["…"]}

    ours, _, baseline = table([*results, lost]).partition("the baseline")

    assert "| *all kills* | 2 | 6 | 0 |" in ours
    assert "| *all kills* | 1 | 1 | 7 |" in baseline


def test_a_campaign_of_a_few_trials_shows_nothing() -> None:
    fine = {"way": "staged", "lost": 0, "duplicated": 0, "partial": 0, "unaccounted": 0}

    assert wrong([fine], least=2)
    assert wrong([], least=1)
    assert not wrong([fine, fine], least=2)
    assert wrong([fine, {**fine, "lost": 1}], least=2)
