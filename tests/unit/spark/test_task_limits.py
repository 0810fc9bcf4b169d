import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path
from unittest.mock import Mock

import pytest

from sparklet.errors import ScratchFullError
from sparklet.spark.owned import delete_own, delete_tree
from sparklet.spark.processes import cpu_times_s, has_name
from sparklet.spark.runner import IN_LAMBDA, CollectorWatch, Deadline, delete_leftovers, task_folder
from tests.waiting import deadline_s, eventually, has_ended

NOBODY = 65534


def test_the_deadline_leaves_the_grace_before_the_functions_own() -> None:
    deadline = Deadline.within(60, grace_s=10, now_s=1000.0)

    assert (deadline.guard_s, deadline.end_s) == (1050.0, 1060.0)
    assert deadline.remaining_s(now_s=1020.0) == 30.0
    assert deadline.remaining_s(now_s=1000.0 + 3600) == 0.0  # a time of day, so a freeze uses it up
    assert deadline.share(20, now_s=1000.0) == Deadline(1020.0, 1060.0)
    assert deadline.share(90, now_s=1000.0) == deadline


def test_a_deadline_counts_from_now() -> None:
    before_s = time.time()

    assert before_s + 50 <= Deadline.within(60, grace_s=10).guard_s <= time.time() + 50


@pytest.mark.parametrize("at_once", [False, True])
def test_a_deadline_that_expires_is_over_with_its_reason(at_once: bool) -> None:
    deadline = Deadline.within(60, grace_s=10)
    deadline.expire("the lease was lost", at_once=at_once)
    now_s = time.time()

    assert deadline.remaining_s() == 0
    assert deadline.reason == "the lease was lost"
    assert (deadline.end_s > now_s) is not at_once
    assert (deadline.grace_end_s(now_s) < now_s) is at_once  # no grace if the script must end at once


def test_an_interrupted_script_has_a_part_of_the_grace() -> None:
    assert Deadline(1000.0, 1010.0).grace_end_s(1000.0) == 1003.0
    assert Deadline(1000.0, 1002.0).grace_end_s(1000.0) == 1001.0
    assert Deadline(1000.0, 1002.0).grace_end_s(1010.0) < 1010.0  # woken after a freeze


HEALTHY, FULL, IDLE = (5.0, 0.5), (5.0, 4.9), (0.0, 0.0)  # CPU seconds within 5 s: of the JVM, of its garbage collector


def first_stuck_s(*worked: tuple[float, float], frozen_s: int = 0) -> int | None:
    """When a JVM is first found stuck, given its CPU times every 5 s, and perhaps a freeze at the end."""
    jvm_s, collectors_s = (accumulate(each, initial=1000.0) for each in zip(*worked, strict=True))
    times_s, look = range(0, 5 * len(worked), 5), Mock(side_effect=zip(jvm_s, collectors_s, strict=True))
    watch = CollectorWatch(0.0)
    return next((now_s for now_s in [*times_s, 5 * len(worked) + frozen_s] if watch.is_stuck(now_s, look)), None)


@pytest.mark.parametrize(
    ("worked", "since_s"),
    [
        pytest.param([FULL] * 20, 30, id="it only collects garbage"),
        pytest.param([HEALTHY] * 20 + [FULL] * 20, 130, id="it does after a while"),
        pytest.param([(2.9, 2.9)] * 20, 30, id="with the part of a core that 1,024 MB buy"),
        pytest.param([HEALTHY] * 100, None, id="little"),
        pytest.param([(9.0, 4.5)] * 100, None, id="half of two cores"),
        pytest.param([(5.0, 4.5)] * 100, None, id="a tenth is left to the script"),
        pytest.param([*[FULL] * 5, HEALTHY] * 20, None, id="with pauses"),
        pytest.param([(1.0, 1.0)] * 100, None, id="a JVM that waits for Python or S3"),
        pytest.param([*[IDLE] * 40, *[FULL] * 2] * 5, None, id="a peak after a wait"),
        pytest.param([IDLE] * 100, None, id="a script without Spark"),
    ],
)
def test_a_jvm_is_stuck_once_it_only_collects_garbage(worked: list[tuple[float, float]], since_s: int | None) -> None:
    assert first_stuck_s(*worked) == since_s


def test_a_freeze_is_not_time_that_a_jvm_is_stuck() -> None:
    assert first_stuck_s(*[FULL] * 6, frozen_s=3600) is None


def test_the_cpu_time_of_some_threads_is_measured_separately() -> None:
    own, name = os.getpid(), Path("/proc/self/comm").read_text().strip()

    whole_s, threads_s = cpu_times_s(own, (name[:3],))
    assert whole_s >= threads_s > 0
    assert cpu_times_s(own, ("VM Thread",))[1] == 0.0
    assert cpu_times_s(1 << 30, (name,)) == (0.0, 0.0)  # no process has this id


def test_a_jvm_is_looked_at_only_every_five_seconds() -> None:
    watch, look = CollectorWatch(5.0), Mock(return_value=IDLE)

    assert not any(watch.is_stuck(now_s, look) for now_s in range(60))
    assert look.call_count == 11


def test_a_task_gets_an_empty_folder_that_is_deleted_with_it(tmp_path: Path) -> None:
    (tmp_path / "task-a1").mkdir()
    (tmp_path / "task-a1" / "old").write_text("of an earlier attempt")

    with task_folder(tmp_path, "a1") as folder:
        assert folder == tmp_path / "task-a1"
        assert list(folder.iterdir()) == []
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "deep" / "er").mkdir(parents=True)
        (folder / "deep" / "er" / "file").write_text("x")

    assert list(tmp_path.iterdir()) == []


def test_a_failed_tasks_folder_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    beside = tmp_path / "libsnappy.so"
    beside.write_text("unpacked by the JVM")

    def fail() -> None:
        with task_folder(tmp_path, "a1") as folder:
            (folder / "to-beside").symlink_to(tmp_path)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert list(tmp_path.iterdir()) == [beside]


@pytest.mark.parametrize("name", ["", ".", "a/b", "/etc"])
def test_an_attempt_id_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is not a folder's name"), task_folder(tmp_path, name):
        pass


def test_an_ordinary_user_can_delete_read_only_folders() -> None:
    with tempfile.TemporaryDirectory() as place:  # other users cannot enter pytest's folders
        folder = Path(place) / "task"
        (folder / "closed" / "within").mkdir(parents=True)
        (folder / "closed" / "within" / "file").write_text("x")
        (folder / "unreadable").mkdir()
        if os.getuid() == 0:
            for path in (Path(place), folder, *folder.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
        for closed, mode in (("closed/within", 0o500), ("closed", 0o500), ("unreadable", 0o000)):
            (folder / closed).chmod(mode)

        pid = os.fork()
        if pid == 0:
            if os.getuid() == 0:
                os.seteuid(NOBODY)
            delete_tree(folder)
            os._exit(1 if folder.exists() else 0)

        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def dig(folder: Path, levels: int, name: str) -> None:
    """Nest folders deeper than a path can be long; the innermost has a file and a link to the outside."""
    at = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=at)
        inner = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.symlink(folder.parent, "link", dir_fd=at)
    os.close(os.open("f" * 255, os.O_CREAT, dir_fd=at))
    os.close(at)


@pytest.mark.parametrize("name", ["d" * 200, "d"])
def test_a_tree_of_any_depth_is_deleted_and_no_link_followed(tmp_path: Path, name: str) -> None:
    beside, task = tmp_path / "beside", tmp_path / "task"
    for folder in (beside, task, task / "other"):
        folder.mkdir()
    dig(task, 1_500, name)
    (task / os.fsdecode(b"\xff")).mkdir()

    delete_tree(task)

    assert list(tmp_path.iterdir()) == [beside]


def test_a_link_in_the_folders_place_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "kept" / "inner").mkdir(parents=True)
    (tmp_path / "task").symlink_to(tmp_path / "kept")

    delete_tree(tmp_path / "task")

    assert (tmp_path / "task" / "inner").is_dir()


def test_undeletable_files_are_reported_and_the_rest_deleted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = tmp_path / "task"
    for name in ("a", "b/c", "d"):
        (task / name).mkdir(parents=True)
        (task / name / f"{name[-1]}.txt").touch()
    unlink = os.unlink

    def held(path: str, *, dir_fd: int | None = None) -> None:
        if path == "c.txt":
            raise OSError(errno.EBUSY, "Device or resource busy", path)
        unlink(path, dir_fd=dir_fd)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "unlink", held)
        delete_tree(task)

    assert [path.name for path in task.rglob("*") if path.is_file()] == ["c.txt"]
    assert f"{task} could not be deleted completely" in caplog.text
    assert "c.txt" in caplog.text


@pytest.mark.parametrize("name", ["", ".", "/", "home", "tmp/task", "shard=mine", "sparklet"])
def test_a_folder_of_others_is_never_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ValueError, match="is not a folder of Sparklet's own"):
        delete_own(Path(name))


@pytest.fixture
def littered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scratch folder in Lambda, with leftovers of scripts and with Sparklet's own folders."""
    monkeypatch.setenv(IN_LAMBDA, "127.0.0.1:9001")
    (tmp_path / "outside").write_text("x")
    scratch = tmp_path / "scratch"
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    for folder in ("sparklet-host", "sparklet-scripts", "task-other", ".ivy2", "cache/deep"):
        (scratch / folder).mkdir(parents=True)
    (scratch / "cache" / "deep" / "big").write_text("x")
    (scratch / "model.bin").write_text("x")
    (scratch / "link").symlink_to(tmp_path / "outside")
    return scratch


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


OURS = {"sparklet-host", "sparklet-scripts", "task-other", ".ivy2"}


def test_a_full_disk_deletes_leftovers_or_refuses_the_task(littered: Path) -> None:
    free = shutil.disk_usage(littered).free
    with task_folder(littered, "a1", free // 2):
        pass
    assert names(littered) == OURS | {"cache", "model.bin", "link"}

    numbers_and_remedy = r"\d+ MiB free of \d+ MiB.*ephemeral storage"
    with pytest.raises(ScratchFullError, match=numbers_and_remedy), task_folder(littered, "a1", 2 * free):
        pass
    assert names(littered) == OURS
    assert (littered.parent / "outside").read_text() == "x"


def test_leftovers_are_deleted_after_a_task_ran_out_of_space(littered: Path) -> None:
    with pytest.raises(ScratchFullError), task_folder(littered, "a1", 1):
        raise ScratchFullError("no space left")

    assert names(littered) == OURS


def test_files_from_before_the_worker_or_outside_lambda_stay(littered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(littered)
    delete_leftovers(littered, since_s=time.time() + 60)
    with monkeypatch.context() as patch:
        # Scratch is no longer the temporary folder, so others may share it.
        patch.setattr(tempfile, "tempdir", str(littered.parent))
        delete_leftovers(littered)
    monkeypatch.delenv(IN_LAMBDA)
    delete_leftovers(littered)

    assert names(littered) == before


WITH_PATH = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
ORPHANS = """
import os, sys, time
from sparklet.spark.processes import become_subreaper, descendants, end_descendants

become_subreaper()
ready, tell = os.pipe()
if os.fork() == 0:                      # a child that ends at once and leaves
    if os.fork() == 0:                  # an orphan in a session of its own, deaf to SIGTERM, which leaves another
        os.setsid()
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            os.setsid()
        os.write(tell, b".")
        time.sleep(3600)
    os._exit(0)
os.waitpid(-1, 0)
assert len(os.read(ready, 1) + os.read(ready, 1)) == 2
spared = os.fork()
if spared == 0:
    time.sleep(3600)

def reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass

left = end_descendants({spared}, reap, limit_s=float(sys.argv[1]))
print(len(left), descendants(os.getpid()) == {spared})
os.kill(spared, 9)
"""


def test_every_descendant_is_ended_but_the_spared_ones() -> None:
    command = [sys.executable, "-c", ORPHANS, str(deadline_s())]

    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * deadline_s(), env=WITH_PATH)

    assert (done.stdout.split(), done.stderr) == (["0", "True"], "")


PARENT = """
import os, sys, time
from sparklet.spark.processes import die_with_parent

own = os.getpid()
pid = os.fork()
if pid == 0:
    die_with_parent(own)
    print(os.getpid(), flush=True)
    time.sleep(3600)
time.sleep(3600)
"""


def test_a_child_dies_with_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=WITH_PATH)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())

    parent.kill()
    parent.wait()

    eventually(lambda: has_ended(child))
    parent.stdout.close()


@pytest.mark.parametrize(("uid", "named"), [(0, True), (3_999_999_999, False)])
def test_only_a_user_of_passwd_has_a_name(monkeypatch: pytest.MonkeyPatch, uid: int, named: bool) -> None:
    """How Hadoop treats a user without a name is tested in the image (tests/container)."""
    monkeypatch.setattr(os, "getuid", lambda: uid)

    assert has_name() is named
