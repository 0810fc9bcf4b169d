"""Scripts and inputs that misbehave: the ledger gets the true cause of each failure, and the next task works.

One warm worker runs all of them, each followed by a good shard, so that the good shard meets all that a bad script
leaves in the worker.
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
        deployed(folder, scratch, **{**local_jars(), IN_LAMBDA: "-"}) as function,
    ):
        patched.setattr(tempfile, "tempdir", str(scratch))  # as Lambda's /tmp
        function.clients.s3.create_bucket(Bucket="inputs")
        function.store.put("s3://inputs/going.csv", b"a\n")
        function.others.put(f"s3://{OTHERS}/in/1.csv", b"a\n1\n")
        yield function


def check_that_the_next_task_works(function: Function) -> None:
    """Check that no process and no folder of a task is left, and that the same worker completes a good shard."""
    function.wait_for_scripts_to_end()
    assert list(function.scratch.glob("task-*")) == []
    good = function.plan(GOOD)
    assert function.deliver(good) == []
    record = function.shard(good)
    assert (record.state, record.rows) == (DONE, GOOD_ROWS), record.error_message


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_misbehaving_script_fails_alone_with_its_cause(function: Function, case: Case) -> None:
    ref = function.plan(case.script.encode(), max_attempts=2)

    returned_messages = function.deliver(ref)

    record = function.shard(ref)
    assert returned_messages == (["0"] if case.state is RETRIED else [])
    assert (record.state, record.error_class, record.attempts) == (case.state, case.error_class, 1), (
        record.error_message
    )
    assert [part for part in case.says if part not in record.error_message] == []
    assert (record.rows, record.outputs) == (None, ())
    check_that_the_next_task_works(function)


BREAKS_SPARK = (
    JOB
    + """
module = getattr(getattr(spark._jvm.org.apache.spark.rdd, "RDDOperationScope$"), "MODULE$")
(field,) = [each for each in module.getClass().getDeclaredFields() if each.getName().endswith("jsonMapper")]
field.setAccessible(True)
field.set(module, None)
"""
)


def test_a_script_in_a_broken_jvm_is_run_again(function: Function) -> None:
    function.skip_log()
    # Cleaning does not check what this script changes, so the broken JVM is kept.
    assert function.deliver(function.plan(BREAKS_SPARK.encode())) == []

    check_that_the_next_task_works(function)

    assert b"the script is run again" in function.new_log()


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
def test_output_in_the_folder_of_the_task_is_an_error(function: Function, script: bytes, message: str) -> None:
    """If the script reads this output again, or writes to another place, too, there is only a warning."""
    ref = function.plan(ROWS + script)
    function.skip_log()

    function.deliver(ref)

    record = function.shard(ref)
    assert record.state is (ShardState.FAILED if message else ShardState.SUCCEEDED), record.error_message
    assert message in record.error_message
    assert (b"the script wrote" in function.new_log()) == (b"write" in script)


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
def test_a_shard_without_output_has_a_warning_or_fails(function: Function, script: bytes, is_nothing: bool) -> None:
    """A write of no rows counts as output. There is no warning if the script can have written without Spark."""
    function.skip_log()
    refs = [function.plan(ROWS + script, strict=strict) for strict in (False, True)]

    for ref in refs:
        function.deliver(ref)

    lax, strict = map(function.shard, refs)
    assert lax.state is ShardState.SUCCEEDED and (lax.warning == NOTHING) is is_nothing, lax.error_message
    assert strict.state is (ShardState.FAILED if is_nothing else ShardState.SUCCEEDED), strict.error_message
    assert ("nothing was written" in strict.error_message) is is_nothing
    assert (b"nothing was written" in function.new_log()) is is_nothing
