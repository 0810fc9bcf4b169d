"""The README as the wheel's description: hatchling's hook, since only a release knows where the repository lies.

With REPOSITORY_URL its links lead to that version there, and pyproject's `urls` too; without it they become their text,
as a link into a folder leads nowhere from a package's page.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

RELATIVE = re.compile(r"(!?)\[([^\]]+)\]\((?!\w+:|#)([^)]+)\)")


def described(text: str, repository: str, tag: str) -> str:
    """A page with absolute links, or with none but absolute ones."""
    if not repository:
        return RELATIVE.sub(lambda found: "" if found[1] else found[2], text)
    kinds = {"": "blob", "!": "raw"}
    return RELATIVE.sub(lambda found: f"{found[1]}[{found[2]}]({repository}/{kinds[found[1]]}/{tag}/{found[3]})", text)


class Description(MetadataHookInterface):
    """Sets what pyproject declares as dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set `readme` and `urls`."""
        repository, tag = os.environ.get("REPOSITORY_URL", ""), f"v{metadata['version']}"
        text = described((Path(self.root) / "README.md").read_text(encoding="utf-8"), repository, tag)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        pages = {"Source": "", "Issues": "/issues", "Changelog": f"/blob/{tag}/CHANGELOG.md"}
        metadata["urls"] = {name: repository + page for name, page in pages.items()} if repository else {}
