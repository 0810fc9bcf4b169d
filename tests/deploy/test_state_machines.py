"""asl-validator on the state machine, as the template completes it; our own checks are in tests/unit/template.

If the validator is missing, the tests are skipped with the reason; with REQUIRE_IMAGE=1 (CI) they fail.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.container.built_image import NotHereError
from tests.container.conftest import or_skipped
from tests.unit.template.reading import ROOT
from tests.waiting import deadline_s

VALIDATOR = ROOT / ".venv-deploy" / "asl" / "node_modules" / ".bin" / "asl-validator"
FILE = ROOT / "sam" / "statemachines" / "run.asl.json"
PUT_IN = {"Partition": "aws"}
FUNCTION = "arn:aws:lambda:us-east-1:123456789012:function:any:live"


@pytest.fixture(scope="module")
def node() -> str:
    with or_skipped("the state machine's syntax is NOT validated"):
        if (found := shutil.which("node")) is None:
            raise NotHereError("there is no node")
        if not VALIDATOR.is_file():
            raise NotHereError("there is no asl-validator: run `make deploy-venv` first (it needs npm)")
    return found


def validate(node: str, text: str, folder: Path) -> tuple[int, str]:
    """Run asl-validator on a definition; return its exit code and output."""
    completed = folder / "completed.json"
    completed.write_text(re.sub(r"\$\{(\w+)\}", lambda name: PUT_IN.get(name[1], FUNCTION), text))
    command: list[str | Path] = [node, VALIDATOR.resolve(), "--json-path", completed]
    done = subprocess.run(command, capture_output=True, text=True, timeout=deadline_s(), check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_validator_finds_nothing(node: str, tmp_path: Path) -> None:
    code, output = validate(node, FILE.read_text(), tmp_path)

    assert code == 0, output


@pytest.mark.parametrize(
    ("state", "change"),
    [("Succeeded", {"Type": "Success"}), ("Wait", {"Next": "Nowhere"}), ("Distributed", {"MaxConcurrencyPath": 3})],
    ids=["syntax", "transitions", "paths"],
)
def test_the_validator_really_runs(node: str, state: str, change: dict[str, object], tmp_path: Path) -> None:
    machine = json.loads(FILE.read_text())
    machine["States"][state] |= change

    assert validate(node, json.dumps(machine), tmp_path)[0] != 0
