"""SAM's own validation of each template; a file of its own, so that it runs beside the build of ``test_sam``."""

from pathlib import Path

import pytest

from tests.deploy.templates import PATHS
from tests.deploy.test_sam import Sam, or_skipped


@pytest.mark.parametrize("template", PATHS, ids=lambda path: path.name)
def test_sam_and_its_linter_find_nothing(template: Path, tmp_path: Path) -> None:
    with or_skipped():
        answer = Sam(tmp_path, {}).run("validate", "--lint", "--template", str(template))
    assert "is a valid SAM Template" in answer
