"""A script that knows nothing of Sparklet and reads the function's environment runs without a change."""

import json
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from tests.end_to_end.conftest import SCRIPTS, User, at_home, every_row, rows_of, shared_stack
from tests.unit.events.samples import kinesis

SCRIPT = str(SCRIPTS / "from_the_environment.py")
GLUE_JOB = str(Path(__file__).parents[1] / "functional" / "glue" / "glue_job.py")

pytestmark = [pytest.mark.nightly, pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of these tests' stack, whose events may set two variables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARKLET_EVENT_VARIABLES", "read_from,write_to")
        with shared_stack(tmp_path_factory.mktemp("a home") / "state dir") as folder:
            yield folder


@pytest.fixture
def user(state: Path, tmp_path: Path) -> User:
    """Somebody who shares the stack."""
    return at_home(state, tmp_path)


def test_an_invoked_script_sees_the_env_option(user: User) -> None:
    inputs, event = user.inputs(1), user.home / "kinesis.json"
    event.write_text(json.dumps({"Records": [kinesis("1")], "output_path": "s3://evil/"}))
    where = ["--env", f"input_path={inputs / '000.csv'}", "--env", f"output_path={user.home / 'out' / 'a'}"]

    done = user.types("invoke", SCRIPT, "--event", str(event), *where, "--json")
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


def test_an_event_sets_the_variables_that_are_listed(user: User) -> None:
    inputs, event, script = user.inputs(1), user.home / "event.json", user.home / "listed.py"
    event.write_text(json.dumps({"read_from": str(inputs), "write_to": str(user.home / "out" / "a")}))
    script.write_text(
        Path(SCRIPT).read_text().replace('"input_path"', '"read_from"').replace('"output_path"', '"write_to"')
    )

    done = user.types("invoke", str(script), "--event", str(event))

    assert done.code == 0, done.err
    assert rows_of(user.home / "out") == every_row(1)


def test_a_job_of_glue_runs_over_many_shards(user: User) -> None:
    folder = user.home / "in"
    folder.mkdir()
    for number, price in enumerate((70, 80, 90)):
        (folder / f"{number}.csv").write_text(f"id;price;city\n{number};{price};Ulm\n")
    where = ["--input", str(folder), "--output", str(user.home / "out"), "--max-objects", "1"]

    done = user.types("run", GLUE_JOB, *where, "-p", "least=75", "--env", "region=eu", "--json", "--", "--other", "x")

    assert done.code == 0, done.err + done.out
    found = duckdb.sql(f"SELECT id, price, region FROM read_parquet('{user.home}/out/*/*/*.parquet') ORDER BY id")
    assert found.fetchall() == [(1, 80.0, "eu"), (2, 90.0, "eu")]


def test_a_second_attempt_replaces_what_glues_writers_have_added(user: User) -> None:
    (user.home / "in").mkdir()
    for number in range(2):
        (user.home / "in" / f"{number}.csv").write_text(f"id,city\n{number},Ulm\n{number + 10},Bonn\n")
    where = ["--input", str(user.home / "in"), "--output", str(user.home / "out"), "--max-objects", "1"]

    target = ["--", "--target", str(user.home / "own")]
    rows = [("0", "Ulm"), ("1", "Ulm"), ("10", "Bonn"), ("11", "Bonn")]

    done = user.types("run", str(SCRIPTS / "glue_fails_first.py"), *where, "--json", *target)

    assert done.code == 0, done.err + done.out
    assert done.document["attempts"] == 4
    for files, times in (("out/*/*/*", 1), ("own/*/*/*", 1), ("own-twice/*/*", 2)):
        place = f"read_parquet('{user.home}/{files}.parquet', hive_partitioning=true)"
        assert duckdb.sql(f"SELECT id, city FROM {place} ORDER BY id").fetchall() == sorted(rows * times), files
