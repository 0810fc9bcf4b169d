"""How digests of fetched files are written into a stack file, and how versions are compared."""

import tomllib
from datetime import date
from pathlib import Path

import pytest

from docker.lock_stacks import Locked, differences, lock_document, requirement_of
from docker.outdated import Newer, newer, supported

STACK = Path(__file__).parents[3] / "docker" / "stacks" / "spark-3.5.toml"
STACKS = sorted(STACK.parent.glob("*.toml"))
TEXT = """\
# Why this stack.
name = "tiny"

[[jar]]
group = "g"
coordinate = "org.example:b:1"
sha256 = "old"
size_bytes = 1

# After b: the class path's order.
[[jar]]
group = "g"
coordinate = "org.example:a:1"
sha256 = "old"
size_bytes = 1

[[distribution]]
groups = ["g"]
name = "x"
version = "2"
files = []
"""
JARS = {"org.example:b:1": Locked("b-1.jar", "bb", 1_234_567), "org.example:a:1": Locked("a-1.jar", "aa", 12)}
FILES = {"x==2": [Locked("x-2-two.whl", "22", 2000), Locked("x-2-one.whl", "11", 1000)]}


def test_hashes_and_sizes_are_written_and_all_else_stays() -> None:
    locked = lock_document(TEXT, JARS, FILES)

    expected = TEXT.replace('sha256 = "old"\nsize_bytes = 1\n', 'sha256 = "bb"\nsize_bytes = 1_234_567\n', 1)
    expected = expected.replace('sha256 = "old"\nsize_bytes = 1\n', 'sha256 = "aa"\nsize_bytes = 12\n', 1)
    expected = expected.replace(
        "files = []\n",
        "files = [\n"
        '    { name = "x-2-one.whl", sha256 = "11", size_bytes = 1_000 },\n'
        '    { name = "x-2-two.whl", sha256 = "22", size_bytes = 2_000 },\n'
        "]\n",
    )
    assert locked == expected


def test_locking_an_unchanged_stack_again_changes_no_byte() -> None:
    text = STACK.read_text()
    stack = tomllib.loads(text)
    jars = {jar["coordinate"]: Locked("", jar["sha256"], jar["size_bytes"]) for jar in stack["jar"]}
    files = {f"{e['name']}=={e['version']}": [Locked(**file) for file in e["files"]] for e in stack["distribution"]}

    assert lock_document(text, jars, files) == text


def test_changes_are_named() -> None:
    locked = lock_document(TEXT, {**JARS, "org.example:a:1": Locked("a-1.jar", "old", 1)}, FILES)

    assert differences(tomllib.loads(TEXT), tomllib.loads(locked)) == ["org.example:b:1", "x==2"]


@pytest.mark.parametrize(
    ("file_name", "requirement"),
    [
        ("python_dateutil-2.9.0.post0-py2.py3-none-any.whl", "python-dateutil==2.9.0.post0"),
        ("pyspark-3.5.9.tar.gz", "pyspark==3.5.9"),
    ],
)
def test_a_file_satisfies_the_requirement_of_its_name(file_name: str, requirement: str) -> None:
    assert requirement_of(file_name) == requirement


@pytest.mark.parametrize(
    ("version", "available", "in_line", "newest"),
    [
        ("3.5.9", ["3.5.10", "3.5.2", "4.1.0"], "3.5.10", "4.1.0"),
        ("1.26.4", ["2.0.0", "1.26.4"], "", "2.0.0"),
        ("2.1.0-spark-3.5", ["2.2.0-spark-3.3", "2.1.1-spark-3.5", "9.0.0"], "2.1.1-spark-3.5", "2.1.1-spark-3.5"),
        ("2.9.0.post0", ["2.9.0.post0", "2.8.2"], "", ""),
        ("4.0.0", ["4.1.0-preview1", "4.0.1rc1", "4.0.1-RC2", "5.0.0-M1", "4.0.1"], "4.0.1", "4.0.1"),
    ],
)
def test_versions_of_one_kind_are_compared_by_number(
    version: str, available: list[str], in_line: str, newest: str
) -> None:
    assert newer("x", version, available) == (Newer("x", version, in_line, newest) if newest else None)


def test_the_end_of_support_is_shown_with_its_source() -> None:
    stack = {"support": [{"of": "Spark 3.5, by its community", "until": date(2026, 4, 12), "source": "https://a.test"}]}

    assert ["ended on 2026-04-12 (https://a.test)" in line for line in supported(stack, date(2026, 4, 13))] == [True]
    assert ["ends on 2026-04-12" in line for line in supported(stack, date(2026, 4, 12))] == [True]


@pytest.mark.parametrize("stack_file", STACKS, ids=lambda file: file.stem)
def test_each_stack_says_how_long_its_spark_is_supported(stack_file: Path) -> None:
    assert len(list(supported(tomllib.loads(stack_file.read_text()), date(2026, 11, 24)))) >= 2
