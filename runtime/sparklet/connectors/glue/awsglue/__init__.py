"""The part of Glue's library that can be done with DataFrames; any other name raises an error with a replacement."""

import re
import sys
from typing import Any, NoReturn

from ._ways import WAYS

OTHERWISE = "frame.toDF() or glueContext.spark_session, their methods, and DynamicFrame.fromDF(df, glueContext, name)"


def lack_error(name: str, otherwise: str = "") -> AttributeError:
    """Return the error for ``DynamicFrame.unbox``, ``option 'exclusions'`` and the like; it fails a shard at once."""
    plain = re.split("[ .]", name)[-1].strip("'").replace("_", "").lower()
    return AttributeError(f"Sparklet's awsglue has no {name}: use {WAYS.get(plain, otherwise or OTHERWISE)}")


def refuse_import(name: str) -> NoReturn:
    """Refuse a name that a script imports from a module. Names with an underscore are looked up by Python itself."""
    raise AttributeError(name) if name.startswith("_") else ImportError(str(lack_error(name)))


class _RefusingFinder:
    """The last import finder: it refuses the modules of Glue and Glue Studio that no other finder has found."""

    @staticmethod
    def find_spec(name: str, *_: Any) -> None:
        if name.startswith((f"{__name__}.", "awsgluedq.", "gs_")):
            raise ModuleNotFoundError(str(lack_error(name)), name=name)


sys.meta_path.append(_RefusingFinder)

from .dynamicframe import DynamicFrame  # noqa: E402 - it imports the names above

__all__ = ["DynamicFrame"]
