"""A class data archive is complete or absent, made once, used by Java; Java's refusal of an archive is reported."""

import gzip
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pyspark
import pytest

from sparklet.local.class_data import ClassArchive, read_names
from sparklet.local.environment import host_env
from sparklet.local.java import find_java
from tests.waiting import deadline_s, eventually

SLOW_JAVA = """#!/bin/sh
echo $$ >> "$0.pids"
for word; do case $word in -XX:SharedArchiveFile=*) file=${word#*=};; esac; done
printf half > "$file"
while [ -e "$0.wait" ]; do sleep 0.02; done
[ -e "$0.refuse" ] && { echo "no such luck" >&2; eval "$(cat "$0.refuse")"; }
printf ' and whole' >> "$file"
"""


@pytest.fixture
def java(tmp_path: Path) -> Path:
    """A fake Java that waits while ``java.wait`` exists, and then fails if ``java.refuse`` exists."""
    java = tmp_path / "home" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(SLOW_JAVA)
    java.chmod(0o755)
    return java


@pytest.fixture
def archive(java: Path, tmp_path: Path) -> ClassArchive:
    return archive_of(tmp_path, java, ["java/lang/Object"])


def test_the_workers_own_java_is_archived_without_being_listed(tmp_path: Path) -> None:
    """So a new class is archived without a new training run."""
    jar, listed = tmp_path / "sparklet-java-1.jar", tmp_path / "classes.gz"
    with zipfile.ZipFile(jar, "w") as content:
        for name in ("mark", "B.class", "A.class", "A$Inner.class"):
            content.writestr(name, "")
    listed.write_bytes(gzip.compress(b"@line\nA\nx/Y"))

    names = read_names(listed, tmp_path, [tmp_path / "others.jar", jar])

    assert names.read_text() == "@line\nA\nx/Y\nA$Inner\nB\n"


@pytest.mark.parametrize(("version", "listed"), [("17.0.15", "@lambda-proxy A run\nA\n"), ("21.0.8", "A\n")])
def test_only_java_17_gets_the_lines_of_lambda_expressions(
    tmp_path: Path, java: Path, version: str, listed: str
) -> None:
    """The list was made by Java 17; Java 21 crashes as it reads them."""
    # The fake Java copies the list of classes that it is given, then fails.
    (java.parents[1] / "release").write_text(f'JAVA_VERSION="{version}"\n')
    java.write_text(
        '#!/bin/sh\nfor word; do case $word in *ListFile=*) cp "${word#*=}" "$0.read";; esac; done; exit 1\n'
    )

    archive_of(tmp_path, java, ["@lambda-proxy A run", "A"]).make()

    assert java.with_name("java.read").read_text() == listed


def archive_of(folder: Path, java: Path, names: list[str]) -> ClassArchive:
    jar, listed = folder / "a.jar", folder / "classes.gz"
    with zipfile.ZipFile(jar, "w") as content:
        content.writestr("empty", "")
    listed.write_bytes(gzip.compress("\n".join(names).encode()))
    return ClassArchive.of(folder / "cache", listed, java, [str(jar)])


def dump_pids(java: Path) -> list[int]:
    try:
        return [int(line) for line in java.with_name("java.pids").read_text().split()]
    except FileNotFoundError:
        return []


def maker(archive: ClassArchive) -> "subprocess.Popen[bytes]":
    arguments = [archive.path, archive.classes, archive.java, os.pathsep.join(archive.jars)]
    return subprocess.Popen([sys.executable, "-m", "sparklet.local.class_data", *map(str, arguments)], env=host_env())


def test_an_archive_is_complete_or_absent_and_never_waited_for(archive: ClassArchive, java: Path) -> None:
    java.with_name("java.wait").touch()

    assert archive.begin(host_env())
    eventually(lambda: dump_pids(java))
    assert not archive.path.exists()
    assert not archive.begin(host_env())  # another process makes it

    java.with_name("java.wait").unlink()
    eventually(archive.path.exists)
    assert archive.path.read_text() == "half and whole"
    assert not archive.begin(host_env())
    assert len(dump_pids(java)) == 1


def test_only_one_of_several_makers_makes_the_archive(archive: ClassArchive, java: Path) -> None:
    archive.path.parent.mkdir()
    java.with_name("java.wait").touch()
    makers = [maker(archive) for _ in range(3)]

    eventually(lambda: sum(each.poll() is not None for each in makers) == 2)
    java.with_name("java.wait").unlink()

    assert [each.wait(deadline_s()) for each in makers] == [0, 0, 0]
    assert archive.path.read_text() == "half and whole"
    assert len(dump_pids(java)) == 1


def test_an_archive_of_a_killed_maker_is_made_again(archive: ClassArchive, java: Path) -> None:
    archive.path.parent.mkdir()
    java.with_name("java.wait").touch()
    first = maker(archive)
    eventually(lambda: dump_pids(java))

    first.kill()
    first.wait()
    assert not archive.begin(host_env())  # the killed maker's Java still runs
    os.kill(dump_pids(java)[0], signal.SIGKILL)
    java.with_name("java.wait").unlink()
    eventually(lambda: archive.begin(host_env()))
    eventually(archive.path.exists)

    assert archive.path.read_text() == "half and whole"
    eventually(lambda: sorted(path.name for path in archive.path.parent.iterdir()) == [".lock", archive.path.name])


@pytest.mark.parametrize("end", ["exit 1", "kill -ABRT $$"])
def test_a_failure_of_java_is_reported_and_not_repeated(archive: ClassArchive, java: Path, end: str) -> None:
    java.with_name("java.refuse").write_text(end)

    assert archive.begin(host_env())
    eventually(archive.failure)

    assert archive.failure() == "no such luck\n"
    assert not archive.path.exists()
    assert not archive.begin(host_env())


def test_without_a_writable_cache_no_archive_is_made(archive: ClassArchive, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")

    assert not archive.begin(host_env())


def test_only_the_archives_used_last_are_kept(archive: ClassArchive) -> None:
    archive.path.parent.mkdir()
    for number in range(6):
        old = archive.path.with_name(f"{number}.jsa")
        old.touch()
        os.utime(old, (number, number))

    archive.make()

    assert sorted(path.stem for path in archive.path.parent.glob("*.jsa")) == sorted(["3", "4", "5", archive.path.stem])


def test_jars_dates_order_and_class_list_select_the_archive(java: Path, tmp_path: Path) -> None:
    first = archive_of(tmp_path, java, [])
    jar = Path(first.jars[0])
    os.utime(jar, (1, 1))
    dated = ClassArchive.of(tmp_path / "cache", first.classes, java, first.jars)
    other = tmp_path / "b.jar"
    other.touch()
    orders = [[str(jar), str(other)], [str(other), str(jar)]]
    ordered = [ClassArchive.of(tmp_path / "cache", first.classes, java, order) for order in orders]
    first.classes.write_bytes(gzip.compress(b"java/lang/String"))
    listed = ClassArchive.of(tmp_path / "cache", first.classes, java, first.jars)

    assert len({each.path for each in (first, dated, *ordered, listed)}) == 5


def test_java_uses_the_archive_until_a_jar_changes(tmp_path: Path) -> None:
    java, main = find_java(), "org.apache.ivy.Main"
    archive = archive_of(tmp_path, java, ["java/lang/Object", main.replace(".", "/")])
    shutil.copy(next(Path(pyspark.__file__).parent.glob("jars/ivy-*.jar")), archive.jars[0])
    archive = ClassArchive.of(tmp_path / "cache", archive.classes, java, archive.jars)
    archive.path.parent.mkdir()
    archive.make()
    assert not archive.failure()

    options = (f"-XX:SharedArchiveFile={archive.path}", "-Xlog:class+load", "-cp", archive.jars[0])
    command = [str(java), *options, main, "-version"]
    loaded = subprocess.run(command, capture_output=True, text=True, timeout=deadline_s(), check=False)
    assert f"{main} source: shared objects file" in loaded.stdout
    assert archive.refusal(main) == ""

    os.utime(archive.jars[0], (1, 1))
    assert archive.refusal(main)
    assert ClassArchive.of(tmp_path / "cache", archive.classes, java, archive.jars).path != archive.path
