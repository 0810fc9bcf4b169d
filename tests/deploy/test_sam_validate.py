"""SAM's own validation of each template, in a file of its own so that it runs in parallel to ``test_sam``'s build."""

from pathlib import Path

import pytest

from tests.container.conftest import or_skipped
from tests.deploy.test_sam import NOT_TRIED, Sam
from tests.unit.template.reading import SAM, TEMPLATES


@pytest.mark.parametrize("name", TEMPLATES)
def test_sam_and_its_linter_find_nothing(name: str, tmp_path: Path) -> None:
    with or_skipped(NOT_TRIED):
        answer = Sam(tmp_path, {}).run("validate", "--lint", "--template", str(SAM / name))
    assert "is a valid SAM Template" in answer
