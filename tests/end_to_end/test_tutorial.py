"""The tutorial's commands, run in one shell, print what the page shows; only the part on AWS is left out."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.conftest import User

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text().partition("\n## 5. Deploy\n")[0]
BLOCKS = r"(?:Write a script, `([\w.]+)`:\n\n)?```(?:console|python)\n(.*?)```"
DIFFERS = r"\d+ workers|(\d+ shards/min · )?(\d+ min )?[\d.]+ s\b"  # texts that differ by machine, or each time
DONE = "=== done: "


def steps(page: str) -> list[tuple[str, str]]:
    """The commands of the page, each with the output that the page shows; "" if it shows none."""
    commands: list[tuple[str, str]] = []
    for file, text in re.findall(BLOCKS, page, re.DOTALL):
        if file:
            commands.append((f"cat > {file} <<'END'\n{text}END", ""))
        else:
            parts = (part.partition("\n") for part in re.split(r"^\$ ", text, flags=re.M)[1:])
            commands += [(command, shown) for command, _, shown in parts]
    return commands


def words(text: str) -> str:
    """A text without its line breaks, whose places depend on the lengths of names."""
    return "".join(f"{word} " for word in text.split())


def pattern(shown: str) -> str:
    """A regular expression for a whole output, in which … and what differs each time match any text."""
    return ".*?".join(map(re.escape, re.sub(DIFFERS, "…", words(shown)).replace("… ", "…").split("…")))


@pytest.mark.nightly
@pytest.mark.spark
@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="the tutorial makes and uses .venv")
def test_the_tutorials_commands_print_what_the_page_shows(user: User) -> None:
    checkout = user.home / "sparklet"
    checkout.mkdir()
    for name in (".venv", "Makefile", "requirements"):
        (checkout / name).symlink_to(ROOT / name)
    typed = steps(PAGE)
    script = "".join(f"{command}\nprintf '\\n{DONE}%s\\n' $?\n" for command, _ in typed)
    variables = {"PYTHON": str(Path(sys.executable).resolve()), "SPARKLET_STATE_DIR": str(user.state), "COLUMNS": "200"}

    output = subprocess.run(
        ["bash", "-c", script],
        cwd=checkout,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ).stdout

    answers = re.findall(rf"(.*?)\n{DONE}(\d+)\n", output.replace(str(user.home), "/home/ana"), re.DOTALL)
    assert len(answers) == len(typed) > 12, output
    for (command, shown), (answer, code) in zip(typed, answers, strict=True):
        failed = re.search(r"^state +(FAILED)|^error: ", shown, re.M)
        assert int(code) == ((2 if failed[1] else 1) if failed else 0), f"{command}\n{answer}"
        assert not shown or re.fullmatch(pattern(shown), words(answer)), f"{command}\n{answer}"
