"""What a user does after a run, with real Spark, on one stack: explain, logs, redrive by cause, cancel, clean."""

import shlex

import pytest

from tests.end_to_end.conftest import COPY_ROWS, User, answer, every_row, rows_of
from tests.waiting import eventually

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]


@pytest.mark.nightly
def test_a_failed_run_is_redriven_and_a_cancelled_one_ends(user: User) -> None:
    inputs = user.inputs(4)
    failing = ("--param", "fail_on=002.csv", "--max-attempts", "1", "--keep")

    # GIVEN a run of which one shard failed
    failed = user.types(*user.run_arguments(inputs, *failing))
    assert failed.code == 2, failed.err

    # THEN explain names the file, the line and the command; the log holds that shard's words and no other's
    (cause,) = user.types("explain", "test-run", "--json").document
    assert (cause["error_class"], cause["count"], cause["shards"]) == ("ValueError", 1, "2")
    assert cause["example_file"] == str(inputs / "002.csv")
    assert cause["script_line"] == 18
    before = user.shards()
    log = user.types("logs", "test-run", "2").out
    assert "about to fail" in log and "doing 002.csv" in log and "doing 001.csv" not in log

    # WHEN that command is typed with a repaired script, THEN the run is whole, and no finished shard was done again
    repaired = user.home / "repaired.py"
    repaired.write_text(COPY_ROWS.read_text().replace('"fail_on"', '"never"'))
    command = [*shlex.split(cause["redrive"])[1:], "--cause", "to my taste", "--script", str(repaired), "--json"]
    redriven = user.types(*command)
    assert redriven.code == 0, redriven.err
    assert redriven.document["generation"] == 1
    after = user.shards()
    assert [s["attempt_id"] for s in after if s["shard"] != 2] == [s["attempt_id"] for s in before if s["shard"] != 2]
    assert rows_of(user.home / "out") == every_row(4)

    cancel_and_redrive(user)

    # WHEN all is cleaned, THEN only what came home is left
    assert user.types("clean", "--keep", "0", "--yes").code == 0
    assert user.types("runs", "--json").document == []
    assert rows_of(user.home / "out") == rows_of(user.home / "out2") == every_row(4)
    assert not any((user.state / "local-paths").iterdir())


def cancel_and_redrive(user: User) -> None:
    where = ("--input", str(user.home / "in"), "--output", str(user.home / "out2"), "--run-id", "second")
    held = user.holds()
    slow = ("--param", "slow_on=000.csv", "--param", f"held={held.name}")
    one = ("--max-objects", "1", "--workers", "1", "--keep")  # the first run's worker, whose JVM is there
    running = user.start("run", str(COPY_ROWS), *where, *slow, *one, "--max-concurrency", "1", "--json")
    eventually(lambda: (user.state / "local-paths" / "second.json").exists(), "the run is there")
    eventually(lambda: user.types("logs", "second").out.count("doing 000.csv"), "a shard is being done")
    following = user.start("logs", "second", "--follow")

    # WHEN a run is cancelled, THEN what runs ends, the rest is given up
    cancelled = user.types("cancel", "second", "--json")
    held.close()
    assert cancelled.code == 0, cancelled.err
    ended = answer(running)
    assert ended.code == 3, ended.err
    assert ended.document["state"] == "CANCELLED"
    shards = ended.document["shards"]
    assert shards["total"] == shards["succeeded"] + shards["failed"] == 4
    assert shards["failed"] >= 1
    assert "script ended" in answer(following).out

    # AND a redrive takes it up again
    redriven = user.types("redrive", "second", "--cause", "RunCancelled", "--json")
    assert redriven.code == 0, redriven.err
    assert rows_of(user.home / "out2") == every_row(4)
