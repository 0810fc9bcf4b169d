"""The templates, as far as they can be tried without AWS: `make validate`; of the ordinary suite what takes seconds."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
QUICK = {"test_simulated_rights.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests here, so that the ordinary suite leaves them out."""
    for item in items:
        if item.path.is_relative_to(HERE) and item.path.name not in QUICK:
            item.add_marker("validate")
