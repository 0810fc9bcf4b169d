"""The public names of the package."""

import subprocess
import sys
from pathlib import Path

import sparklet
from tests.waiting import deadline_s

NAMES = {
    *("EventError", "ExpectationError", "Job", "SparkletError", "expect", "stored_bytes"),
    *("Invocation", "LambdaExecutor", "RemoteTaskError", "gather", "progress", "remote"),
    *("Run", "RunFailedError", "Stack", "run"),
    "__version__",
}


def test_the_public_names_are_pinned_and_exist() -> None:
    assert set(sparklet.__all__) == NAMES and len(sparklet.__all__) == len(NAMES)
    assert all(hasattr(sparklet, name) for name in NAMES)
    assert not hasattr(sparklet, "Worker")


def test_importing_sparklet_loads_nothing_else_of_it() -> None:
    assert loaded("import sparklet", "sparklet.") == []


def test_functions_load_no_library_that_they_do_not_need() -> None:
    program = "from sparklet import LambdaExecutor, gather, remote"

    assert not {"boto3", "botocore", "rich", "typer", "cloudpickle"} & set(loaded(program))


def loaded(program: str, prefix: str = "") -> list[str]:
    """The modules that a new interpreter has loaded after it ran a program."""
    told = f"{program}; import sys; print(*(name for name in sys.modules if name.startswith({prefix!r})))"
    done = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, check=True, timeout=deadline_s()
    )
    return done.stdout.split()


def test_a_module_that_is_run_defines_nothing_after_its_entry() -> None:
    """``python -m`` would run the entry before later definitions; an import would not show this fault."""
    package = Path(sparklet.__file__).parent
    for path in package.rglob("*.py"):
        _, _, after = path.read_text().partition('\nif __name__ == "__main__":\n')
        assert "\ndef " not in after and "\nclass " not in after, path
