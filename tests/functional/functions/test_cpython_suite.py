"""The standard library's own tests of executors pass on ours: the suite itself is CPython's, imported."""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.functions.conftest import deployed_functions
from tests.functional.functions.cpython_suite import EXCLUDED, EXECUTORS, NAME, SuiteUnavailableError, classes, suite
from tests.waiting import deadline_s

MIN_TESTS = {"spawn": 41, "fork": 41, "threads": 45, "lambda": 25}
SLEEPY = "WaitTests"
TIMEOUT_S = deadline_s(280)

pytestmark = [pytest.mark.nightly, pytest.mark.slow, pytest.mark.stack]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list["subprocess.Popen[str]"]]]:
    """All backends at once, in interpreters of their own: most of the time is sleep, of one class above all."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("its classes lie elsewhere in other Pythons")
    try:
        found = suite()
    except SuiteUnavailableError as error:
        if os.environ.get("REQUIRE_IMAGE"):
            raise
        pytest.skip(str(error))
    run = "import sys; from tests.functional.functions.cpython_suite import main; main(*sys.argv[1:])"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(found.__file__).parents[1]))  # of the stand-in's workers
        with deployed_functions(tmp_path_factory.mktemp("deployed"), "*"):
            env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            processes = {
                backend: [
                    subprocess.Popen(
                        [sys.executable, "-c", run, backend, *names],
                        env=env,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        text=True,
                    )
                    for names in ([SLEEPY], [name for name in classes(backend) if name != SLEEPY])
                ]
                for backend in EXECUTORS
            }
            yield processes
            for process in itertools.chain(*processes.values()):
                process.kill()
                process.wait()


@pytest.mark.parametrize("backend", EXECUTORS)
def test_the_standard_librarys_tests_pass(running: dict[str, list["subprocess.Popen[str]"]], backend: str) -> None:
    printed = [process.communicate(timeout=TIMEOUT_S)[0] for process in running[backend]]

    assert [process.returncode for process in running[backend]] == [0, 0], "\n".join(printed)
    ran = [int(count) for count in re.findall(r"^Ran (\d+) tests", "\n".join(printed), re.MULTILINE)]
    assert sum(ran) >= MIN_TESTS[backend]


def test_at_most_three_are_left_out(running: object) -> None:
    theirs = sys.modules[NAME].ExecutorShutdownTest

    assert len(EXCLUDED) <= 3
    assert all(hasattr(theirs, name) for name in EXCLUDED)
