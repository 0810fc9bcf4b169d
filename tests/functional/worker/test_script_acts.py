"""Warnings and errors for what a script does outside of a run, with Spark or by itself: see ``worker.left_behind``."""

import json
from typing import Any

import pytest

from tests.functional.worker.ledgered import BUCKET, Function

pytestmark = [pytest.mark.spark, pytest.mark.stack]

SCRIPT = f"s3://{BUCKET}/scripts/acts.py"
SPARK = "from pyspark.sql import SparkSession\nspark = SparkSession.builder.getOrCreate()\n"
ARGUMENTS = "import argparse\nparser = argparse.ArgumentParser()\n"
NOT_ASKED = "the script reads arguments and was given no event"
MESSAGE = {
    "messageId": "m-1",
    "receiptHandle": "r",
    "body": '{"day": 1}',
    "eventSource": "aws:sqs",
    "eventSourceARN": "arn:aws:sqs:eu-west-1:123456789012:q",
    "attributes": {"ApproximateReceiveCount": "1"},
}
SQS, SCHEDULE = {"Records": [MESSAGE]}, {"day": 1}


def invoke(function: Function, script: str, event: Any) -> Any:
    """Invoke the worker with a script and an event; return the worker's answer, or the response with ``error``."""
    function.store.put(SCRIPT, script.encode())
    response = function.invoke({"sparklet": {"script": SCRIPT, "event": event}})
    return response.get("answer", response)


@pytest.mark.parametrize(
    ("script", "event", "error"),
    [
        (ARGUMENTS + "parser.add_argument('--day')\nparser.parse_args()\n", SQS, NOT_ASKED),
        ("import sys\nif len(sys.argv[1:]) > 0:\n    print(sys.argv)\n", SQS, NOT_ASKED),
        (ARGUMENTS + "parser.add_argument('--day')\nparser.parse_args()\n", SCHEDULE, ""),
        ("import sys\nprint(sys.argv[0])\n", SQS, ""),
        ("import os, sys\nprint(sys.argv[1:], os.environ['SPARKLET_EVENT'])\n", SQS, ""),
        ("import os, sys\nprint(sys.argv[1:], open(os.environ.get('SPARKLET_EVENT_FILE')).read())\n", SQS, ""),
        ("import sys\nfrom sparklet.job import Job\nprint(sys.argv[1:], Job.from_args().event)\n", SQS, ""),
    ],
)
def test_an_event_that_the_script_does_not_read_fails(function: Function, script: str, event: Any, error: str) -> None:
    """There is no error for an event that would not be lost, such as a scheduled one."""
    answer = invoke(function, script, event)

    assert answer.get("state", "FAILED") == ("FAILED" if error else "SUCCEEDED"), answer
    assert error in str(answer)


def test_a_script_that_asks_for_an_event_file_gets_one(function: Function) -> None:
    script = (
        ARGUMENTS + "parser.add_argument('--event-file')\nprint('GOT', open(parser.parse_args().event_file).read())\n"
    )
    function.skip_log()

    assert invoke(function, script, SQS)["state"] == "SUCCEEDED"

    assert function.printed("GOT") == [SQS]


@pytest.mark.parametrize(
    ("statements", "named"),
    [
        (["CREATE TABLE people (id INT) USING parquet LOCATION '{at}'"], True),
        (["CREATE TABLE default.people USING parquet LOCATION '{at}' AS SELECT 1 AS id"], True),
        (["CREATE TABLE people (id INT) USING parquet LOCATION '{at}'", "DROP TABLE people"], False),
        (["CREATE TEMPORARY VIEW people AS SELECT 1 AS id"], False),
    ],
)
def test_a_table_only_in_the_catalog_of_the_task_is_warned_of(
    function: Function, statements: list[str], named: bool
) -> None:
    location = f"s3://{BUCKET}/out/people-{abs(hash(str(statements)))}"
    script = SPARK + "".join(f"spark.sql({json.dumps(each.format(at=location))})\n" for each in statements)

    answer = invoke(function, script, SCHEDULE)

    warning = answer.get("warning", "")
    assert (f"the table default.people ({location}) is only in the task's own catalog" in warning) is named, answer


THREADS = """
from multiprocessing.dummy import Pool
from multiprocessing.pool import ThreadPool
with ThreadPool(2) as threads:
    print("ABS", [*threads.map(abs, [-1, -2]), *threads.imap_unordered(abs, [-3])])
threads = Pool(3)
print("ABS", threads.map(abs, range(-3, 0)))
threads.close()
threads.join()
"""


def test_pools_of_threads_need_no_lock_between_processes(function: Function) -> None:
    """Lambda has no /dev/shm, where multiprocessing's locks are; a script's ``ThreadPool`` must work without them."""
    function.skip_log()

    assert invoke(function, THREADS, SCHEDULE)["state"] == "SUCCEEDED"

    assert function.printed("ABS") == [[1, 2, 3], [3, 2, 1]]


TUNING = (
    SPARK
    + """
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.linalg import Vectors
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
rows = spark.createDataFrame([(Vectors.dense([float(n)]), float(n > 9)) for n in range(20)], ["features", "label"])
model = LogisticRegression(maxIter=2)
grid = ParamGridBuilder().addGrid(model.regParam, [0.01, 0.1]).build()
tuned = CrossValidator(estimator=model, estimatorParamMaps=grid, evaluator=BinaryClassificationEvaluator())
print("METRICS", len(tuned.setNumFolds(2).setParallelism(2).setSeed(1).fit(rows).avgMetrics))
"""
)


@pytest.mark.smoke
def test_a_script_can_tune_a_model_in_threads(function: Function) -> None:
    function.skip_log()

    assert invoke(function, TUNING, SCHEDULE)["state"] == "SUCCEEDED"

    assert function.printed("METRICS") == [2]  # one for each regParam of the grid
