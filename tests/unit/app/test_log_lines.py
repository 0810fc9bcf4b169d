"""The shard and attempt of each log line: the worker's own lines mark those of its script and JVM."""

import json
from collections.abc import Mapping, Sequence

from sparklet.app.logs import Attribution, LogReader
from sparklet.ports.metrics import SHARDS_SUCCEEDED, Emitter, Meter

STREAM = "worker-1.log"


def own(shard: int | None, attempt: str, message: str, run: str = "daily", **more: object) -> str:
    where = {} if shard is None else {"run": run, "shard": shard}
    line = {"time": "2026-11-20T11:22:33.444Z", "level": "INFO", "message": message, "attempt": attempt, **where}
    return json.dumps({**line, "request_id": f"req-{attempt}", **more})


TWO_TASKS = [
    "JVM booting",
    own(3, "a1", "claim answered", status="GRANTED"),
    "hello from the script",
    '{"time": 1, "message": "JSON of the script"}',
    own(3, "a1", "shard succeeded", rows=7),
    "JVM tidying up",
    own(4, "b2", "claim answered"),
    "4's output",
    own(None, "c3", "script started"),
    "of an event, no shard",
]


class Streams:
    """Log streams in memory; a position is a number of lines."""

    def __init__(self, streams: dict[str, list[str]]) -> None:
        self.all = streams

    def streams(self, run_id: str, shard: int | None, since_s: float) -> Mapping[str, float]:
        return dict.fromkeys(self.all, since_s)

    def read(self, stream: str, after: str, since_s: float) -> tuple[Sequence[str], str]:
        lines = self.all[stream][int(after or 0) :][:2]
        return lines, str(int(after or 0) + len(lines))


def owners_of(lines: list[str]) -> list[tuple[int, str, str] | None]:
    attribution = Attribution(STREAM)
    found = [attribution.take(line) for line in lines]
    return [(line.shard, line.attempt, line.text) if line else None for line in found]


def test_lines_belong_to_the_attempt_that_was_named_last() -> None:
    whose = [line and line[:2] for line in owners_of(TWO_TASKS)]
    assert whose == [None, *[(3, "a1")] * 5, *[(4, "b2")] * 2, None, None]


def test_the_platforms_own_lines_belong_to_their_request() -> None:
    lines = [
        "START RequestId: req-a1 Version: $LATEST",
        own(3, "a1", "claim answered"),
        "END RequestId: req-a1",
        "REPORT RequestId: req-a1 Max Memory Used: 3008 MB",
        "START RequestId: req-b2 Version: $LATEST",
        "between",
    ]
    assert [line and line[:2] for line in owners_of(lines)] == [None, *[(3, "a1")] * 3, None, None]


def test_metric_lines_are_left_out() -> None:
    said: list[str] = []
    meter = Meter("Sparklet/my-stack", Emitter.WORKER, said.append)
    meter.add(SHARDS_SUCCEEDED)
    meter.emit(request_id="req-a1")
    of_the_script = said[0].replace('{"sparklet_metrics":"worker",', "{")

    whose = owners_of([own(3, "a1", "claim answered"), said[0], of_the_script])

    assert [line and line[2] for line in whose] == [own(3, "a1", "claim answered"), None, of_the_script]


def test_a_reader_filters_and_continues_at_its_position() -> None:
    streams = Streams({STREAM: list(TWO_TASKS), "worker-2.log": [own(3, "z9", "claim answered", run="other"), "x"]})
    reader = LogReader(streams, "daily")

    assert [line.text for line in reader.lines()] == TWO_TASKS[1:8]
    streams.all[STREAM] += [own(3, "d4", "claim answered")]
    assert [line.attempt for line in reader.lines()] == ["d4"]
    assert {line.shard for line in LogReader(streams, "daily", 4).lines()} == {4}
    assert {line.attempt for line in LogReader(streams, "daily", 3, "a").lines()} == {"a1"}


def test_log_lines_are_short_and_script_lines_are_made_harmless() -> None:
    attribution = Attribution(STREAM)
    claim = attribution.take(own(3, "a1", "claim answered", status="GRANTED", attempts=1))
    script = attribution.take("\x1b[2J größe\t1")

    assert claim is not None and script is not None
    assert claim.readable() == "11:22:33.444 INFO    claim answered (status=GRANTED attempts=1)"
    assert script.readable() == "\N{REPLACEMENT CHARACTER}[2J größe\t1"
    where = {"run": "daily", "shard": 3, "attempt": "a1", "stream": STREAM}
    assert script.document() == {**where, "line": "\x1b[2J größe\t1"}
