"""docs/guide/migrate.md: the commands, options and parameters that it names are there."""

import re
from pathlib import Path

from sparklet.local.local_template import load_template

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guide" / "migrate.md").read_text()
REFERENCE = (ROOT / "docs" / "reference" / "commands.md").read_text()


def here() -> str:
    """The right columns of the page's tables."""
    return "\n".join(row.rsplit(" | ", 1)[1] for row in PAGE.splitlines() if row.startswith("| "))


def test_every_command_and_option_exists() -> None:
    code = re.findall(r"`([^`]+)`", here())
    commands = {words[1] for text in code if (words := text.split())[0] == "sparklet"}
    ours = [text.partition(" -- ")[0] for text in code]  # what follows is the script's
    options = {word for text in ours for word in re.findall(r"(?<![\w-])--[a-z-]+", text)}

    assert {"run", "redrive", "status"} <= commands and len(options) > 10
    assert [each for each in sorted(commands) if f"\n## sparklet {each}\n" not in REFERENCE] == []
    assert [each for each in sorted(options) if f"`{each}`" not in REFERENCE] == []


def test_every_parameter_exists() -> None:
    named = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z]+[a-z]*)+)[=`]", here()))

    assert len(named) > 6
    assert named - load_template()["Parameters"].keys() == set()
