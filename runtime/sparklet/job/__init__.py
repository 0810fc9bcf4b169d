"""The library for PySpark scripts; the same script runs on Lambda, a laptop, EMR and Glue.

::

    from sparklet.job import Job

    job = Job.from_args()
    spark = job.spark()
    frame = spark.read.csv(job.input_list(), header=True)
    frame.write.mode("overwrite").parquet(job.output)
    job.report(outputs=[job.output])

The package needs the standard library and pyspark only, and keeps to the syntax of Python 3.9, EMR's default.
``python -m sparklet.job.bundle`` packs it for ``--py-files``.
"""

from sparklet.job.arguments import Job
from sparklet.job.errors import EventError, ExpectationError, SparkletError, expect
from sparklet.job.outcome import OUTCOME_FILE
from sparklet.job.session import stored_bytes

__all__ = ["OUTCOME_FILE", "EventError", "ExpectationError", "Job", "SparkletError", "expect", "stored_bytes"]
