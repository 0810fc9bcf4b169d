"""The image of the whole local stack is built and does a run, as a user who is not in the image's passwd."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.container.built_image import ROOT

pytestmark = pytest.mark.campaign


def test_a_run_needs_nothing_but_the_image(tmp_path: Path) -> None:
    build: list[str | Path] = [
        sys.executable,
        ROOT / "docker" / "build.py",
        "--local",
        "--output",
        tmp_path / "built.json",
    ]
    subprocess.run(build, check=True)
    document = json.loads((tmp_path / "built.json").read_text())
    folder = tmp_path / "a place"
    (folder / "data").mkdir(parents=True)
    for number in range(3):
        (folder / "data" / f"{number}.csv").write_text(f"a,b\n{number},x\n")
    (folder / "job.py").write_text((ROOT / "spark_scripts" / "csv_to_parquet.py").read_text())
    folder.chmod(0o777)

    run = ["podman", "run", "--rm", "--network", "none", "--user", "4321", "-v", f"{folder}:/work", document["image"]]
    command = [*run, "sparklet", "run", "job.py", "--input", "data", "--output", "out", "--json"]
    done = subprocess.run(
        command, env={**os.environ, **document["engine_env"]}, capture_output=True, text=True, check=True
    )

    run_document = json.loads(done.stdout)
    assert (run_document["state"], run_document["rows"]) == ("SUCCEEDED", 3)
    assert list((folder / "out").rglob("*.parquet"))
