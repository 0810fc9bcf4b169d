"""The built image behind the runtime interface emulator, in a network that has only a stand-in for AWS.

`make test-image` runs these tests. Without the image or a program they are skipped with the reason; with
REQUIRE_IMAGE=1 (CI) they fail.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.container.account import Account, new_account
from tests.container.bench import ShardBench
from tests.container.built_image import BuiltImage, NotHereError, built_image
from tests.container.cell import Cell, new_cell
from tests.container.container import Conditions, Container, remove_orphans, running
from tests.stand_ins.ministack import ministack

REQUIRED = "REQUIRE_IMAGE"
HERE = Path(__file__).parent

_observed: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder, so that the ordinary suite and the choice of quick tests leave it out."""
    for item in items:
        if item.path.is_relative_to(HERE):
            for mark in ("container", "spark", "stack", "slow"):
                item.add_marker(mark)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the observed figures, which no test asserts."""
    if _observed:
        terminalreporter.section("observed")
        for line in _observed:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def observed() -> list[str]:
    """The lines that the summary prints; a test appends its own."""
    return _observed


@contextmanager
def or_skipped(what: str = "the image is NOT tested") -> Iterator[None]:
    """Skip the test if the block finds something missing, and print ``what`` is not tested; fail with REQUIRE_IMAGE."""
    try:
        yield
    except NotHereError as reason:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, but {reason}", pytrace=False)
        pytest.skip(f"{what}: {reason}")


@pytest.fixture(scope="session")
def image() -> BuiltImage:
    """The image that was built last."""
    with or_skipped():
        built = built_image()
    remove_orphans(built)
    return built


@pytest.fixture(scope="session")
def cell(image: BuiltImage) -> Iterator[Cell]:
    """The network of the container, the stand-in and the tests; not made if there is no image."""
    with ExitStack() as stack:
        with or_skipped():
            cell = stack.enter_context(new_cell())
        yield cell


@pytest.fixture(scope="session")
def stand_in(cell: Cell, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of an empty stand-in for AWS inside the network."""
    with ExitStack() as stack:
        with cell.entered():
            endpoint = stack.enter_context(ministack(tmp_path_factory.mktemp("aws")))
        yield endpoint


@pytest.fixture(scope="module")
def conditions(request: pytest.FixtureRequest) -> Conditions:
    """The conditions that the module sets as CONDITIONS, or else the default ones."""
    chosen: Any = getattr(request.module, "CONDITIONS", Conditions())
    assert isinstance(chosen, Conditions)
    return chosen


@pytest.fixture(scope="module")
def account(cell: Cell, stand_in: str, conditions: Conditions) -> Iterator[Account]:
    """An account for this module alone; from now on the test's thread is in the network."""
    with cell.entered(), new_account(stand_in, 6 * conditions.timeout_s) as account:
        yield account


@pytest.fixture(scope="module")
def function(image: BuiltImage, cell: Cell, account: Account, conditions: Conditions) -> Iterator[Container]:
    """The worker function in one container, shared by the module."""
    with running(image, cell, replace(conditions, env={**account.env, **conditions.env})) as container:
        yield container


@pytest.fixture
def bench(account: Account, function: Container, tmp_path: Path) -> ShardBench:
    """Runs pieces of code as shards in the function."""
    return ShardBench(account, function, tmp_path)
