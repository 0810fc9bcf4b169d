"""The line of Spark that the tests run on, for tests of messages or classes that differ between Spark's lines."""

from importlib.metadata import version

from sparklet.job.spark_lines import is_of

IS_SPARK_4 = is_of(version("pyspark"), "4")
