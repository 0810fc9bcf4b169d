"""The template that is tested."""

from typing import Any

import pytest

from sparklet.local.local_template import load_template


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    return load_template()
