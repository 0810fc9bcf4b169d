"""Names of objects that ``spark.read`` takes for others or passes over (tried on real Spark, over S3A)."""

from __future__ import annotations

import re

_GLOB = re.compile(r"([\\{}\[\]*?])")
_PASSED_OVER = re.compile(
    r"\.|_(?!SUCCESS$|metadata$|common_metadata$)|.*\._COPYING_$", re.DOTALL
)  # those three: no rows
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_KEY = re.compile(r"(?!file:)[^:/]+://[^/]*/(.*)", re.DOTALL)  # in a file system ``a//b`` and ``a/b`` are one file


def escaped(uri: str) -> str:
    """A name for ``spark.read``, so that ``*?[]{}`` and backslashes in it mean themselves."""
    return _GLOB.sub(r"\\\1", uri)


def misread(uri: str, *, escapes: bool = False) -> str:
    """Why ``spark.read`` would not read just this object; ``escapes``: if it is given the name ``escaped``."""
    key = _KEY.match(uri)
    if key and not {"", ".", ".."}.isdisjoint(key[1].split("/")):
        return "Hadoop's paths leave empty segments, . and .. out of a name"
    if _PASSED_OVER.match(uri.rpartition("/")[2]):
        return "Spark passes over names that begin with _ or . or end in ._COPYING_"
    if _CONTROL.search(uri):
        return "Spark does not find names with control characters"
    return "" if escapes or not _GLOB.search(uri) else "Spark takes * ? [ ] { } and \\ in a name for a pattern"
