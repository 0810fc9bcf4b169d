"""The types of columns, which are Spark's own types; ``DynamicFrame.schema()`` returns them."""

from pyspark.sql.types import *  # noqa: F403

from . import refuse_import

__getattr__ = refuse_import
