"""Glue's Python library over DataFrames, for scripts that come from Glue; see docs/decisions/0056.

This folder ends Python's path wherever no real ``awsglue`` is installed (``spark.spark_options``). A script imports, in
this order: ``awsglue.utils`` (arguments), ``context`` (reads and writes), ``dynamicframe`` and ``transforms``, ``job``,
``awsgluedq.transforms`` (rules of data quality, which ``dqdl`` reads).
"""
