"""For every test: its name is short enough to be read."""

import pytest

MAX_NAME = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse names that nobody reads: a test's name is the promise it keeps, in a few words."""
    names = {getattr(item, "originalname", item.name) for item in items}
    if too_long := sorted(name for name in names if len(name) > MAX_NAME):
        raise pytest.UsageError(f"names of more than {MAX_NAME} characters: " + ", ".join(too_long))
