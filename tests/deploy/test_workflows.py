"""GitHub's workflows, which run nowhere else: their rights and their syntax."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.container.built_image import NotHereError
from tests.container.conftest import or_skipped
from tests.unit.template.reading import ROOT
from tests.waiting import deadline_s

ZIZMOR = ROOT / ".venv-checkov" / "bin" / "zizmor"
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"  # packages of PyPI and npm fetch it, or are old
WORKFLOWS = [*sorted((ROOT / ".github" / "workflows").glob("*.yml")), ROOT / "examples" / "github-actions.yml"]


@pytest.fixture
def injected(tmp_path: Path) -> Path:
    """A workflow that runs a branch's name as a shell command."""
    file = tmp_path / "ci.yml"
    file.write_text(WORKFLOWS[0].read_text().replace(".ci/run", "echo ${{ github.head_ref }}"))
    return file


@pytest.fixture
def actionlint() -> list[str]:
    """The command; the test is skipped if actionlint cannot be fetched."""
    command = ["go", "run", ACTIONLINT]
    if not shutil.which("go") or _findings(*command, "-version"):
        pytest.skip("actionlint cannot be had here, and does NOT read workflows")
    return command


def audited(*files: Path) -> str:
    with or_skipped("workflows are NOT audited"):
        if not ZIZMOR.is_file():
            raise NotHereError("there is no zizmor: run `make checkov-venv` first")
    return _findings(ZIZMOR, "--offline", "--no-progress", *files)


def _findings(*command: str | Path) -> str:
    """The output of a command that fails; "" if the command succeeds."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=deadline_s(120), check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_workflows_have_no_more_rights_than_they_need(injected: Path) -> None:
    assert audited(*WORKFLOWS, ROOT / ".github" / "dependabot.yml") == ""
    assert "template-injection" in audited(injected)


def test_workflows_are_written_as_github_reads_them(injected: Path, actionlint: list[str]) -> None:
    assert _findings(*actionlint, *WORKFLOWS) == ""
    assert "github.head_ref" in _findings(*actionlint, injected)
