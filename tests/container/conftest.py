"""The built image behind the runtime interface emulator, in a network where there is only a stand-in for AWS.

`make test-image` runs these tests; without the image or the programs they are skipped, and say why. With
REQUIRE_IMAGE=1 (CI) that is a failure.
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
    """Mark every test here, so that the ordinary suite leaves it out, and who asks for the quick ones too."""
    for item in items:
        if item.path.is_relative_to(HERE):
            for mark in ("container", "spark", "stack", "slow"):
                item.add_marker(mark)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was observed: figures that no test asserts."""
    if _observed:
        terminalreporter.section("observed")
        for line in _observed:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def observed() -> list[str]:
    """Lines for the summary."""
    return _observed


@contextmanager
def or_skipped(what: str = "the image is NOT tested") -> Iterator[None]:
    """Say loudly what is skipped since something is not here; with REQUIRE_IMAGE that is a failure."""
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
        found = built_image()
    remove_orphans(found)
    return found


@pytest.fixture(scope="session")
def cell(image: BuiltImage) -> Iterator[Cell]:
    """The network; made after the image was found."""
    with ExitStack() as stack:
        with or_skipped():
            found = stack.enter_context(new_cell())
        yield found


@pytest.fixture(scope="session")
def stand_in(cell: Cell, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of an empty AWS inside the network."""
    with ExitStack() as stack:
        with cell.entered():
            endpoint = stack.enter_context(ministack(tmp_path_factory.mktemp("aws")))
        yield endpoint


@pytest.fixture(scope="module")
def conditions(request: pytest.FixtureRequest) -> Conditions:
    """The module's CONDITIONS, or those of a function as most are."""
    found: Any = getattr(request.module, "CONDITIONS", Conditions())
    assert isinstance(found, Conditions)
    return found


@pytest.fixture(scope="module")
def account(cell: Cell, stand_in: str, conditions: Conditions) -> Iterator[Account]:
    """An account of the module's own; the test is in its network from now on."""
    with cell.entered(), new_account(stand_in, 6 * conditions.timeout_s) as account:
        yield account


@pytest.fixture(scope="module")
def function(image: BuiltImage, cell: Cell, account: Account, conditions: Conditions) -> Iterator[Container]:
    """The worker function in one container, shared by the module."""
    with running(image, cell, replace(conditions, env={**account.env, **conditions.env})) as container:
        yield container


@pytest.fixture
def bench(account: Account, function: Container, tmp_path: Path) -> ShardBench:
    """Pieces of code as shards."""
    return ShardBench(account, function, tmp_path)
