"""A function of pandas."""

import pandas as pd
from pyspark.sql import functions as F  # noqa: N812

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
prices = spark.read.parquet(job.params["prices"])


@F.pandas_udf("double")  # type: ignore[untyped-decorator]
def doubled(values: pd.Series) -> pd.Series:
    """Twice."""
    return values * 2


prices.select("id", doubled("share").alias("share")).write.mode("overwrite").parquet(job.output)
