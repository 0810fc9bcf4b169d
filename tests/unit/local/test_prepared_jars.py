"""Jars prepared for a class data archive: linked on plain paths; signed jars are copied without signatures."""

import gzip
import os
import shutil
import zipfile
from pathlib import Path

import pyspark
import pytest

from sparklet.local.class_data import ClassArchive
from sparklet.local.java import find_java
from sparklet.local.prepared_jars import is_plain, linked_jars, unsigned_copies

MAIN = "org.apache.ivy.Main"
DIGESTS = "\r\nName: a/B.class\r\nSHA-256-Digest: abc=\r\n\r\n"


@pytest.fixture
def jar(tmp_path: Path) -> Path:
    return a_jar(tmp_path / "a folder")


def a_jar(folder: Path) -> Path:
    folder.mkdir()
    return Path(shutil.copy(next(Path(pyspark.__file__).parent.glob("jars/ivy-*.jar")), folder / "ivy.jar"))


def archive_of(folder: Path, jars: list[Path]) -> ClassArchive:
    folder.mkdir()
    listed = folder / "classes.gz"
    listed.write_bytes(gzip.compress(f"java/lang/Object\n{MAIN.replace('.', '/')}".encode()))
    archive = ClassArchive.of(folder, listed, find_java(), list(map(str, jars)))
    archive.make()
    return archive


def test_an_archive_serves_jars_below_a_folder_with_a_space(jar: Path, tmp_path: Path) -> None:
    linked = linked_jars([jar], tmp_path / "links")

    assert archive_of(tmp_path / "with links", linked).refusal(MAIN) == ""
    # A fault of Java; links are needed only because of it.
    assert MAIN in archive_of(tmp_path / "without", [jar]).refusal(MAIN)


def test_links_are_on_plain_paths_even_if_the_cache_is_not(jar: Path, tmp_path: Path) -> None:
    [link] = linked_jars([jar], tmp_path / "a home" / "links", tmp_path)

    assert is_plain(link)
    assert link.samefile(jar)


def test_links_are_made_once_and_follow_their_jar(jar: Path, tmp_path: Path) -> None:
    [link] = linked_jars([jar], tmp_path / "links")
    before = link.lstat().st_ctime_ns
    assert linked_jars([jar], tmp_path / "links") == [link]
    assert link.lstat().st_ctime_ns == before

    jar.unlink()
    jar.write_bytes(b"another version")
    [other] = linked_jars([jar], tmp_path / "links")
    assert other.read_bytes() == b"another version"


def test_a_jar_on_another_file_system_is_copied(jar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    [copy] = linked_jars([jar], tmp_path / "links")

    assert (copy.read_bytes(), copy.stat().st_mtime_ns) == (jar.read_bytes(), jar.stat().st_mtime_ns)
    assert linked_jars([jar], tmp_path / "links") == [copy]


def test_links_of_a_deleted_folder_do_not_keep_its_jars(jar: Path, tmp_path: Path) -> None:
    [link] = linked_jars([jar], tmp_path / "links")
    other = a_jar(tmp_path / "another folder")
    shutil.rmtree(jar.parent)

    linked_jars([other], tmp_path / "links")

    assert not link.parent.exists()


@pytest.mark.parametrize("mode", [0o777, 0o720])
def test_no_link_is_made_in_a_folder_that_others_can_write(jar: Path, tmp_path: Path, mode: int) -> None:
    open_to_others = tmp_path / f"sparklet-{os.getuid()}"
    open_to_others.mkdir()
    open_to_others.chmod(mode)

    assert linked_jars([jar], tmp_path / "a home", tmp_path) == [jar]
    assert not list(open_to_others.iterdir())


# --- copies of signed jars: the same classes, no signature, the same bytes each time ---


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
    archive_of = [copy.stat() for copy in first]
    for jar in jars.iterdir():
        os.utime(jar, (5, 5))

    assert [copy.stat().st_ino for copy in unsigned_copies(jars, tmp_path / "one")] == [
        each.st_ino for each in archive_of
    ]
    elsewhere = unsigned_copies(jars, tmp_path / "two")
    assert [copy.read_bytes() for copy in elsewhere] == [copy.read_bytes() for copy in first]
    assert {each.st_mtime for each in archive_of} == {0}


def test_an_unwritable_folder_gets_no_copies(jars: Path, tmp_path: Path) -> None:
    (tmp_path / "copies").write_text("a file")

    assert unsigned_copies(jars, tmp_path / "copies") == []
