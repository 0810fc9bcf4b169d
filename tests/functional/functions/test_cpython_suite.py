"""The standard library's own tests of executors pass on ours: the suite itself is CPython's, imported."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.functional.functions.cpython_suite import EXCLUDED, EXECUTORS, NAME, SuiteUnavailable, suite

MIN_TESTS = {"spawn": 41, "fork": 41, "threads": 45}
TIMEOUT_S = 280

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, "subprocess.Popen[str]"]]:
    """All of them at once, each in an interpreter of its own: most of their time is sleep."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("its classes lie elsewhere in other Pythons")
    try:
        suite()
    except SuiteUnavailable as error:
        if os.environ.get("REQUIRE_IMAGE"):
            raise
        pytest.skip(str(error))
    run = "import sys; from tests.functional.functions.cpython_suite import main; main(*sys.argv[1:])"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = {
        backend: subprocess.Popen(
            [sys.executable, "-c", run, backend], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for backend in EXECUTORS
    }
    yield processes
    for process in processes.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("backend", EXECUTORS)
def test_the_standard_librarys_tests_pass(running: dict[str, "subprocess.Popen[str]"], backend: str) -> None:
    printed, _ = running[backend].communicate(timeout=TIMEOUT_S)

    assert running[backend].returncode == 0, printed
    ran = re.search(r"^Ran (\d+) tests", printed, re.MULTILINE)
    assert ran and int(ran[1]) >= MIN_TESTS[backend]


def test_at_most_three_are_left_out(running: object) -> None:
    theirs = sys.modules[NAME].ExecutorShutdownTest

    assert len(EXCLUDED) <= 3
    assert all(hasattr(theirs, name) for name in EXCLUDED)
