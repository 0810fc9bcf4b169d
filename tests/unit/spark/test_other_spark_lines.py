"""Contexts are kept on one line of Spark; on others the worker goes on without."""

import pyspark
import pytest
from pyspark import SparkContext, accumulators

from sparklet.spark.jvm_calls import keep_contexts


def test_a_pyspark_of_another_line_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyspark, "__version__", "4.1.4")
    monkeypatch.delattr(accumulators, "AccumulatorServer")  # 4.1 has two others
    before = (SparkContext.stop, SparkContext._initialize_context)

    keep_contexts()

    assert (SparkContext.stop, SparkContext._initialize_context) == before
