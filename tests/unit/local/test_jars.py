"""The stack file and the check of the jar cache; these tests need neither Java nor network."""

import fcntl
import hashlib
import socket
from pathlib import Path

import pytest

from sparklet.errors import LocalStackError
from sparklet.local.jars import ensure_jars, load_stack

STACK = Path(__file__).parents[3] / "docker" / "stacks" / "spark-3.5.toml"
CONTENT = {"one": b"the first jar", "two": b"the second jar", "three": b"the third jar"}


def _stack_file(folder: Path) -> Path:
    """Write a stack file with three jars in two groups, not in the order of their names."""
    entries = [("s3a", "two"), ("delta", "one"), ("s3a", "three")]
    text = 'name = "tiny"\nspark = "3.5.9"\n'
    for group, name in entries:
        sha256 = hashlib.sha256(CONTENT[name]).hexdigest()
        text += f'[[jar]]\ngroup = "{group}"\ncoordinate = "org.example:{name}:1"\n'
        text += f'sha256 = "{sha256}"\nsize_bytes = {len(CONTENT[name])}\n'
    stack_file = folder / "tiny.toml"
    stack_file.write_text(text)
    return stack_file


def _fill(cache_dir: Path, *names: str) -> None:
    """Put these jars and their markers into the cache, as an earlier run does."""
    cache_dir.mkdir(exist_ok=True)
    for name in names:
        (cache_dir / f"{name}-1.jar").write_bytes(CONTENT[name])
        (cache_dir / f"{name}-1.jar.sha256").write_text(hashlib.sha256(CONTENT[name]).hexdigest())


def _never(line: str) -> None:
    pytest.fail(f"nothing was to be done, yet it said: {line}")


def test_the_stack_of_this_project_is_well_formed() -> None:
    stack = load_stack(STACK)

    assert stack.name == STACK.stem
    assert stack.groups[:5] == ("s3a", "delta", "iceberg", "hudi", "avro")
    names = [jar.file_name for jar in stack.jars]
    assert len(names) == len(set(names))
    assert all(jar.size_bytes > 10_000 for jar in stack.jars)


def test_a_complete_cache_needs_neither_network_nor_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(tmp_path / "cache", "one", "two", "three")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(socket, "socket", None)

    jars = ensure_jars(_stack_file(tmp_path), tmp_path / "cache", {"delta", "s3a"}, _never)

    assert [jar.read_bytes() for jar in jars] == [CONTENT["two"], CONTENT["one"], CONTENT["three"]]


def test_waiting_for_another_fetcher_is_reported(tmp_path: Path) -> None:
    cache, messages = tmp_path / "cache", list[str]()
    cache.mkdir()

    def say(line: str) -> None:
        messages.append(line)
        _fill(cache, "one", "two", "three")
        fcntl.flock(other, fcntl.LOCK_UN)

    with (cache / ".lock").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        jars = ensure_jars(_stack_file(tmp_path), cache, ["s3a", "delta"], say)

    assert len(jars) == 3
    assert len(messages) == 1 and "waiting" in messages[0]


def test_an_unrequested_group_may_be_missing(tmp_path: Path) -> None:
    _fill(tmp_path / "cache", "two", "three")

    jars = ensure_jars(_stack_file(tmp_path), tmp_path / "cache", ["s3a"], _never, offline=True)

    assert [jar.name for jar in jars] == ["two-1.jar", "three-1.jar"]


@pytest.mark.parametrize("damage", ["missing", "shortened", "unverified", "of another stack"])
def test_offline_a_missing_or_unverified_jar_is_named(tmp_path: Path, damage: str) -> None:
    _fill(tmp_path / "cache", "two", "three")
    jar, marker = tmp_path / "cache" / "two-1.jar", tmp_path / "cache" / "two-1.jar.sha256"
    if damage == "missing":
        jar.unlink()
        marker.unlink()
    elif damage == "shortened":
        jar.write_bytes(CONTENT["two"][:-1])
    elif damage == "unverified":
        marker.unlink()
    else:
        marker.write_text("0" * 64)

    with pytest.raises(
        LocalStackError,
        match=r"two-1\.jar is not available: .*offline mode forbids to fetch it: run once with a network",
    ):
        ensure_jars(_stack_file(tmp_path), tmp_path / "cache", ["s3a"], _never, offline=True)


def test_an_unknown_group_is_named_beside_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(LocalStackError, match="no group paimon; it has s3a, delta"):
        ensure_jars(_stack_file(tmp_path), tmp_path, ["s3a", "paimon"], _never)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('coordinate = "org.example:two:1"', 'coordinate = "two"', "not organisation:artifact:version"),
        ("size_bytes = 14", "", "size_bytes"),
        ('name = "tiny"', 'name = "tiny', "tiny.toml"),
        (hashlib.sha256(CONTENT["two"]).hexdigest(), "abc", "not 64 hexadecimal digits"),
        (hashlib.sha256(CONTENT["two"]).hexdigest(), "z" * 64, "invalid literal"),
    ],
)
def test_a_broken_stack_file_is_named_with_its_fault(tmp_path: Path, old: str, new: str, fault: str) -> None:
    stack_file = _stack_file(tmp_path)
    assert old in stack_file.read_text()
    stack_file.write_text(stack_file.read_text().replace(old, new))

    with pytest.raises(LocalStackError, match=fault) as caught:
        load_stack(stack_file)

    assert str(stack_file) in str(caught.value)


def test_a_stack_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalStackError, match=r"none\.toml is not there"):
        load_stack(tmp_path / "none.toml")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("where a folder should be")

    with pytest.raises(LocalStackError, match=r"jar cache .*file/cache cannot be written"):
        ensure_jars(_stack_file(tmp_path), tmp_path / "file" / "cache", ["s3a"], _never)
