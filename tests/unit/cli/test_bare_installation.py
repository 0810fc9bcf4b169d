"""In an installation without extras these commands load only packages that the wheel itself requires."""

import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

WITHOUT_EXTRAS = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {absent!r} else self.finder.find_spec(name, path, target)

sys.meta_path = [Without(finder) for finder in sys.meta_path]
from sparklet.cli.app import main
sys.exit(main(sys.argv[1:]))
"""


def required_by(distribution: str) -> set[str]:
    """The names of a distribution and of all its requirements, without extras."""
    names: set[str] = {canonicalize_name(distribution)}
    for line in requires(distribution) or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            names |= required_by(requirement.name)
    return names


@pytest.mark.parametrize("command", ["doctor", "init begun", "plan job.py --input in --dry-run"])
def test_a_command_without_a_local_stack_needs_no_extra(tmp_path: Path, command: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.csv").write_text("a\n1\n")
    (tmp_path / "job.py").write_text("from sparklet.job import job\n\njob.spark()\n")
    present = required_by("sparklet")
    absent = {
        module
        for module, distributions in packages_distributions().items()
        if not present & {canonicalize_name(name) for name in distributions}
    }
    assert {"yaml", "pyarrow", "pyspark", "samtranslator"} <= absent and "boto3" not in absent

    program = [sys.executable, "-c", WITHOUT_EXTRAS.format(absent=absent), *command.split()]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.stdout and "missing" not in done.stderr and "Traceback" not in done.stderr, done.stderr
