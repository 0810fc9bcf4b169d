"""Local input: files in S3's order, none twice, and an error that names a file that cannot be read."""

import os
import sys
from pathlib import Path

import pytest

from sparklet.errors import PlanError
from sparklet.planning.inputs.folders import local_files
from sparklet.planning.inputs.selection import Filter, Reason


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return folder


def keys(path: Path, **filters: list[str]) -> list[str]:
    return [key for _, key in local_files(path, Filter(**filters))]  # type: ignore[arg-type]


def test_files_are_in_the_order_of_their_whole_keys_as_in_s3(tmp_path: Path) -> None:
    assert keys(tmp_path) == []
    names = ["a/2", "a.csv", "a/10", "a-b/1", "b", "ü/1", "a b/1", "Z"]
    make(tmp_path, *names)
    assert keys(tmp_path) == sorted(names)


def test_a_file_is_its_own_input_and_paths_may_have_spaces(tmp_path: Path) -> None:
    make(tmp_path, "my folder/a file.csv")
    path = tmp_path / "my folder" / "a file.csv"
    assert list(local_files(path)) == [(path, "a file.csv")]
    assert list(local_files(tmp_path / "my folder")) == [(path, "a file.csv")]


def test_patterns_apply_and_are_counted(tmp_path: Path) -> None:
    make(tmp_path, "a.csv", "x/b.csv", "c.json", "_tmp.csv")
    wanted = Filter(["*.csv"], ["_*"])
    assert [key for _, key in local_files(tmp_path, wanted)] == ["a.csv", "x/b.csv"]
    assert wanted.skipped == {Reason.NOT_INCLUDED: 1, Reason.EXCLUDED: 1}


def test_links_are_followed(tmp_path: Path) -> None:
    make(tmp_path / "real", "1")
    folder = make(tmp_path / "in", "2")
    (folder / "linked").symlink_to(tmp_path / "real")
    assert keys(folder) == ["2", "linked/1"]


def test_a_missing_path_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"nowhere is not there; check its spelling"):
        list(local_files(tmp_path / "nowhere"))


def test_a_link_in_a_circle_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path, "x/1")
    (folder / "x" / "up").symlink_to(folder)
    with pytest.raises(PlanError, match="leads back"):
        list(local_files(folder))


def test_a_broken_or_circular_link_is_refused_unless_excluded(tmp_path: Path) -> None:
    folder = make(tmp_path, "1")
    (folder / "broken").symlink_to("gone")
    (folder / "itself").symlink_to("itself")
    with pytest.raises(PlanError, match="broken cannot be read: a link whose target does not exist"):
        list(local_files(folder))
    assert keys(folder, exclude=["broken", "itself"]) == ["1"]
    with pytest.raises(PlanError, match="itself cannot be read"):
        list(local_files(folder, Filter(exclude=["broken"])))


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PlanError, match=r"pipe is neither a file nor a folder; leave it out with --exclude 'pipe'"):
        list(local_files(tmp_path))


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "open", "secret")
    access = os.access  # root may read everything, so the question is answered here
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "secret" and access(path, mode))
    with pytest.raises(PlanError, match=r"there is no permission to read the file .*secret"):
        list(local_files(tmp_path))
    assert keys(tmp_path, exclude=["secret"]) == ["open"]


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.csv")).write_text("x")
    with pytest.raises(PlanError, match="not UTF-8"):
        list(local_files(tmp_path))


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1"])
def test_a_name_in_another_encoding_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    (tmp_path / "plain.csv").write_text("x")
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: encoding)
    assert keys(tmp_path) == ["plain.csv"]

    (tmp_path / "ä.csv").write_text("x")
    with pytest.raises(PlanError, match=rf"as {encoding} here; set PYTHONUTF8=1"):
        keys(tmp_path)
