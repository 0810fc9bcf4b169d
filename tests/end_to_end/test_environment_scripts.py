"""A script that knows nothing of Sparklet and reads the function's environment runs without a change."""

import json

import pytest

from tests.end_to_end.conftest import SCRIPTS, User, every_row, rows_of
from tests.unit.events.samples import kinesis

SCRIPT = str(SCRIPTS / "from_the_environment.py")

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]


def test_an_invoked_script_sees_the_env_option(user: User) -> None:
    inputs, event = user.inputs(1), user.home / "kinesis.json"
    event.write_text(json.dumps({"Records": [kinesis("1")], "output_path": "s3://evil/"}))
    where = ["--env", f"input_path={inputs / '000.csv'}", "--env", f"output_path={user.home / 'out' / 'a'}"]

    done = user.types("invoke", SCRIPT, "--event", str(event), "--keep", *where)
    failed = user.types("invoke", SCRIPT, "--event", str(event), *where[:2])

    assert done.code == 0, done.err
    assert done.document["state"] == "SUCCEEDED"
    assert rows_of(user.home / "out") == every_row(1)
    assert failed.code == 2
    assert "KeyError: 'output_path'" in failed.err and "Traceback" not in failed.err
    assert "batchItemFailures" not in failed.out


def test_each_shard_of_a_run_finds_its_own_paths(user: User) -> None:
    where = ["--input", str(user.inputs(2)), "--output", str(user.home / "out"), "--max-objects", "1"]

    done = user.types("run", SCRIPT, *where, "--env", "REGION=eu-west-1", "--json")

    assert done.code == 0, done.err + done.out
    assert rows_of(user.home / "out") == every_row(2)
