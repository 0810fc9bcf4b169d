"""``--event-log``: Spark's own figures of each attempt, in the report and in Spark's History Server."""

import gzip
import json
import re
import signal
import urllib.request

import pytest

from tests.end_to_end.conftest import User, every_row, rows_of

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]


def test_sparks_own_figures_are_kept_and_shown(user: User) -> None:
    inputs = user.inputs(3)

    # GIVEN a run with event logs, of which one worker does all shards one after the other
    arguments = user.run_arguments(inputs, "--event-log", "--keep")
    done = user.types(*arguments)
    assert done.code == 0, done.err

    # THEN each attempt has a log of its own, whole, of one application, and the output is right
    logs = sorted(user.state.rglob("events/*.gz"))
    assert [int(path.name[:9]) for path in logs] == [0, 1, 2]
    for path in logs:
        events = [json.loads(line)["Event"] for line in gzip.decompress(path.read_bytes()).splitlines()]
        assert events.count("SparkListenerApplicationStart") == events.count("SparkListenerApplicationEnd") == 1
    assert rows_of(user.home / "out") == every_row(3)

    # AND the report has what Spark measured
    figures = user.types("report", "test-run", "--json").document["spark"]
    assert {each["shard"] for each in figures} == {0, 1, 2}
    assert all(each["records_read"] > 0 and each["records_written"] > 0 and each["stages"] > 0 for each in figures)

    # AND Spark's History Server shows each attempt by its shard
    history = user.start("history", "test-run")
    try:
        assert history.stdout
        address = next(match[0] for line in history.stdout if (match := re.search(r"http://127\.0\.0\.1:\d+/", line)))
        with urllib.request.urlopen(f"{address}api/v1/applications", timeout=60) as answer:
            found = json.load(answer)
    finally:
        history.send_signal(signal.SIGINT)
        history.wait(60)
    assert sorted(each["name"].partition(":")[0] for each in found) == ["shard 0", "shard 1", "shard 2"]
    assert all(attempt["completed"] for each in found for attempt in each["attempts"])

    # AND what is cleaned takes its logs along
    assert user.types("clean", "--keep", "0", "--yes").code == 0
    assert not list(user.state.rglob("events/*.gz"))
