"""Plans a run: input → shards → plan parts → ledger → messages; streaming, and restartable at every step.

One round for each part, each step once the one before is done::

    write the part to S3, and what was left out (under names of this planner's own: unsealed they are only garbage)
    seal it in the ledger (conditional: the checkpoint; the first planner wins, another must stop)
    enter its shards (conditional) → send their messages → mark it dispatched

A planner that dies continues after the last sealed part, at a shard's boundary, once the parts that are not
marked were dispatched again. The plan is sealed with the number of shards that all its parts hold, or not at all.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from sparklet.errors import CheckpointConflictError
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.inventory import open_inventory
from sparklet.fanout.plan_parts import Sealed, sum_of
from sparklet.fanout.planning.dispatch import Outbox, dispatch_part
from sparklet.fanout.planning.left_out import END, LeftOut, beside, named
from sparklet.fanout.planning.outputs import make_room
from sparklet.fanout.planning.packing import Packed, pack_shards
from sparklet.fanout.planning.slicing import slice_objects
from sparklet.fanout.planning.turns import take_turn
from sparklet.model import PartRecord, Position, Run, RunState

PART_SHARDS = 1000
PART_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PlanProgress:
    """How far planning has come, after each part."""

    shards: int
    objects: int
    size_bytes: int
    skipped: Mapping[str, int]  # left out, by reason
    sealed: bool = False
    whole: Mapping[str, int] = field(default_factory=dict)  # large objects that this planner could not cut, by reason


Progress = Callable[[PlanProgress], None]


def plan(
    at: Deployment,
    run_id: str,
    progress: Progress = lambda _: None,
    *,
    part_shards: int = PART_SHARDS,
    part_bytes: int = PART_BYTES,
    stop: Callable[[], bool] = lambda: False,
) -> Run:
    """Plan a run to its end, from wherever an earlier planner left off; the run with its plan sealed.

    ``stop`` is asked after each part: told to, it leaves the rest to the next call, and the run is not sealed.

    Raises
    ------
    CheckpointConflictError
        If another planner is at work on this run, the run was cancelled, or a run that it replaces has not ended: this
        planner has stopped, and nothing is lost or doubled.
    PlanError
        If the run is incremental and another of its name has not ended; or if one of its lists was changed.
    """
    run = at.ledger.runs.get(run_id)
    if run.cancelled_s is not None:
        if run.sealed:
            return run
        raise CheckpointConflictError(f"the run {run_id} was cancelled; no more of it is planned")
    outbox = Outbox(at, run)
    sealed = Sealed()
    for part in at.ledger.runs.parts(run_id):
        if not part.dispatched:
            dispatch_part(at, run, part, at.store.get(at.part_uri(run_id, part.part)), outbox)
        sealed = sealed.and_part(part)
    if run.state is not RunState.PLANNING:
        return run
    if run.options.incremental:
        take_turn(at, run)
    if not sealed.parts:
        make_room(at, run)
    with LeftOut() as left_out:
        planning = _Planning(at, run, sealed, outbox, progress, left_out)
        for group in _groups(planning.shards(), part_shards, part_bytes):
            planning.add(group)
            if stop():
                return at.ledger.runs.get(run_id)
        return planning.seal()


@dataclass(slots=True)
class _Group:
    """The lines of shards that become one part, and what the shards hold together."""

    lines: list[bytes] = field(default_factory=list)
    line_bytes: int = 0
    objects: int = 0
    size_bytes: int = 0
    position: Position = field(default_factory=Position)  # after its last shard
    skipped: Mapping[str, int] = field(default_factory=dict)  # left out until there, since this planner began

    def add(self, packed: Packed) -> None:
        shard = packed.shard
        line = shard.to_line()
        self.lines.append(line)
        self.line_bytes += len(line)
        self.objects += len(shard.objects)
        self.size_bytes += shard.size_bytes
        self.position, self.skipped = packed.position, packed.skipped


def _difference(counts: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return dict(Counter(counts) - Counter(before))


def _groups(shards: Iterator[Packed], most_shards: int, most_bytes: int) -> Iterator[_Group]:
    """Shards in groups of at most ``most_shards``; a group is full once its lines have ``most_bytes``."""
    group = _Group()
    for packed in shards:
        group.add(packed)
        if len(group.lines) == most_shards or group.line_bytes >= most_bytes:
            yield group
            group = _Group()
    if group.lines:
        yield group


class _Planning:
    """One planner at work."""

    def __init__(
        self, at: Deployment, run: Run, sealed: Sealed, outbox: Outbox, progress: Progress, left_out: LeftOut
    ) -> None:
        self._at, self._run, self._sealed, self._outbox, self._progress = at, run, sealed, outbox, progress
        self._left_out = left_out
        self._planner_id = secrets.token_hex(4)
        self._whole: Counter[str] = Counter()
        self._told: Mapping[str, int] = {}  # of what this planner left out: what its sealed parts hold
        self._inventory = open_inventory(at, run, told=left_out.add)

    def shards(self) -> Iterator[Packed]:
        """The shards after the last sealed part."""
        options, position = self._run.options, self._sealed.position
        objects = self._inventory.objects(position)
        store = self._at.inputs(self._run.access)
        slices = slice_objects(store, objects, options, position, lambda item, why: self._whole.update([why]))
        return pack_shards(slices, options, self._sealed.shards)

    def add(self, group: _Group) -> None:
        """Write, seal and dispatch one part."""
        name = f"part-{self._sealed.parts:05d}-{self._planner_id}.jsonl"
        body = b"".join(group.lines)
        self._at.store.put(self._at.part_uri(self._run.run_id, name), body, create_only=True)
        self._name_left_out(beside(name), _difference(group.skipped, self._told))
        part = self._seal_part(name, group)
        dispatch_part(self._at, self._run, part, body, self._outbox)
        self._tell()

    def seal(self) -> Run:
        """Seal the plan with what all parts hold."""
        done = self._sealed
        self._name_left_out(END, _difference(self._inventory.skipped, self._told))
        self._at.ledger.runs.seal_plan(self._run.run_id, done.shards, done.objects, done.size_bytes, self._skipped())
        self._tell(sealed=True)
        return self._at.ledger.runs.get(self._run.run_id)

    def _name_left_out(self, name: str, skipped: Mapping[str, int]) -> None:
        if lines := self._left_out.take(named(skipped)):
            self._at.store.put(self._at.part_uri(self._run.run_id, name), lines)

    def _seal_part(self, name: str, group: _Group) -> PartRecord:
        part = PartRecord(
            index=self._sealed.parts,
            part=name,
            first_shard=self._sealed.shards,
            shard_count=len(group.lines),
            object_count=group.objects,
            size_bytes=group.size_bytes,
            position=group.position,
            skipped=_difference(group.skipped, self._told),
        )
        self._at.ledger.runs.add_part(self._run.run_id, part)
        self._told = group.skipped
        self._sealed = self._sealed.and_part(part)
        return part

    def _tell(self, sealed: bool = False) -> None:
        done = self._sealed
        told = PlanProgress(done.shards, done.objects, done.size_bytes, self._skipped(), sealed, dict(self._whole))
        self._progress(told)

    def _skipped(self) -> dict[str, int]:
        """What is left out until now, by all planners of this run: in the sealed parts, and since the last of them."""
        return sum_of(self._sealed.skipped, _difference(self._inventory.skipped, self._told))
