"""Glue's Python library over DataFrames, for scripts that come from Glue; see docs/decisions/0056.

This folder is the last one on Python's path where no real ``awsglue`` is installed (``spark.spark_options``). A script
usually imports, in this order: ``awsglue.utils`` (arguments), ``context`` (reads and writes), ``dynamicframe`` and
``transforms``, ``job``, and ``awsgluedq.transforms`` (data quality rules, which ``dqdl`` parses).
"""
