"""Glue scripts in the image, in both runners."""

import pytest

from tests.container.account import Account
from tests.container.container import Container

OWN_JVM = "# sparklet: runner=submit\n"
SCRIPT = """
import sys
from awsglue.context import GlueContext
from awsglue.job import Job
from awsglue.utils import getResolvedOptions
from pyspark.context import SparkContext
import sparklet.job

args = getResolvedOptions(sys.argv, ["JOB_NAME", "day"])
glue = GlueContext(SparkContext())
job = Job(glue)
job.init(args["JOB_NAME"], args)
event = sparklet.job.Job.from_args().event
read = glue.create_dynamic_frame.from_options("s3", {"paths": [event["from"]]}, "csv", {"withHeader": True})
dear = read.filter(lambda row: int(row["price"]) > 75)  # in Spark's Python workers
glue.write_dynamic_frame.from_options(dear, "s3", {"path": event["to"]}, "parquet")
job.commit()
prices = [row["price"] for row in glue.spark_session.read.parquet(event["to"]).collect()]
sparklet.job.Job.from_args().answer([args["day"], *prices])
"""


@pytest.mark.parametrize("first_line", ["", OWN_JVM], ids=["warm", "submit"])
def test_a_glue_script_runs(account: Account, function: Container, first_line: str) -> None:
    homes = account.put("input/homes.csv", "id,price\n1,70\n2,80\n")
    uris = {"from": homes, "to": account.uri(f"output/glue-{len(first_line)}/")}

    answer = function.invoke(account.event_for(first_line + SCRIPT, **uris, params={"day": "2026-11-23"}))

    assert answer.document.get("answer") == ["2026-11-23", "80"], f"{answer}\n{function.logs()}"
