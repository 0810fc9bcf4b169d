"""The values of a ``Job``, on which the modules of ``annexes`` work: its fields, and the name of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparklet.job.errors import EventError
from sparklet.job.outcome import Outcome

FORMATS = ("iceberg", "delta", "hudi", "parquet")
# Folders of staged files: DATA in a table, which keeps the files; CHANGES in an output, for the commit to read.
DATA, CHANGES = "sparklet", "_changes"
SCHEMA, INFER = "schema", "infer"  # the parameter with a run's schema, and its value if the schema is to be inferred
LEFT_OUT = "left_out"  # in the answer with an inferred schema: the files left out of the sample, and why


@dataclass(frozen=True)
class Table:
    """A table's format, and its place: ``db.name`` in the catalog for Iceberg, else the URI of its folder."""

    format: str
    place: str

    @classmethod
    def parse(cls, name: str) -> Table:
        """Parse ``iceberg:db.flights``, ``delta:s3://bucket/flights`` and the like; EventError for any other text."""
        format_, _, place = name.partition(":")
        if format_ not in FORMATS or not place:
            raise EventError(f"{name!r} names no table: write FORMAT:PLACE, with the format {', '.join(FORMATS)}")
        if format_ == "iceberg":
            if "://" in place or "." not in place.strip("."):
                raise EventError(
                    f"{name!r} does not name an Iceberg table: write iceberg:DATABASE.TABLE, with the names of the "
                    "catalog"
                )
            return cls(format_, place)
        if "://" not in place:
            place = f"file://{Path(place).absolute()}"  # as Hadoop writes it: nothing is escaped
        return cls(format_, place.rstrip("/"))

    def __str__(self) -> str:
        return f"{self.format}:{self.place}"


@dataclass(frozen=True)
class JobFields:
    """The values that one script works with; read-only.

    Parameters
    ----------
    event
        The event, from the worker or from ``--event``; ``{}`` without one.
    inputs
        Uris to read: the event's ``inputs`` (in a shard: the exact names of its objects), the event's ``input_path``,
        the objects of an S3 event, also inside SNS, SQS or EventBridge, or every ``--input``. Empty for other events.
    input_path
        The event's ``input_path``, the first ``--input``, or the environment's ``input_path``.
    output_path
        The event's ``output_path``, ``--output`` or the environment's ``output_path``.
    params
        The event's ``params``; ``--param k=v`` adds to them and wins. Values from the command line are text.
    table
        Where ``append`` and the like write to by default, as FORMAT:PLACE: the run's table, or ``--table``. This text
        can also be called, to read a table by its name, see ``annexes.CatalogTables``.
    args
        All other arguments, in order, for the script's own use.
    run_id, shard, attempt, generation
        From the event's ``sparklet``; None outside a run.
    exact_names
        Whether ``inputs`` are exact names of objects, in which ``*`` stands for itself.
    outcome
        Where reports go.
    """

    event: Any = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    input_path: str | None = None
    output_path: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    table: Any = None
    args: tuple[str, ...] = ()
    run_id: str | None = None
    shard: int | None = None
    attempt: str | None = None
    generation: int | None = None
    exact_names: bool = False
    outcome: Outcome = field(default_factory=Outcome, repr=False, compare=False)

    def refuse_inferring(self) -> None:
        """Raise EventError if the script is to infer a run's schema: it must end in ``read_csv``, before any write."""
        if self.params.get(SCHEMA) == INFER:
            raise EventError(
                "the script writes before job.read_csv(spark) has inferred the schema; read the input first"
            )

    @property
    def output(self) -> str:
        """The uri to write to; in a run the attempt's own folder, published once the script has succeeded.

        Raises
        ------
        EventError
            If neither event, arguments nor environment name an output.
        """
        if not self.output_path:
            raise EventError("no output: pass --output URI, or output_path in the event or the environment")
        return self.output_path
