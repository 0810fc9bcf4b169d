"""A job as Glue Studio writes it today, with data quality rules and a sink."""

import sys

from awsglue.context import GlueContext
from awsglue.job import Job
from awsglue.utils import getResolvedOptions
from awsgluedq.transforms import EvaluateDataQuality
from pyspark.context import SparkContext

args = getResolvedOptions(sys.argv, ["JOB_NAME", "input_path", "output_path"])
glueContext = GlueContext(SparkContext())  # noqa: N816 - as Glue's templates have it
job = Job(glueContext)
job.init(args["JOB_NAME"], args)

RULES = """
    Rules = [
        ColumnCount > 0,
        IsComplete "city"
    ]
"""

homes = glueContext.create_dynamic_frame.from_options(
    format_options={"multiLine": "false"},
    connection_type="s3",
    format="json",
    connection_options={"paths": [args["input_path"]], "recurse": True},
    transformation_ctx="homes",
)
EvaluateDataQuality().process_rows(
    frame=homes,
    ruleset=RULES,
    publishing_options={"dataQualityEvaluationContext": "homes", "enableDataQualityResultsPublishing": True},
    additional_options={"dataQualityResultsPublishing.strategy": "BEST_EFFORT", "observations.scope": "ALL"},
)
if homes.count() >= 1:
    homes = homes.coalesce(1)
sink = glueContext.getSink(
    path=args["output_path"],
    connection_type="s3",
    updateBehavior="UPDATE_IN_DATABASE",
    partitionKeys=[],
    enableUpdateCatalog=False,
    transformation_ctx="sink",
)
sink.setCatalogInfo(catalogDatabase="lake", catalogTableName="homes")
sink.setFormat("glueparquet", compression="snappy")
sink.writeFrame(homes)
job.commit()
