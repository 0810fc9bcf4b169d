"""No pattern or glob hangs on names, messages or lists that others choose."""

import subprocess
import sys
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.planning.inputs.selection import matches
from tests.waiting import deadline_s

LENGTH = 1024  # bytes of the longest key
TRIED = 512  # characters: a cubic pattern takes minutes for each text, a quadratic one milliseconds


def test_no_pattern_hangs_on_what_others_write() -> None:
    command = [sys.executable, "-m", "tests.unit.inputs.every_pattern", str(TRIED)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=deadline_s(150), check=False)
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"it hangs at {(error.stdout or b'').decode().splitlines()[-1:]}")

    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1].split()[0]) > 100


@pytest.mark.parametrize("pattern", ["**/a/**/a/**/b.csv", "**/*a*a*a*/**/*b", "/".join(["**"] * 60), "*a" * 60 + "b"])
def test_no_key_hangs_the_planner(pattern: str) -> None:
    key = "a/" * (LENGTH // 2) + "c"
    code = f"from sparklet.planning.inputs.selection import matches; print(matches({key!r}, {pattern!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=deadline_s(), check=True
    )

    assert done.stdout.strip() == str(set(pattern) == {"*", "/"})


def by_definition(segments: list[str], patterns: list[str]) -> bool:
    """Match by trying all ways, as the definition says: ``**`` stands for any segments, or for all that are left."""
    first, *rest = patterns
    if first == "**":
        return any(by_definition(segments[count:], rest) for count in range(len(segments))) if rest else bool(segments)
    if not segments or not fnmatchcase(segments[0], first):
        return False
    return by_definition(segments[1:], rest) if rest else len(segments) == 1


WORK = {
    "a line of output": "ScriptOutput(print, ScriptCall(Path('/a.py'), Script(b''), (), Path('/'), Deadline(0, 0)))"
    ".add('script', 'stderr', (PART * 65536)[:65536].encode())",
    "a failure's output": "bad_file(PART * (131072 // len(PART)), {}), root_cause(PART * (131072 // len(PART)))",
    "comments": "Script(b'# sparklet: spark.x=' + PART.encode() * 200_000 + b'b').comments",
    "a condition": "_TOKEN.sub('', PART * 200_000 + 'a')",
}
IMPORTS = """
from pathlib import Path
from sparklet.connectors.data_catalog.conditions import _TOKEN
from sparklet.spark.script_output import bad_file, root_cause
from sparklet.spark.runner import ScriptCall
from sparklet.spark.script import Script
from sparklet.spark.script_output import ScriptOutput
from sparklet.spark.runner import Deadline
"""


@pytest.mark.parametrize(
    ("work", "part"),
    [
        ("a line of output", "sparklet.reads (TID 1) Reading File path: "),
        ("a line of output", "sparklet.reads (TID 1) "),
        ("a line of output", "sparklet.reads  Reading File"),
        ("a failure's output", "(TID 1) (executor"),
        ("a failure's output", "executor executor"),
        ("a failure's output", "\nCaused by: a.B: s3a://b/k: a (Service: a; "),
        ("comments", " "),
        ("a condition", "1"),
    ],
)
def test_no_long_text_of_a_script_hangs_its_parser(work: str, part: str) -> None:
    """A script can print an object's data: such texts are longer than keys, so even quadratic time is too much."""
    code = IMPORTS + WORK[work].replace("PART", repr(part))
    try:
        subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=deadline_s(10), check=True)
    except subprocess.TimeoutExpired:
        pytest.fail(f"{work} hangs")


NAMES = st.lists(st.sampled_from(["a", "b", "ab", ""]), min_size=1, max_size=5)
PATTERNS = st.lists(st.sampled_from(["a", "*b", "?", "**", "*"]), min_size=2, max_size=5)


@given(NAMES, PATTERNS)
def test_a_glob_matches_as_its_definition_says(segments: list[str], patterns: list[str]) -> None:
    assert matches("/".join(segments), "/".join(patterns)) == by_definition(segments, patterns)
