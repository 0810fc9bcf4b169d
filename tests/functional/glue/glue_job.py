"""A job as Glue's console generates it, with paths in its arguments."""

import sys

from awsglue.context import GlueContext
from awsglue.dynamicframe import DynamicFrame
from awsglue.job import Job
from awsglue.transforms import *  # noqa: F403
from awsglue.utils import getResolvedOptions
from pyspark.context import SparkContext

args = getResolvedOptions(sys.argv, ["JOB_NAME", "input_path", "output_path", "least", "region"])
sc = SparkContext()
glueContext = GlueContext(sc)  # noqa: N816 - as Glue's templates have it
spark = glueContext.spark_session
job = Job(glueContext)
job.init(args["JOB_NAME"], args)

source = glueContext.create_dynamic_frame.from_options(
    connection_type="s3",
    connection_options={"paths": [args["input_path"]], "recurse": True, "groupFiles": "inPartition"},
    format="csv",
    format_options={"withHeader": True, "separator": ";"},
    transformation_ctx="source",
)
mapped = ApplyMapping.apply(  # type: ignore[name-defined] # noqa: F405
    frame=source,
    mappings=[
        ("id", "string", "home", "long"),
        ("price", "string", "price", "double"),
        ("city", "string", "city", "string"),
    ],
    transformation_ctx="mapped",
)
least = float(args["least"])
dear = Filter.apply(frame=mapped, f=lambda row: row["price"] >= least, transformation_ctx="dear")  # type: ignore[name-defined] # noqa: F405
renamed = RenameField.apply(dear, "home", "id").drop_fields(["city"])  # type: ignore[name-defined] # noqa: F405
priced = DynamicFrame.fromDF(renamed.toDF().selectExpr("*", f"'{args['region']}' AS region"), glueContext, "priced")
glueContext.write_dynamic_frame.from_options(
    frame=priced,
    connection_type="s3",
    connection_options={"path": args["output_path"], "partitionKeys": ["region"]},
    format="glueparquet",
    format_options={"compression": "snappy"},
    transformation_ctx="sink",
)
job.commit()
