"""A committer as the tests call it, and what happens while it works."""

from collections.abc import Callable
from typing import Any

import pytest

from sparklet.tables import commit as committer
from sparklet.tables.commit import commit
from sparklet.tables.declaration import Commit, Committed


def no_spark() -> Any:
    raise AssertionError("this needs no Spark")


def make(planned: Commit) -> Committed:
    return commit(planned, no_spark)


@pytest.fixture
def after_loading(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Do something once, after a committer has loaded the table and before it commits."""

    def between(action: Callable[[], object]) -> None:
        load, waiting = committer.open_table, [action]

        def load_and_act(*args: Any) -> Any:
            table = load(*args)
            if waiting:
                waiting.pop()()
            return table

        monkeypatch.setattr(committer, "open_table", load_and_act)

    return between
