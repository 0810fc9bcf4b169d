"""For check scripts: the figures of the run, and ``expect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparklet.job.errors import EventError, ExpectationError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FILE_SCHEME = "file://"


def expect(condition: bool, what: str) -> None:
    """Fail the script, and with it the run that it checks, unless ``condition`` holds.

    ``what`` describes the expected and the actual result, for the run's manifest and notice. Raises ExpectationError
    if the condition does not hold; the check is not tried again.
    """
    if not condition:
        raise ExpectationError(what)


def read_figures(uri: str | None, spark: SparkSession | None) -> dict[str, Any]:
    """The figures of a run, from the file that a worker has fetched or, through Spark, from their own address."""
    if not uri:
        raise EventError(
            "no figures of a run: this is the input of a check script (--check); pass --input FILE to try it"
        )
    try:
        document = json.loads(_text(uri, spark))
    except (OSError, ValueError) as error:
        raise EventError(f"{uri} holds no figures of a run: {error}") from error
    if not isinstance(document, dict) or not {"id", "output", "counts"} <= document.keys():
        raise EventError(f"{uri} holds no figures of a run: it has no id, output and counts")
    return document


def _text(uri: str, spark: SparkSession | None) -> bytes | str:
    path = uri[len(FILE_SCHEME) :] if uri.startswith(FILE_SCHEME) else uri
    if "://" not in path:
        return Path(path).read_bytes()
    if spark is None:
        raise EventError(f"{uri} is not on this machine: pass the session, job.figures(spark)")
    from sparklet.job.session import stored_text

    return stored_text(spark, uri)
