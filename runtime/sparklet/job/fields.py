"""The values of a ``Job``, on which the modules of ``annexes`` work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparklet.job.errors import EventError
from sparklet.job.outcome import Outcome


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
        Where ``append`` and its like write to by default, as FORMAT:PLACE: the run's table, or ``--table``.
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
    table: str | None = None
    args: tuple[str, ...] = ()
    run_id: str | None = None
    shard: int | None = None
    attempt: str | None = None
    generation: int | None = None
    exact_names: bool = False
    outcome: Outcome = field(default_factory=Outcome, repr=False, compare=False)

    @property
    def output(self) -> str:
        """The uri to write to; in a run the attempt's own folder, published once the script has succeeded.

        Raises EventError if neither event, arguments nor environment name an output.
        """
        if not self.output_path:
            raise EventError("no output: pass --output URI, or output_path in the event or the environment")
        return self.output_path
