"""The examples that show a run's inputs in Airflow, Dagster and Prefect, run in these over a deployment in memory."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import deadline_s

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-orchestrators" / "bin" / "python"
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not PYTHON.exists(), reason="make orchestrators-venv builds .venv-orchestrators"),
]
FILES = [f"s3://raw/2026-11-20/{number:05d}.csv" for number in range(4)]
BAD, CAUSE = FILES[2], "column 3 is bad"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Environment variables with which no setting of the user is read, and no usage is reported."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    return {
        **kept,
        **dict.fromkeys(("HOME", "AIRFLOW_HOME", "PREFECT_HOME"), str(tmp_path)),
        "PYTHONPATH": f"{ROOT / 'runtime'}:{ROOT}",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "examples"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "0",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def ran(env: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=env, cwd=env["HOME"], capture_output=True, text=True, timeout=deadline_s(300))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def shown(env: dict[str, str], name: str) -> dict[str, Any]:
    """The orchestrator's entry of each input."""
    return json.loads(ran(env, str(PYTHON), str(Path(__file__).with_name("show.py")), name).splitlines()[-1])


def test_airflow_maps_a_task_to_each_input(env: dict[str, str]) -> None:
    ran(env, str(PYTHON), "-m", "airflow", "db", "migrate")

    tasks = shown(env, "airflow")

    assert tasks == {file: ["success", [f"{file}.parquet"]] for file in FILES} | {BAD: ["failed", None]}


def test_dagster_has_a_partition_for_each_input(env: dict[str, str]) -> None:
    events = shown(env, "dagster")

    assert events.pop(BAD) == ["ASSET_OBSERVATION", {"error": "ValueError", "message": CAUSE}]
    for file, event in events.items():
        assert event == ["ASSET_MATERIALIZATION", {"rows": 7, "outputs": [f"{file}.parquet"]}]
    assert sorted([*events, BAD]) == FILES


def test_prefect_has_an_artifact_with_each_input(env: dict[str, str]) -> None:
    table = shown(env, "prefect")

    assert sorted(table) == FILES
    assert table[BAD]["state"] == "FAILED" and table[BAD]["error_message"] == CAUSE
    assert table[FILES[0]]["outputs"] == [f"{FILES[0]}.parquet"] and table[FILES[0]]["rows"] == 7
