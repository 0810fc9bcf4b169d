"""Engines run shards that are too large for a function: a larger one, Fargate, EMR Serverless, EMR, Glue, a cluster.

How a shard gets to an engine, and its result back::

    worker.shards        a function runs out of memory or time: the ledger has the shard PENDING for an engine
    runs.dispatch        the checker starts a worker for it: Engine.start(token, ("shard", "--run", …))
    create               the engines by their names in SPARKLET_ENGINES, one module each: lambda_large, fargate,
                         clusters, and emr_serverless, emr, glue over spark_platform
    one_shard            the worker: it claims the shard, runs the script, and writes the result to the ledger
    runs.dispatch        later checks ask Engine.stopped why a worker ended without a claim, and start another

The large function runs the same worker as the other functions. On Fargate ``one_shard`` is the image's command
``shard``. On EMR Serverless, EMR and Glue the driver's program is ``on_platform``: it unpacks ``worker_package`` and
calls ``one_shard``, and scripts use the driver's JVM (``attached``). An engine only starts processes. All workers go
through the same claims and leases, so a superfluous one does no harm.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sparklet.model.quantities import Figure
from sparklet.ports import Engine


class Asked(NamedTuple):
    """AWS calls that a role needs, and their resources, written as in ``docs.calls``, which checks the roles."""

    calls: str  # separated by spaces
    on: Sequence[str]  # the resources
    keys: Mapping[str, str] = {}  # IAM condition keys, with their values
    when: str = ""  # a template parameter: without it these calls are not made; "" = they are always made


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What other modules need to know of an engine. Each engine's module defines one; ``create.KINDS`` lists them."""

    make: Callable[..., Engine]  # gets ``clients``, ``env``, ``script_settings`` and the entry in SPARKLET_ENGINES
    about: str  # what its worker is, and the parameters that name it: for docs/guide/elsewhere.md
    hours: Mapping[str, Figure] = field(default_factory=dict)  # an hour in US dollars: "", and "_arm64" if it differs
    to_plan: Sequence[Asked] = ()  # calls that planners and clients make, too, before they plan a run
    to_work: Sequence[Asked] = ()  # calls of the checker, which starts, watches and stops workers
