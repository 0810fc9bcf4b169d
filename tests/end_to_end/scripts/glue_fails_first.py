"""A Glue job whose first attempt at each shard fails after it has written."""

import sys

from awsglue.context import GlueContext
from awsglue.utils import getResolvedOptions
from pyspark.context import SparkContext

from sparklet.job import Job

args = getResolvedOptions(sys.argv, ["input_path", "output_path", "target"])
glue = GlueContext(SparkContext.getOrCreate())
read = {"connection_options": {"paths": [args["input_path"]]}, "format": "csv", "format_options": {"withHeader": True}}
homes = glue.create_dynamic_frame.from_options("s3", **read)
for path in (args["output_path"], args["target"]):
    glue.write_dynamic_frame.from_options(homes, "s3", {"path": path, "partitionKeys": ["city"]}, "parquet")
for _ in range(2):
    glue.write_dynamic_frame.from_options(homes, "s3", {"path": f"{args['target']}-twice"}, "parquet")
if Job.from_args(sys.argv[1:3]).previous_attempt is None:
    raise ConnectionError("the first attempt fails")
