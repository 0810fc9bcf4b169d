"""The part of Glue's library that DataFrames have, too; every other name raises an error that says what to use."""

import sys
from typing import Any, NoReturn

WAYS = {
    "get_logger": "logging.getLogger()",
    "join": "left.toDF().join(right.toDF(), …)",
    "relationalize": 'select("struct.*") and explode() of frame.toDF()',
    "resolvechoice": "frame.toDF().withColumn(name, col(name).cast(type))",
}
OTHERWISE = "frame.toDF() or glueContext.spark_session, their methods, and DynamicFrame.fromDF(df, glueContext, name)"


def lacking(name: str, way: str = "") -> AttributeError:
    """The error for ``DynamicFrame.unbox`` and whatever else is not there; no attempt repeats it."""
    way = way or WAYS.get(name.rpartition(".")[2].lower(), OTHERWISE)
    return AttributeError(f"Sparklet's awsglue has no {name}: use {way}")


def missing(name: str) -> NoReturn:
    """Refuse a name that is imported from a module; Python itself asks for names with underscores."""
    raise AttributeError(name) if name.startswith("_") else ImportError(str(lacking(name)))


class _Modules:
    """The last finder: of this package's modules, what it is asked for is not there."""

    @staticmethod
    def find_spec(name: str, *_: Any) -> None:
        if name.startswith(f"{__name__}."):
            raise ModuleNotFoundError(str(lacking(name)), name=name)


sys.meta_path.append(_Modules)

from .dynamicframe import DynamicFrame  # noqa: E402 - which imports the names above

__all__ = ["DynamicFrame"]
