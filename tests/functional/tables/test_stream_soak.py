"""The soak of streams in a small size: workers are killed and stopped, and each record is in the table once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import deadline_s

BATCHES = 20


@pytest.mark.slow
@pytest.mark.parametrize("source", [pytest.param("kinesis", marks=pytest.mark.nightly), "sqs"])
def test_killed_workers_lose_and_double_nothing(tmp_path: Path, source: str) -> None:
    command = [sys.executable, "-m", "benchmarks.stream_soak", "--formats", "delta,iceberg", "--seed", "18"]
    command += ["--source", source]
    command += ["--batches", str(BATCHES), "--folder", str(tmp_path), "--killed", "0.15"]

    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=deadline_s(100))

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-2000:]}"
    assert done.stdout.splitlines()[-1].endswith("lost=0 duplicated=0")
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert all(result["batches"] >= BATCHES and result["records"] and result["kills"] for result in results)
