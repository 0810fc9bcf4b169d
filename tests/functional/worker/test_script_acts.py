"""What a script does outside of a run, with Spark and by itself, and what is said of it: see ``worker.left_behind``."""

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


def invoked(function: Function, script: str, event: Any) -> Any:
    """What the worker answers to who hands it a script and an event, or its ``error``."""
    function.store.put(SCRIPT, script.encode())
    answer = function.invoke({"sparklet": {"script": SCRIPT, "event": event}})
    return answer.get("answer", answer)


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
def test_an_event_that_nobody_asked_for_comes_back(function: Function, script: str, event: Any, error: str) -> None:
    """Unless it stays where it is, or comes again by itself."""
    answer = invoked(function, script, event)

    assert answer.get("state", "FAILED") == ("FAILED" if error else "SUCCEEDED"), answer
    assert error in str(answer)


def test_an_event_comes_as_a_file_to_who_asks_for_one(function: Function) -> None:
    script = (
        ARGUMENTS + "parser.add_argument('--event-file')\nprint('GOT', open(parser.parse_args().event_file).read())\n"
    )
    function.said()

    assert invoked(function, script, SQS)["state"] == "SUCCEEDED"

    assert function.told("GOT") == [SQS]


@pytest.mark.parametrize(
    ("statements", "named"),
    [
        (["CREATE TABLE people (id INT) USING parquet LOCATION '{at}'"], True),
        (["CREATE TABLE default.people USING parquet LOCATION '{at}' AS SELECT 1 AS id"], True),
        (["CREATE TABLE people (id INT) USING parquet LOCATION '{at}'", "DROP TABLE people"], False),
        (["CREATE TEMPORARY VIEW people AS SELECT 1 AS id"], False),
    ],
)
def test_a_table_that_only_the_task_knows_is_told(function: Function, statements: list[str], named: bool) -> None:
    at = f"s3://{BUCKET}/out/people-{abs(hash(str(statements)))}"
    script = SPARK + "".join(f"spark.sql({json.dumps(each.format(at=at))})\n" for each in statements)

    answer = invoked(function, script, SCHEDULE)

    told = answer.get("warning", "")
    assert (f"the table default.people ({at}) is in the task's own catalog" in told) is named, answer


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
    function.said()

    assert invoked(function, THREADS, SCHEDULE)["state"] == "SUCCEEDED"

    assert function.told("ABS") == [[1, 2, 3], [3, 2, 1]]


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
print("BEST", len(tuned.setNumFolds(2).setParallelism(2).setSeed(1).fit(rows).avgMetrics))
"""
)


@pytest.mark.smoke
def test_a_model_is_tuned(function: Function) -> None:
    function.said()

    assert invoked(function, TUNING, SCHEDULE)["state"] == "SUCCEEDED"

    assert function.told("BEST") == [2]
