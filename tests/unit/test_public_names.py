"""The public names of the package."""

import subprocess
import sys

import sparklet


def test_the_public_names_are_pinned_and_are_there() -> None:
    names = ["EventError", "ExpectationError", "Job", "SparkletError", "__version__", "expect", "stored_bytes"]

    assert sorted(sparklet.__all__) == names
    assert all(hasattr(sparklet, name) for name in names)
    assert not hasattr(sparklet, "Worker")


def test_importing_sparklet_loads_nothing_else_of_it() -> None:
    program = "import sys, sparklet; print([name for name in sys.modules if name.startswith('sparklet.')])"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout == "[]\n"
