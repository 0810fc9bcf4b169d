"""Scripts and inputs that misbehave: each ends in the ledger with its true cause, and the next task works.

One warm worker does all of them, one after the other, each followed by a good shard: whatever a task leaves
behind meets the next.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sparklet.model import ShardRecord, ShardRef, ShardState
from sparklet.spark.task_limits import IN_LAMBDA
from tests.functional.worker.conftest import local_jars
from tests.functional.worker.ledgered import BUCKET, OTHERS, Function, deployed
from tests.functional.worker.misbehaving import CASES, DONE, GONE, GOOD, GOOD_ROWS, JOB, RETRIED, Case

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

SCRATCH_MB = 250


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of its own at ``folder``, where that may be mounted; whether it was."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SCRATCH_MB}m", "none", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    folder = tmp_path_factory.mktemp("function")
    scratch = folder / "scratch"
    with (
        pytest.MonkeyPatch.context() as patched,
        small_disk(scratch),
        deployed(folder, scratch, **{**local_jars(), IN_LAMBDA: "-"}) as it,
    ):
        patched.setattr(tempfile, "tempdir", str(scratch))  # as Lambda's /tmp
        it.clients.s3.create_bucket(Bucket="inputs")
        for key, body in {
            "empty.parquet": b"",
            "empty.csv": b"",
            "going.csv": b"a\n",
            "text.csv": b"a,b\nx,y\n",
        }.items():
            it.store.put(f"s3://inputs/{key}", body)
        it.others.put(f"s3://{OTHERS}/in/1.csv", b"a\n1\n")
        it.others.put(f"s3://{OTHERS}/scripts/job.py", b"print('not yours')")
        yield it


def then_the_next_works(function: Function) -> None:
    """Nothing runs, nothing lies about, and a good shard is done by the same worker."""
    function.await_own_alone()
    assert list(function.scratch.glob("task-*")) == []
    good = function.plan(GOOD)
    assert function.deliver(good) == []
    record = function.shard(good)
    assert (record.state, record.rows) == (DONE, GOOD_ROWS), record.error_message


def expect(function: Function, ref: ShardRef, state: ShardState, error_class: str, *says: str) -> ShardRecord:
    """What the ledger holds after one delivery, and that the message comes back only if it is to be tried again."""
    record = function.shard(ref)
    assert (record.state, record.error_class, record.attempts) == (state, error_class, 1), record.error_message
    for part in says:
        assert part in record.error_message
    return record


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_misbehaving_script_fails_alone_with_its_cause(function: Function, case: Case) -> None:
    ref = function.plan(case.script.encode(), max_attempts=2)

    back = function.deliver(ref)

    assert back == (["0"] if case.state is RETRIED else [])
    record = expect(function, ref, case.state, case.error_class, *case.says)
    assert (record.rows, record.outputs) == (None, ())
    then_the_next_works(function)


BREAKS_SPARK = (
    JOB
    + """
module = getattr(getattr(spark._jvm.org.apache.spark.rdd, "RDDOperationScope$"), "MODULE$")
(field,) = [each for each in module.getClass().getDeclaredFields() if each.getName().endswith("jsonMapper")]
field.setAccessible(True)
field.set(module, None)
"""
)


def test_a_script_in_a_jvm_that_another_broke_is_not_blamed(function: Function) -> None:
    function.said()
    assert function.deliver(function.plan(BREAKS_SPARK.encode())) == []  # nobody looks at what it has changed

    then_the_next_works(function)

    assert b"the script is run again" in function.said()


ROWS = b"from pyspark.sql import SparkSession\nspark = SparkSession.builder.getOrCreate()\nrows = spark.range(3)\n"
TO_OUTPUT = b"import os\nrows.write.parquet(os.environ['OUTPUT_PATH'])\n"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (b"rows.write.parquet('out')\n", "the script wrote out (line 4) into the task's own folder"),
        (b"rows.write.saveAsTable('people')\n", "the script wrote people (line 4) into the task's own folder"),
        (b"rows.write.saveAsTable('people')\nspark.table('people').show()\n", ""),
        (b"rows.write.parquet('between')\n" + TO_OUTPUT, ""),
        (b"rows.show()\n", ""),
    ],
)
def test_work_that_ends_with_its_task_is_an_error(function: Function, script: bytes, message: str) -> None:
    """Unless the script reads it again, or writes elsewhere, too: then it is a warning."""
    ref = function.plan(ROWS + script)
    function.said()

    function.deliver(ref)

    record = function.shard(ref)
    assert record.state is (ShardState.FAILED if message else ShardState.SUCCEEDED), record.error_message
    assert message in record.error_message
    assert (b"the script wrote" in function.said()) == (b"write" in script)


@pytest.mark.parametrize(
    "script",
    [
        JOB
        + "rows = spark.range(300).selectExpr(\"repeat('x', 1000000)\")\n"
        + "import os\nrows.write.text(f'file:{os.getcwd()}/out')",
        "with open('../stray', 'wb') as file:\n    while True:\n        file.write(bytes(1 << 20))",
    ],
    ids=["its own folder, by Spark", "beside its folder"],
)
def test_full_scratch_space_is_the_cause_and_is_freed(function: Function, script: str) -> None:
    if not os.path.ismount(function.scratch):
        pytest.skip("only root can mount a small disk")
    free_bytes = free(function.scratch)
    ref = function.plan(script.encode(), max_attempts=2)

    function.deliver(ref)

    expect(function, ref, RETRIED, "ScratchFullError", "no space left at line ", "more ephemeral storage")
    then_the_next_works(function)
    assert free(function.scratch) > free_bytes - 20_000_000


def free(folder: Path) -> int:
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


# --- the script itself ---


def test_an_unreadable_or_foreign_script_ends_the_shard(function: Function) -> None:
    for uri, error_class, says in (
        (f"s3://{BUCKET}/runs/r/script/gone.py", "ScriptFetchError", "gone.py is not there"),
        (f"s3://{OTHERS}/scripts/job.py", "ScriptFetchError", "may not be accessed with these credentials"),
        (f"s3://{OTHERS}/elsewhere/job.py", "ScriptNotAllowedError", "is outside the prefixes"),
    ):
        ref = function.plan(b"print('never fetched')", script_uri=uri, max_attempts=2)

        assert function.deliver(ref) == []
        expect(function, ref, GONE, error_class, says)
    then_the_next_works(function)


# --- plan, message, ledger ---
