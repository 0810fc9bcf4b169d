"""Ids of check, next and commit runs are valid, always the same for a run, and different from other ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.model import FOLLOWER_ID, RUN_ID, RunKind, follower_id
from sparklet.planning.new_run import run_id_of
from sparklet.planning.request import RunRequest

RUN_IDS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)


@given(RUN_IDS, st.integers(0, 999_999))
def test_every_run_has_valid_followers(run_id: str, generation: int) -> None:
    ids = {follower_id(run_id, kind, generation) for kind in RunKind if kind is not RunKind.SHARDS}
    for made in ids:
        assert RUN_ID.fullmatch(made) and FOLLOWER_ID.search(made)
    assert len(ids) == 4


def test_ids_contain_short_run_ids_and_tell_long_ones_apart() -> None:
    assert follower_id("daily-7", RunKind.CHECK, 2) == "daily-7-check-2"
    assert follower_id("daily-7", RunKind.NEXT, 0) == "daily-7-next-0"
    assert follower_id("a" * 62, RunKind.CHECK) != follower_id("a" * 63, RunKind.CHECK)
    assert follower_id("a" * 63, RunKind.CHECK) == follower_id("a" * 63, RunKind.CHECK)


@pytest.mark.parametrize("name", ["daily", "daily-check", "next", "check-1"])
def test_a_generated_run_id_is_never_a_followers_id(name: str) -> None:
    requests = [RunRequest("job.py", (), "", name=name, idempotency_key=str(key)) for key in range(500)]
    made = [run_id_of(each, 0.0) for each in (RunRequest("job.py", (), "", name=name), *requests)]
    assert not any(FOLLOWER_ID.search(run_id) for run_id in made)
