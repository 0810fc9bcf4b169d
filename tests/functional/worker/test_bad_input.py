"""Scripts and inputs that misbehave: each ends in the ledger with its true cause, and the next task works.

One warm worker does all of them, one after the other, each followed by a good shard: whatever a task leaves
behind meets the next.
"""

import tempfile
from collections.abc import Iterator

import pytest

from sparklet.model import NOTHING, ShardState
from sparklet.spark.runner import IN_LAMBDA
from tests.functional.worker.conftest import local_jars
from tests.functional.worker.ledgered import OTHERS, Function, deployed
from tests.functional.worker.misbehaving import CASES, DONE, GOOD, GOOD_ROWS, JOB, RETRIED, Case

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    folder = tmp_path_factory.mktemp("function")
    scratch = folder / "scratch"
    scratch.mkdir()
    with (
        pytest.MonkeyPatch.context() as patched,
        deployed(folder, scratch, **{**local_jars(), IN_LAMBDA: "-"}) as it,
    ):
        patched.setattr(tempfile, "tempdir", str(scratch))  # as Lambda's /tmp
        it.clients.s3.create_bucket(Bucket="inputs")
        it.store.put("s3://inputs/going.csv", b"a\n")
        it.others.put(f"s3://{OTHERS}/in/1.csv", b"a\n1\n")
        yield it


def then_the_next_works(function: Function) -> None:
    """Nothing runs, nothing lies about, and a good shard is done by the same worker."""
    function.await_own_alone()
    assert list(function.scratch.glob("task-*")) == []
    good = function.plan(GOOD)
    assert function.deliver(good) == []
    record = function.shard(good)
    assert (record.state, record.rows) == (DONE, GOOD_ROWS), record.error_message


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_misbehaving_script_fails_alone_with_its_cause(function: Function, case: Case) -> None:
    ref = function.plan(case.script.encode(), max_attempts=2)

    back = function.deliver(ref)

    record = function.shard(ref)
    assert back == (["0"] if case.state is RETRIED else [])  # the message comes back only if it is to be tried again
    assert (record.state, record.error_class, record.attempts) == (case.state, case.error_class, 1), (
        record.error_message
    )
    assert [part for part in case.says if part not in record.error_message] == []
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
NO_ROWS = b"import os\ndays = rows.filter('id > 7').selectExpr('id', 'id AS day')\n"
TO_OUTPUT = b"import os\nrows.write.parquet(os.environ['OUTPUT_PATH'])\n"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (b"rows.write.parquet('out')\n", "the script wrote out (line 4) into the task's own folder"),
        (b"rows.write.saveAsTable('people')\n", "the script wrote people (line 4) into the task's own folder"),
        (b"rows.write.saveAsTable('people')\nspark.table('people').show()\n", ""),
        (b"rows.write.parquet('out')\nprint('out')\n", "the script wrote out (line 4) into the task's own folder"),
        (b"rows.write.parquet('out')\nspark.read.parquet('out').show()\n", ""),
        (b"import os\nrows.write.parquet(os.path.abspath(os.environ['OUTPUT_PATH']))\n", "the script wrote s3:/"),
        (b"rows.write.csv('out')\nimport glob\nprint(*map(open, glob.glob('out/*')))\n", ""),
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
    ("script", "is_nothing"),
    [
        (b"rows.show()\n", True),
        (b"import subprocess  # to be used\nrows.show()\n", False),
        (b"names = ['sub' + 'process']\n__import__(*names).run(['true'])\nrows.show()\n", False),
        (b"rows.write.mode('overwrite')\n", True),
        (b"rows.write.format('noop').mode('append').save()\n", True),
        (b"open('report.txt', 'w').write('3')\n", True),
        (TO_OUTPUT, False),
        (NO_ROWS + b"days.write.json(os.environ['OUTPUT_PATH'])\n", False),
        (NO_ROWS + b"days.write.partitionBy('day').parquet(os.environ['OUTPUT_PATH'])\n", False),
        (b"rows.write.mode('append').parquet('s3://inputs/elsewhere')\n", False),
        (b"from sparklet.job import Job\nJob.from_args().report(rows=0)\n", False),
        (b"import boto3\n", False),
    ],
)
def test_a_shard_that_wrote_nothing_says_so(function: Function, script: bytes, is_nothing: bool) -> None:
    """A write of no rows is one; of a script that may have written unseen nothing is said."""
    function.said()
    refs = [function.plan(ROWS + script, strict=strict) for strict in (False, True)]

    for ref in refs:
        function.deliver(ref)

    lax, strict = map(function.shard, refs)
    assert lax.state is ShardState.SUCCEEDED and (lax.warning == NOTHING) is is_nothing, lax.error_message
    assert strict.state is (ShardState.FAILED if is_nothing else ShardState.SUCCEEDED), strict.error_message
    assert ("nothing was written" in strict.error_message) is is_nothing is (b"nothing was written" in function.said())
