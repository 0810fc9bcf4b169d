"""The values of a ``Job``, on which the modules of ``annexes`` work: its fields, and the name of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparklet.job.errors import EventError
from sparklet.job.outcome import Outcome

FORMATS = ("iceberg", "delta", "hudi", "parquet")
# Folders of staged files: DATA in a table, whose own they become; CHANGES in an output, where only a commit reads them.
DATA, CHANGES = "sparklet", "_changes"
SCHEMA, INFER = "schema", "infer"  # the parameter of a run's schema, and its value for one that is to be inferred
LEFT_OUT = "left_out"  # in the answer with an inferred schema: files of the sample, and why


@dataclass(frozen=True)
class Table:
    """A table's format, and its place: ``db.name`` in the catalog for Iceberg, else the URI of its folder."""

    format: str
    place: str

    @classmethod
    def parse(cls, name: str) -> Table:
        """Read ``iceberg:db.flights``, ``delta:s3://bucket/flights`` or ``hudi:/data/flights``; else EventError."""
        format_, _, place = name.partition(":")
        if format_ not in FORMATS or not place:
            raise EventError(f"{name!r} names no table: write FORMAT:PLACE, with the format {', '.join(FORMATS)}")
        if format_ == "iceberg":
            if "://" in place or "." not in place.strip("."):
                raise EventError(
                    f"{name!r} does not name an Iceberg table: write iceberg:DATABASE.TABLE, as the catalog knows it"
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
        Uris to read: the event's ``inputs`` (in a shard: the exact names of its objects), its ``input_path``, the
        objects of an event of S3, also inside SNS, SQS or EventBridge, or every ``--input``. Empty for other events.
    input_path
        The event's ``input_path``, the first ``--input``, or the environment's ``input_path``.
    output_path
        The event's ``output_path``, ``--output`` or the environment's ``output_path``.
    params
        The event's ``params``; ``--param k=v`` adds to them and wins. Values from the command line are text.
    table
        Where ``append`` and its like write to by default, as FORMAT:PLACE: the run's table, or ``--table``; a text that
        can be called to read a table by its name, see ``annexes.CatalogTables``.
    args
        All other arguments, in order, for the script's own use.
    run_id, shard, attempt, generation
        From the event's ``sparklet``; None outside a run.
    exact_names
        Whether ``inputs`` are names of objects: ``*`` in them means itself.
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
        """EventError before a write of a script that is to end in ``read_csv``, which infers a run's schema."""
        if self.params.get(SCHEMA) == INFER:
            raise EventError("this writes before job.read_csv(spark) has inferred the schema; read the input first")

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
