"""Tests of the templates without AWS: `make validate`. The quick ones are a part of the ordinary suite."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
QUICK = {"test_simulated_rights.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, so that the ordinary suite leaves them out; not the quick ones."""
    for item in items:
        if item.path.is_relative_to(HERE) and item.path.name not in QUICK:
            item.add_marker("validate")
