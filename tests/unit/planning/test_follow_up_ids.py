"""Ids of check, commit and next runs: valid, always the same ones, and nobody else's."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.model import RUN_ID
from sparklet.planning.follow_up_ids import FOLLOW_UP_ID, Kind, follow_up_id, own_task
from sparklet.planning.new_run import run_id_of
from sparklet.planning.request import RunRequest

RUN_IDS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)


@given(RUN_IDS, st.integers(0, 999_999))
def test_every_run_has_valid_follow_ups(run_id: str, generation: int) -> None:
    ids = {follow_up_id(run_id, what, generation) for what in get_args(Kind)}
    for made in ids:
        assert RUN_ID.fullmatch(made) and FOLLOW_UP_ID.search(made)
    assert len(ids) == 4
    assert {made for made in ids if own_task(made)} == ids - {follow_up_id(run_id, "next", generation)}


def test_ids_contain_short_run_ids_and_tell_long_ones_apart() -> None:
    assert follow_up_id("daily-7", "check", 2) == "daily-7-check-2"
    assert follow_up_id("daily-7", "next", 0) == "daily-7-next-0"
    assert follow_up_id("a" * 62, "check") != follow_up_id("a" * 63, "check")
    assert follow_up_id("a" * 63, "check") == follow_up_id("a" * 63, "check")


@pytest.mark.parametrize("name", ["daily", "daily-check", "next", "check-1"])
def test_an_id_that_sparklet_makes_for_a_user_is_none_of_them(name: str) -> None:
    requests = [RunRequest("job.py", (), "", name=name, idempotency_key=str(key)) for key in range(500)]
    made = [run_id_of(each, 0.0) for each in (RunRequest("job.py", (), "", name=name), *requests)]
    assert not any(FOLLOW_UP_ID.search(run_id) for run_id in made)
