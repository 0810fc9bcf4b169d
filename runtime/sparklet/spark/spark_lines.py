"""The lines of Spark that Sparklet knows, each with a stack file (``docker/stacks``), and what differs between them.

Nothing else compares versions of Spark (CONTRIBUTING). What differs in Java is in ``SparkInsides.java``.
"""

import re
from collections.abc import Iterable, Iterator
from types import ModuleType

SCALA = {"3.5": "2.12", "4.1": "2.13"}
"""The version of Scala of each line."""
_CORE = re.compile(r"/spark-core_[\d.]+-([^/]+)\.jar$")


def line_of(version: str) -> str:
    """``3.5`` of ``3.5.9``."""
    return ".".join(version.split(".")[:2])


def version_on(class_path: Iterable[str]) -> str:
    """The version of Spark on a class path; "" if no jar's name tells."""
    return next((found[1] for found in map(_CORE.search, class_path) if found), "")


def is_known(version: str) -> bool:
    """Whether its insides are known, so that its contexts can be kept."""
    return line_of(version) in SCALA


def package(artifact: str, version: str) -> str:
    """Coordinates of a module of Spark: ``org.apache.spark:spark-avro_2.12:3.5.9``."""
    return f"org.apache.spark:{artifact}_{SCALA.get(line_of(version), '2.13')}:{version}"


def accumulator_servers(accumulators: ModuleType) -> Iterator[type]:
    """PySpark's classes that receive accumulators by TCP."""
    for name in ("AccumulatorServer", "AccumulatorTCPServer"):  # of 3.5; of 4.1
        if hasattr(accumulators, name):
            yield getattr(accumulators, name)
