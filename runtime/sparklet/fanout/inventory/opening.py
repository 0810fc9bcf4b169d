"""The inventory of a run that is in the ledger, or about to be."""

from collections.abc import Sequence
from functools import partial

from sparklet.fanout.deployment import Deployment
from sparklet.fanout.inventory.earlier import done_before, planned_objects
from sparklet.fanout.inventory.lists import ListReader
from sparklet.fanout.inventory.objects import Inventory, Told, not_told
from sparklet.model import ListSource, Run
from sparklet.ports import ObjectStore


def open_inventory(
    at: Deployment, run: Run, lists: Sequence[ListReader] | None = None, told: Told = not_told
) -> Inventory:
    """What a run takes in; read with the run's own access. ``lists`` are its lists where they are not stored yet."""
    return Inventory(
        at.inputs(run.access),
        run.inputs,
        run.options,
        list_readers(at, run) if lists is None else lists,
        planned=partial(planned_objects, at, run.run_id),
        done=partial(done_before, at, run.name, run.run_id) if run.options.incremental else None,
        told=told,
    )


def list_readers(at: Deployment, run: Run) -> list[ListReader]:
    """A reader for each list of a run."""
    return [ListReader(source, list_store(at, run, source)) for source in run.lists]


def list_store(at: Deployment, run: Run, source: ListSource) -> ObjectStore:
    """Where a list lies: with the run if Sparklet stored it there, else where the input lies."""
    return at.store if source.uri.startswith(at.runs_uri) else at.inputs(run.access)
