"""Shards whose scripts are clients of a Spark Connect server; a script that needs the JVM fails with the reason."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparklet.app.stack import StackSelection, open_stack
from sparklet.cli.console import Screen
from tests.end_to_end.conftest import SCRIPTS, User, every_row, rows_of
from tests.spark_line import IS_SPARK_4
from tests.stand_ins.spark_connect import spark_connect

pytestmark = [pytest.mark.nightly, pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]


@pytest.fixture
def connect_user(user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[User]:
    """A user whose local stack has the engine ``connect``."""
    pytest.importorskip("grpc")
    selection = StackSelection(state_dir=user.state, workers=1)
    with open_stack(selection, Screen(as_json=True)):
        aws_env = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        with spark_connect(tmp_path, aws_env) as remote:
            monkeypatch.setenv("SPARKLET_ENGINES", json.dumps({"connect": {"remote": remote}}))
            yield user


def test_a_remote_session_does_shards_and_names_what_it_lacks(connect_user: User) -> None:
    user = connect_user
    done = user.types(*user.run_arguments(user.inputs(2), "--engine", "connect"))

    assert done.code == 0, done.err
    assert rows_of(user.home / "out") == every_row(2)
    shards = user.shards()
    assert [(shard["engine"], shard["attempts"], shard["rows"]) for shard in shards] == 2 * [("connect", 1, 10)]

    arguments = user.run_arguments(user.inputs(1, "more"), "--engine", "connect", "--append", run_id="run-2")
    arguments[1] = str(SCRIPTS / "needs_the_jvm.py")
    failed = user.types(*arguments)

    [cause] = user.types("explain", "run-2", "--json").document
    assert failed.code == 2
    assert cause["error_class"] == ("PySparkAttributeError" if IS_SPARK_4 else "PySparkNotImplementedError")
    assert "Spark Connect" in cause["reason"] and "--engine" in cause["remedy"]
    [shard] = user.shards("run-2")
    assert shard["attempts"] == 1
