"""Which line of Spark the tests run on, where Spark's own words or classes differ."""

from importlib.metadata import version

from sparklet.job.spark_lines import is_of

IS_SPARK_4 = is_of(version("pyspark"), "4")
