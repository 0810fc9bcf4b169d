"""Locks and files of the state folder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sparklet.errors import SettingsError
from sparklet.local.lock import Lock, is_locked
from sparklet.local.state import STATE_DIR_VARIABLE, StateDir, read_json, user_folder, write_json
from tests.waiting import deadline_s

HOLDER = """
import sys
from pathlib import Path
from sparklet.local.lock import Lock
lock = Lock(Path(sys.argv[1]))
assert getattr(lock, sys.argv[2])()
print("held", flush=True)
input()
"""


def hold(path: Path, how: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", HOLDER, str(path), how]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    return process


def end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()


def test_a_lock_is_shared_by_many_or_held_by_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with Lock(path) as one, Lock(path) as two, Lock(path) as three:
        assert one.shared() and two.shared()
        assert not three.exclusive()
        one.release()
        two.release()
        assert three.exclusive()
        assert not one.shared()


@pytest.mark.parametrize("how", ["shared", "exclusive"])
def test_the_kernel_takes_a_lock_back_from_a_killed_process(tmp_path: Path, how: str) -> None:
    holder = hold(tmp_path / "lock", how)
    with Lock(tmp_path / "lock") as lock:
        assert not lock.exclusive()

        end(holder)

        assert lock.exclusive(within_s=deadline_s())


def test_a_lock_does_not_pass_to_programs_that_its_holder_starts(tmp_path: Path) -> None:
    with Lock(tmp_path / "lock") as lock:
        assert lock.exclusive()
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        with Lock(tmp_path / "lock") as again:
            # exec closes descriptors a moment after it let the parent go on
            assert again.exclusive(within_s=deadline_s())
    finally:
        end(child)


def test_waiting_for_a_lock_ends_after_its_time(tmp_path: Path) -> None:
    with Lock(tmp_path / "lock") as one, Lock(tmp_path / "lock") as two:
        assert one.exclusive()
        assert two.exclusive(within_s=0.1) is False


def test_checking_a_missing_lock_creates_no_file(tmp_path: Path) -> None:
    assert is_locked(tmp_path / "lock") is False
    assert not (tmp_path / "lock").exists()


def test_a_document_is_written_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    assert read_json(path) is None

    write_json(path, {"a": 1})

    assert read_json(path) == {"a": 1}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["document.json"]
    assert json.loads(path.read_text()) == {"a": 1}


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    state = StateDir(tmp_path / "a folder")
    state.create()
    return state


def test_a_start_deletes_temporary_files_and_keeps_the_state(state: StateDir) -> None:
    passing = state.scratch / "task-1" / "file", state.tmp / "file", state.info_file, state.failure_file, state.aws_log
    for path in (*passing, state.objects / "object", state.services / "sqs"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    for number in range(100):
        (state.log / f"worker-{number}.log").write_text("x")

    state.delete_leftovers()

    assert not list(state.scratch.iterdir()) and not list(state.tmp.iterdir())
    assert not state.info_file.exists() and not state.failure_file.exists()
    assert (state.objects / "object").exists() and (state.services / "sqs").exists()
    assert len(list(state.log.glob("worker-*"))) == 60
    assert (state.log / "aws.earlier.log").exists() and not state.aws_log.exists()


@pytest.mark.parametrize("root", ["/", "/etc", "~"])
def test_a_folder_that_sparklet_did_not_make_is_refused(root: str) -> None:
    with pytest.raises(
        SettingsError, match="Sparklet did not make it"
    ):  # the test does no more, since a fault could delete files
        StateDir(Path(root).expanduser())


def test_an_empty_folder_used_for_the_state_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(mode=0o755)
    state = StateDir(tmp_path / "empty")
    state.create()

    assert state.root.stat().st_mode & 0o777 == 0o755
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in state.root.iterdir() if path.is_dir())
    StateDir(state.root)  # the folder has Sparklet's mark now


def test_a_client_that_only_reads_keeps_the_workers_files(state: StateDir) -> None:
    (state.scratch / "left").touch()

    state.delete_leftovers(processing=False)

    assert (state.scratch / "left").exists()


def test_only_its_owner_can_read_the_state_folder(state: StateDir) -> None:
    assert state.root.stat().st_mode & 0o777 == 0o700


def test_the_state_folder_is_the_named_one_or_the_users_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert user_folder("state", tmp_path / "named") == tmp_path / "named"
    monkeypatch.setenv(STATE_DIR_VARIABLE, str(tmp_path / "set"))
    assert user_folder("state") == tmp_path / "set"
    monkeypatch.delenv(STATE_DIR_VARIABLE)
    assert user_folder("state").name == "sparklet"
