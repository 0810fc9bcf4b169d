"""What ``WorkerLogs`` promise, whether they are the local stack's files or CloudWatch's streams."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from botocore.stub import Stubber

from sparklet.aws.clients import AwsClients
from sparklet.aws.services import CloudWatchWorkerLogs
from sparklet.errors import LogsError
from sparklet.local import state as files
from sparklet.local.state import FileLogs
from sparklet.ports import WorkerLogs
from tests.contract.conftest import ON_STACK


def own(run: str, shard: int, message: str) -> str:
    return json.dumps(
        {"time": "2026-11-20T11:00:00.000Z", "level": "INFO", "message": message, "run": run, "shard": shard}
    )


@dataclass(frozen=True)
class Written:
    """Logs, and a function that writes lines to a stream; streams sort by name."""

    logs: WorkerLogs
    write: Callable[[str, list[str]], None]


@pytest.fixture(params=["files", pytest.param("ministack", marks=ON_STACK)])
def written(request: pytest.FixtureRequest, tmp_path: Path, run_id: str) -> Written:
    if request.param == "files":

        def append(stream: str, lines: list[str]) -> None:
            with (tmp_path / stream).open("a") as file:
                file.writelines(f"{line}\n" for line in lines)

        return Written(FileLogs(tmp_path), append)
    clients: AwsClients = request.getfixturevalue("ministack_clients")
    client, known = clients.logs, set[str]()
    client.create_log_group(logGroupName=run_id)
    times = iter(range(1_700_000_000_000, 1_700_000_100_000))

    def put(stream: str, lines: list[str]) -> None:
        if stream not in known:
            client.create_log_stream(logGroupName=run_id, logStreamName=stream)
            known.add(stream)
        events = [{"timestamp": next(times), "message": f"{line}\n"} for line in lines]
        client.put_log_events(logGroupName=run_id, logStreamName=stream, logEvents=events)

    return Written(CloudWatchWorkerLogs(clients, run_id), put)


def everything(logs: WorkerLogs, stream: str, after: str = "", since_s: float = 0.0) -> tuple[list[str], str]:
    """Read a stream to its end; return the lines, and the position behind them."""
    lines: list[str] = []
    while True:
        more, position = logs.read(stream, after, since_s)
        lines += more
        if not more and position == after:
            return lines, position
        after = position


ONE, TWO = "worker-20261120T110000Z-11.log", "worker-20261120T110500Z-12.log"


def test_lines_are_whole_and_reading_resumes_at_a_position(written: Written) -> None:
    first = [own("daily", 3, "claim answered"), "größe: 1", "", "  indented\ttab", own("daily", 3, "script ended")]
    written.write(ONE, first)

    lines, position = everything(written.logs, ONE)
    assert lines == first
    assert everything(written.logs, ONE, position)[0] == []

    written.write(ONE, ["later"])
    assert everything(written.logs, ONE, position)[0] == ["later"]


def test_streams_of_a_run_are_listed_oldest_first(written: Written) -> None:
    written.write(ONE, [own("daily", 3, "claim answered")])
    assert list(written.logs.streams("daily", None, 0.0)) == [ONE]

    written.write(TWO, [own("daily", 4, "claim answered")])
    assert list(written.logs.streams("daily", None, 0.0)) == [ONE, TWO]


def test_a_stream_that_is_not_there_is_named(written: Written) -> None:
    with pytest.raises(LogsError, match="worker-gone"):
        written.logs.read("worker-gone.log", "", 0.0)


# --- files ---


def test_a_file_that_is_older_than_the_run_is_skipped(tmp_path: Path) -> None:
    for name in (ONE, TWO):
        (tmp_path / name).write_text(own("daily", 0, "m") + "\n")
    os.utime(tmp_path / ONE, (1000, 1000))

    assert list(FileLogs(tmp_path).streams("daily", None, 2000.0)) == [TWO]


def test_a_rotated_file_is_read_with_its_earlier_part_first(tmp_path: Path) -> None:
    logs, path = FileLogs(tmp_path), tmp_path / ONE
    path.write_text(own("daily", 1, "long ago") + "\n")
    _, position = everything(logs, ONE)
    path.rename(tmp_path / f"{ONE}.1")
    path.write_text('"daily"\n')

    assert list(logs.streams("daily", None, 0.0)) == [f"{ONE}.1", ONE]
    assert everything(logs, ONE, position)[0] == ['"daily"']


def test_an_unfinished_line_waits_for_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs, path = FileLogs(tmp_path), tmp_path / ONE
    path.write_text("whole\nhal")
    assert logs.read(ONE, "", 0.0) == (["whole"], "6")

    monkeypatch.setattr(files, "MAX_BYTES_A_READ", 4)
    path.write_text("0123456789")
    assert logs.read(ONE, "", 0.0) == (["0123"], "4")


def test_no_file_outside_the_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    (tmp_path / "log").mkdir()
    with pytest.raises(LogsError):
        FileLogs(tmp_path / "log").read("../secret", "", 0.0)


# --- CloudWatch ---


def test_the_filter_names_run_and_shard() -> None:
    clients = AwsClients(region="us-east-1")
    with Stubber(clients.logs) as stub:
        expected = {"logGroupName": "g", "filterPattern": '{ $.run = "daily" && $.shard = 3 }', "startTime": 5500}
        events = [{"logStreamName": "s", "timestamp": 7000}, {"logStreamName": "s", "timestamp": 9000}]
        stub.add_response("filter_log_events", {"events": events}, expected)

        assert CloudWatchWorkerLogs(clients, "g").streams("daily", 3, 5.5) == {"s": 7.0}


def test_a_group_that_is_not_there_is_named_with_the_remedy() -> None:
    clients = AwsClients(region="us-east-1")
    with Stubber(clients.logs) as stub:
        stub.add_client_error("filter_log_events", "AccessDeniedException")
        with pytest.raises(LogsError, match=r"group g cannot be read: you need logs:FilterLogEvents"):
            CloudWatchWorkerLogs(clients, "g").streams("daily", None, 0.0)
