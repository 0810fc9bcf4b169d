"""Java takes classes from an archive wherever a user's jars lie."""

import gzip
import os
import shutil
from pathlib import Path

import pyspark
import pytest

from sparklet.local.class_data import ClassArchive
from sparklet.local.java import find_java
from sparklet.local.prepared_jars import is_plain, linked_jars

MAIN = "org.apache.ivy.Main"


@pytest.fixture
def jar(tmp_path: Path) -> Path:
    return a_jar(tmp_path / "a folder")


def a_jar(folder: Path) -> Path:
    folder.mkdir()
    return Path(shutil.copy(next(Path(pyspark.__file__).parent.glob("jars/ivy-*.jar")), folder / "ivy.jar"))


def made(folder: Path, jars: list[Path]) -> ClassArchive:
    folder.mkdir()
    listed = folder / "classes.gz"
    listed.write_bytes(gzip.compress(f"java/lang/Object\n{MAIN.replace('.', '/')}".encode()))
    archive = ClassArchive.of(folder, listed, find_java(), list(map(str, jars)))
    archive.make()
    return archive


def test_an_archive_serves_jars_below_a_folder_with_a_space(jar: Path, tmp_path: Path) -> None:
    linked = linked_jars([jar], tmp_path / "links")

    assert made(tmp_path / "with links", linked).refusal(MAIN) == ""
    assert MAIN in made(tmp_path / "without", [jar]).refusal(MAIN)  # Java's own fault; if it is gone, so may links be


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
def test_no_link_is_made_where_others_may_write(jar: Path, tmp_path: Path, mode: int) -> None:
    open_to_others = tmp_path / f"sparklet-{os.getuid()}"
    open_to_others.mkdir()
    open_to_others.chmod(mode)

    assert linked_jars([jar], tmp_path / "a home", tmp_path) == [jar]
    assert not list(open_to_others.iterdir())
