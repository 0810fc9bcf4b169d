"""The image's entry point imports no module that a script left in the working directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DOCKER = Path(__file__).parents[2] / "docker"
RUNTIME = DOCKER.parent / "runtime"
HANDLER = "sparklet.worker.handler.lambda_handler"
RUNTIME_CLIENT = (
    "import importlib, sys\nfor name in ('boto3', sys.argv[1].rpartition('.')[0]): importlib.import_module(name)\n"
)


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A working directory with modules that a script has left there."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    for name in ("awslambdaric", "boto3", "decimal", "sparklet", "uuid"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} comes from a script')\n")
    return folder


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["entrypoint.sh", HANDLER], ""),
        (["entrypoint.sh", "shard", "--help"], "--redrive"),
        (["entrypoint.sh", "spark-submit", "job.py"], "there is no setting SPARKLET_NONSENSE"),
        (["bin/spark-submit", "job.py"], "there is no setting SPARKLET_NONSENSE"),
    ],
)
def test_a_module_in_the_working_directory_is_not_imported(
    left: Path, tmp_path: Path, command: list[str], says: str
) -> None:
    (tmp_path / "libraries").mkdir()
    (tmp_path / "libraries" / "awslambdaric.py").write_text(RUNTIME_CLIENT)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tmp_path / "bin" / "python3").chmod(0o755)
    env = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{tmp_path / 'libraries'}:{RUNTIME}",
        "SPARK_HOME": str(DOCKER),
        **({"SPARKLET_NONSENSE": "1"} if says.startswith("there") else {"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9"}),
    }

    script, *arguments = command
    done = subprocess.run(
        ["/bin/sh", DOCKER / script, *arguments], cwd=left, env=env, capture_output=True, text=True, check=False
    )

    assert "comes from a script" not in done.stderr
    assert says in done.stdout + done.stderr
    assert done.returncode == (1 if says.startswith("there") else 0), done.stderr
