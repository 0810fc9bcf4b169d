"""Types of columns, which are Spark's; ``DynamicFrame.schema()`` has them."""

from pyspark.sql.types import *  # noqa: F403

from . import missing

__getattr__ = missing
