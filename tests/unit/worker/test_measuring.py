"""A worker's metrics: one line in CloudWatch's embedded metric format for each invocation."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from sparklet.errors import ScriptFailedError
from sparklet.ports.metrics import Emitter, Meter
from sparklet.worker.handler import Measuring, memory_peak_mb
from tests.unit.test_metrics import METRICS, check_emf
from tests.unit.worker.conftest import Bench, exits, meanwhile, reports


class Recorder:
    """Lets a worker measure, and records the lines that it writes."""

    def __init__(self, bench: Bench) -> None:
        self.lines: list[str] = []
        self.measuring = Measuring(Meter("Sparklet/test", Emitter.WORKER, self.lines.append))
        self._bench = bench
        bench.claims.deployment = replace(bench.claims.deployment, meter=self.measuring.meter)

    def of(self, *outcomes: Any) -> dict[str, Any]:
        """The metrics of the one line that an invocation with these outcomes writes."""
        self.lines.clear()
        self.measuring.invocation(outcomes, self._bench.runner, "request-1")
        (line,) = self.lines
        document = check_emf(line)
        return {name: value for name, value in document.items() if name in METRICS}


@pytest.fixture
def recorder(bench: Bench) -> Recorder:
    return Recorder(bench)


def test_a_succeeded_shard_reports_rows_bytes_and_seconds(bench: Bench, recorder: Recorder) -> None:
    script = meanwhile(lambda: bench.clock.advance(42), reports({"rows": 7, "output_bytes": 1234}))

    metrics = recorder.of(bench.attempt(script))

    peak = metrics.pop("MemoryPeak")
    assert peak > 5
    assert metrics == {
        "ColdStarts": 1,
        "ShardsSucceeded": 1,
        "AttemptSeconds": pytest.approx(42),
        "BytesRead": 10,
        "RowsWritten": 7,
        "BytesWritten": 1234,
    }


def test_retries_failures_and_duplicates_are_counted_apart(bench: Bench, recorder: Recorder) -> None:
    (ref,) = bench.plan(max_attempts=2)
    bench.runner.behaviour = exits(1, "OSError", "503")
    recorder.of()

    first = recorder.of(bench.deliver())
    bench.clock.advance(600)
    second = recorder.of(bench.deliver())
    bench.queue.send([ref.to_body()])
    third = recorder.of(bench.deliver())

    assert (first["ShardsRetried"], first.get("ShardsFailed")) == (1, None)
    assert (second.get("ShardsRetried"), second["ShardsFailed"]) == (None, 1)
    assert third.keys() == {"ShardsTurnedAway", "MemoryPeak"}


def test_tasks_without_a_run_are_counted_by_their_result(bench: Bench, recorder: Recorder) -> None:
    recorder.of()
    fine = bench.invoke({"any": "event"})
    bench.runner.behaviour = exits(1)
    failed = bench.invoke({"any": "event"})
    assert isinstance(failed[0].error, ScriptFailedError)

    metrics = recorder.of(*fine, *fine, *failed)

    assert (metrics["TasksSucceeded"], metrics["TasksFailed"]) == (2, 1)
    assert "ColdStarts" not in metrics


def test_each_jvm_restart_is_counted_once(bench: Bench, recorder: Recorder) -> None:
    bench.runner.jvm_starts = 1  # type: ignore[attr-defined]
    assert "JvmRestarts" not in recorder.of()
    bench.runner.jvm_starts = 3  # type: ignore[attr-defined]
    assert recorder.of()["JvmRestarts"] == 2
    assert "JvmRestarts" not in recorder.of()


def test_without_a_namespace_nothing_is_measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparklet.worker.handler.memory_peak_mb", lambda: pytest.fail("measured"))
    Measuring(Meter("", Emitter.WORKER, lambda line: pytest.fail(line))).invocation([], bench.runner, "r")


def test_the_memory_peak_includes_child_processes() -> None:
    hungry = "import sys; x = bytearray(200_000_000); print('up', flush=True); sys.stdin.read()"
    before = memory_peak_mb()
    with subprocess.Popen([sys.executable, "-c", hungry], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout and child.stdout.readline() == b"up\n"
        during = memory_peak_mb()
        child.communicate()
    assert during >= 200 and during >= before
    assert memory_peak_mb() >= 200  # the peak of an ended process still counts
