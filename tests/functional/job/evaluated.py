"""A script that prints Spark's value of each expression, with the default settings and without ANSI mode."""

import json
import sys
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from sparklet.job import Job

INFERRED = "id,day,at,number,none\n1,2013-01-01,2013-01-01 10:00:00,007,\n2,2013-01-02,2013-01-01T10:00:00Z,8,\n"


def value(spark: SparkSession, expression: str) -> str:
    """The expression's value as a text, or the class of its error."""
    try:
        row = spark.range(1).selectExpr(f"{expression} AS value").first()
    except PySparkException as error:
        return str(error.getErrorClass()).partition(".")[0]
    return "null" if row is None or row.value is None else str(row.value)


job = Job.from_args()
expressions = json.loads(job.params["expressions"])
answers: dict[str, dict[str, Any]] = {}
for ansi in ("default", "false"):
    spark = job.spark(conf={} if ansi == "default" else {"spark.sql.ansi.enabled": ansi})
    answers[ansi] = {each: value(spark, each) for each in expressions}
lines = spark.sparkContext.parallelize(INFERRED.splitlines(), 1)
answers["types"] = dict(spark.read.csv(lines, header=True, inferSchema=True).dtypes)
misfit = spark.read.csv(
    spark.sparkContext.parallelize(["id,number", "1,x"], 1), header=True, schema="id INT, number INT"
)
answers["permissive"] = {"rows": [list(row) for row in misfit.collect()]}
json.dump(answers, sys.stdout)
