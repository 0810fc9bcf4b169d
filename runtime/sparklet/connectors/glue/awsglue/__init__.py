"""The part of Glue's library that DataFrames have, too; every other name raises an error that says what to use."""

import re
import sys
from typing import Any, NoReturn

from ._ways import WAYS

OTHERWISE = "frame.toDF() or glueContext.spark_session, their methods, and DynamicFrame.fromDF(df, glueContext, name)"


def lacking(name: str, otherwise: str = "") -> AttributeError:
    """The error for ``DynamicFrame.unbox``, ``option 'exclusions'`` and the like; no attempt repeats it."""
    plain = re.split("[ .]", name)[-1].strip("'").replace("_", "").lower()
    return AttributeError(f"Sparklet's awsglue has no {name}: use {WAYS.get(plain, otherwise or OTHERWISE)}")


def missing(name: str) -> NoReturn:
    """Refuse a name that is imported from a module; Python itself asks for names with underscores."""
    raise AttributeError(name) if name.startswith("_") else ImportError(str(lacking(name)))


class _Modules:
    """The last import finder: it refuses the modules of this package and of Glue Studio that nothing else has found."""

    @staticmethod
    def find_spec(name: str, *_: Any) -> None:
        if name.startswith((f"{__name__}.", "awsgluedq.", "gs_")):
            raise ModuleNotFoundError(str(lacking(name)), name=name)


sys.meta_path.append(_Modules)

from .dynamicframe import DynamicFrame  # noqa: E402 - which imports the names above

__all__ = ["DynamicFrame"]
