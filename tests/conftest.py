"""Rules for every test: short names, no stubbed response of AWS left unused, markers that choose what runs."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import Stubber

from sparklet.local.emulator_packages import ensure_emulator
from sparklet.local.jars import load_stack
from sparklet.local.spark_installation import stack_file

# Appended last, so that only packages which nothing else has are imported from the emulator's folder.
sys.path.append(str(ensure_emulator(print)))

MAX_NAME = 60
UNTIL_S = float(os.environ.get("TESTS_UNTIL_S") or 0)  # CI's limit, a Unix time: no test begins later; 0: none
NEVER_BY_THE_WAY = "not nightly and not campaign and not container and not validate"


def pytest_configure(config: pytest.Config) -> None:
    """If the command line names a path, run its tests even if they are slow: markers choose only among all tests."""
    if hasattr(config, "workerinput"):
        config.option.markexpr = config.workerinput["markexpr"]
        return
    words = list(map(str, config.invocation_params.args))
    named = any(Path(word.partition("::")[0]).exists() for word in words if not word.startswith("-"))
    if named and not any(word.startswith("-m") for word in words):
        config.option.markexpr = NEVER_BY_THE_WAY


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Pass the choice of markers to xdist's processes, which parse the command line again."""
    node.workerinput["markexpr"] = node.config.option.markexpr


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Return no text of binary parameters for test ids: gzip contains the time, so xdist's processes would differ."""
    return argname if isinstance(val, bytes) and not (val.isascii() and val.decode().isprintable()) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse tests with too long names, and skip tests whose packages the stack does not have."""
    names = {getattr(item, "originalname", item.name) for item in items}
    if too_long := sorted(name for name in names if len(name) > MAX_NAME):
        raise pytest.UsageError(f"names of more than {MAX_NAME} characters: " + ", ".join(too_long))
    groups = load_stack(stack_file()).groups
    for item in items:
        for group in ("hudi", "deequ"):
            if group not in groups and _needs(item, group):
                item.add_marker(pytest.mark.skip(f"the stack {stack_file().stem} has no {group}"))
    if UNTIL_S:  # begin with another file each time, so that no test is never reached
        files = [list(tests) for _, tests in groupby(items, key=lambda item: item.path)]
        first = int(UNTIL_S) % max(1, len(files))
        items[:] = [item for tests in files[first:] + files[:first] for item in tests]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Skip what CI has no time for on a slow machine, before anything is set up for it."""
    if UNTIL_S and time.time() > UNTIL_S:
        pytest.skip("NOT tried: the time for these tests is over")


def _needs(item: pytest.Item, group: str) -> bool:
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return item.get_closest_marker(group) is not None or group in parameters


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Print a failure and its cause at once: if CI's time limit stops pytest, there is no summary."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        end = "\n".join(report.longreprtext.splitlines()[-12:])
        print(f"\nFAILED {report.nodeid} ({report.when})\n{end}", file=sys.__stderr__, flush=True)


@pytest.fixture(autouse=True)
def every_stubbed_response_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that leaves a stubbed response of AWS unused: the call that the response is for was not made."""

    def exit_stubber(stub: Stubber, error_class: object, *_: object) -> None:
        stub.deactivate()
        if error_class is None:
            stub.assert_no_pending_responses()

    monkeypatch.setattr(Stubber, "__exit__", exit_stubber)


@pytest.fixture
def refusing() -> Iterator[str]:
    """A host and port that refuse connections: the port is bound, so that no other process gets it, but not served."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"
