"""The templates, as far as they can be tried without AWS: `make validate`, and no part of the ordinary suite."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test here, so that the ordinary suite leaves it out."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("validate")
