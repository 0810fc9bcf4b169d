"""CPython's own tests of executors, ``test.test_concurrent_futures``, run on ``LambdaExecutor``.

They are imported from where this Python has them, or from Debian's package ``libpython3.11-testsuite``, which is
fetched once.
"""

import hashlib
import importlib
import io
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest
import urllib.request
from concurrent import futures
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sparklet.errors import PayloadError, RemoteTaskError
from sparklet.functions.calls import RemoteTraceback
from sparklet.functions.executor import LambdaExecutor
from sparklet.functions.local import Processes
from sparklet.local.spark_installation import jar_cache

NAME = "test.test_concurrent_futures"
PACKAGE = "libpython3.11-testsuite"
VERSION = "3.11.2-6+deb12u8"  # of Debian 12's main archive, which does not change any more
SHA256 = "718afaa9807bcc228d16f7e01436f7fdbfc1268f806091c0b83d57f564633fa3"
URL = f"https://deb.debian.org/debian/pool/main/p/python3.11/{PACKAGE}_{VERSION}_all.deb"
MEMBER = "./usr/lib/python3.11/test/test_concurrent_futures.py"

GENERIC = ("ExecutorTest", "WaitTests", "AsCompletedTests", "ExecutorShutdownTest")
TIMED = ("ExecutorTest", "WaitTests")  # a test has 1.5 or 5 s for what a busy machine does slowly
EXCLUDED = {  # each starts a script that imports the executor from concurrent.futures by its name
    "test_interpreter_shutdown": "test_lives.py has it with our executor",
    "test_submit_after_interpreter_shutdown": "test_lives.py has it with our executor",
    "test_hang_gh83386": "test_lives.py has it with our executor; skipped for ProcessPoolExecutor, which hangs",
}
# Of the classes that look into ProcessPoolExecutor's own fields, the tests that do not.
OF_PROCESSES = {
    "ProcessPoolExecutorTest": ("test_map_chunksize", "test_traceback", "test_ressources_gced_in_workers"),
    "ExecutorDeadlockTest": (
        "test_error_at_task_pickle",
        "test_exit_at_task_unpickle",
        "test_error_at_task_unpickle",
        "test_crash_at_task_unpickle",
        "test_crash_during_func_exec_on_worker",
        "test_exit_during_func_exec_on_worker",
        "test_error_during_func_exec_on_worker",
        "test_crash_during_result_pickle_on_worker",
        "test_exit_during_result_pickle_on_worker",
        "test_error_during_result_pickle_on_worker",
        "test_error_during_result_unpickle_in_result_handler",
        "test_exit_during_result_unpickle_in_result_handler",
        "test_shutdown_deadlock",
    ),
}
OURS: dict[str, Any] = {"BrokenProcessPool": RemoteTaskError, "PicklingError": PayloadError}


class SuiteUnavailableError(Exception):
    """CPython's tests cannot be had here."""


def suite() -> Any:
    """The module. Raises SuiteUnavailableError."""
    if find_spec("test") is None or find_spec("test.support") is None:
        raise SuiteUnavailableError("this Python comes without its package test")
    if find_spec(NAME) is None:
        folder = str(_fetched())
        sys.path.insert(0, folder)  # workers get it, too
        for name in [name for name in sys.modules if name == "test" or name.startswith("test.")]:
            del sys.modules[name]
        importlib.invalidate_caches()
    return importlib.import_module(NAME)


def _fetched() -> Path:
    """A folder with a package ``test`` that has the suite, and else what this Python's own has."""
    folder = jar_cache().with_name("cpython-suite") / VERSION
    module = folder / "test" / "test_concurrent_futures.py"
    if not module.exists():
        content = _content(_package())
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
            package = Path(draft) / "test"
            package.mkdir()
            (package / "__init__.py").write_text('__path__ = __import__("pkgutil").extend_path(__path__, __name__)\n')
            (package / module.name).write_bytes(content)
            module.parent.mkdir(parents=True, exist_ok=True)
            (package / "__init__.py").replace(module.parent / "__init__.py")
            (package / module.name).replace(module)
    return folder


def _package() -> bytes:
    """Debian's package: from its archive, pinned; else of what version the machine's own sources have, signed."""
    try:
        with urllib.request.urlopen(URL, timeout=60) as answer:
            package: bytes = answer.read()
    except OSError as error:
        return _package_by_apt(error)
    if hashlib.sha256(package).hexdigest() != SHA256:
        raise SuiteUnavailableError(f"{URL} is not what it was")
    return package


def _package_by_apt(cause: OSError) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "partial").mkdir()
        apt = ["apt-get", "-q", "-o", f"Dir::State={folder}", "-o", f"Dir::Cache={folder}", "-o", "Dir::State::status="]
        try:
            for words in (["update"], ["download", PACKAGE]):
                subprocess.run([*apt, *words], cwd=folder, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SuiteUnavailableError(f"{URL}: {cause}; apt-get: {error}") from error
        [package] = Path(folder).glob(f"{PACKAGE}_*.deb")
        return package.read_bytes()


def _content(package: bytes) -> bytes:
    """The suite's module, of a Debian package: an ar archive, of whose members one is a tar archive."""
    position = 8
    while position < len(package):
        header = package[position : position + 60]
        size_bytes = int(header[48:58])
        position += 60
        if header.startswith(b"data.tar"):
            with tarfile.open(fileobj=io.BytesIO(package[position : position + size_bytes])) as archive:
                module = archive.extractfile(MEMBER)
                assert module
                return module.read()
        position += size_bytes + size_bytes % 2
    raise SuiteUnavailableError(f"{PACKAGE} has no {MEMBER}")


class Local(LambdaExecutor):
    """As the suite makes executors."""

    def __init__(self, max_workers: int | None = None, mp_context: Any = None) -> None:
        backend = Processes(max_workers, context=mp_context) if mp_context else "processes"
        super().__init__(backend, max_workers=max_workers)


EXECUTORS: dict[str, tuple[Any, dict[str, Any]]] = {
    "spawn": (Local, {"ctx": "spawn"}),
    "fork": (Local, {"ctx": "fork"}),
    "threads": (partial(LambdaExecutor, "threads"), {}),
    "lambda": (partial(LambdaExecutor, "lambda"), {}),
}
"""What makes a backend's executors, and further attributes of its tests' classes."""


def classes(backend: str) -> list[str]:
    """The suite's classes that a backend's tests come from."""
    more = {"threads": ["FutureTests"], "lambda": []}
    return [*GENERIC, *more.get(backend, OF_PROCESSES)]


def cases(backend: str, name: str) -> unittest.TestSuite:
    """The tests of one of the suite's classes that fit a backend."""
    found = suite()
    theirs = getattr(found, name)
    executor, attributes = EXECUTORS[backend]
    attributes = {**attributes, "executor_type": executor}
    bases = (found.ExecutorMixin, found.BaseTestCase)
    if name in GENERIC:
        attributes["setUp"] = _ready if name in TIMED else found.ExecutorMixin.setUp
        case = type(f"{backend}{name}", (theirs, *bases), attributes)
    elif name in OF_PROCESSES:
        chosen = (*OF_PROCESSES[name], "TIMEOUT", "_check_crash", "_test_traceback")
        own = {each: getattr(theirs, each) for each in chosen if hasattr(theirs, each)}
        case = type(f"{backend}{name}", bases, {**attributes, **own})
    else:
        case = theirs
    names = unittest.defaultTestLoader.getTestCaseNames(case)
    return unittest.TestSuite(case(each) for each in names if each not in EXCLUDED)


def _ready(self: Any) -> None:
    """Start workers first, as CPython's own tests did up to 3.8."""
    sys.modules[NAME].ExecutorMixin.setUp(self)
    futures.wait([self.executor.submit(time.sleep, 0.1) for _ in range(3)])


def main(backend: str, *names: str) -> None:
    """Run tests on one backend, by default all that fit. The exit code says whether they passed and left no thread."""
    found = suite()
    tests = unittest.TestSuite(cases(backend, name) for name in names or classes(backend))
    with patch.multiple(found, **OURS), patch.object(futures.process, "_RemoteTraceback", RemoteTraceback):
        result = unittest.TextTestRunner(sys.stdout, verbosity=2).run(tests)
    left_behind = found.support.environment_altered
    print(f"left behind: {left_behind}")
    sys.exit(not result.wasSuccessful() or left_behind)
