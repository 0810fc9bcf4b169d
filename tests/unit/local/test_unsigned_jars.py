"""Copies of signed jars: the same classes, no signature, the same bytes each time."""

import os
import zipfile
from pathlib import Path

import pytest

from sparklet.local.prepared_jars import unsigned_copies

DIGESTS = "\r\nName: a/B.class\r\nSHA-256-Digest: abc=\r\n\r\n"


@pytest.fixture
def jars(tmp_path: Path) -> Path:
    folder = tmp_path / "jars"
    folder.mkdir()
    for name in ("janino-3.1.9.jar", "commons-compiler-3.1.9.jar", "other-1.jar"):
        with zipfile.ZipFile(folder / name, "w") as jar:
            jar.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\r\nLong: one\r\n line\r\n" + DIGESTS)
            jar.writestr("META-INF/KEY.SF", "signed")
            jar.writestr("META-INF/KEY.RSA", b"signature")
            jar.writestr("META-INF/services/a.B", "a.C")
            jar.writestr("a/B.class", name)
    return folder


def test_a_copy_has_everything_but_the_signature(jars: Path, tmp_path: Path) -> None:
    copies = unsigned_copies(jars, tmp_path / "copies")

    assert [copy.name for copy in copies] == ["commons-compiler-3.1.9.jar", "janino-3.1.9.jar"]
    with zipfile.ZipFile(copies[1]) as jar:
        assert jar.namelist() == ["META-INF/MANIFEST.MF", "META-INF/services/a.B", "a/B.class"]
        assert jar.read("META-INF/MANIFEST.MF") == b"Manifest-Version: 1.0\r\nLong: one\r\n line\r\n\r\n"
        assert jar.read("a/B.class") == b"janino-3.1.9.jar"


def test_copies_are_made_once_and_equal_everywhere(jars: Path, tmp_path: Path) -> None:
    first = unsigned_copies(jars, tmp_path / "one")
    made = [copy.stat() for copy in first]
    for jar in jars.iterdir():
        os.utime(jar, (5, 5))

    assert [copy.stat().st_ino for copy in unsigned_copies(jars, tmp_path / "one")] == [each.st_ino for each in made]
    assert [copy.read_bytes() for copy in unsigned_copies(jars, tmp_path / "two")] == [
        copy.read_bytes() for copy in first
    ]
    assert {each.st_mtime for each in made} == {0}


def test_an_unwritable_folder_gets_no_copies(jars: Path, tmp_path: Path) -> None:
    (tmp_path / "copies").write_text("a file")

    assert unsigned_copies(jars, tmp_path / "copies") == []
