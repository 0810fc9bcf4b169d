"""Which output folders a run may write to or replace, and which incremental run of a name may go on.

A run claims its output folders and its name before it is planned, and each redrive claims them again. Claims are
numbered files in ``runs/_outputs/``, each created once. A run creates the next one after it has read all before it: of
two runs that exclude each other, one sees the other. A claim binds while its run is open in the ledger; no clock
decides (``docs/decisions/0048-who-owns-an-output-folder.md``).

An incremental run leaves out what earlier runs of its name have done. So only one of them is open at a time.
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, takewhile
from operator import itemgetter

from sparklet.errors import CheckpointConflictError, ObjectForbiddenError, ObjectNotFoundError, PlanError
from sparklet.model import OF_SPLIT, InputObject, Run, RunKind, RunState, ShardRecord, ShardState, Slice, follower_id
from sparklet.planning.commit_files import uncommitted_shards
from sparklet.planning.inputs.selection import Digests
from sparklet.planning.outputs import files_in, published_files
from sparklet.planning.plan_files import planned_objects, shards_of
from sparklet.ports.deployment import Deployment, put_once

CLAIMS = "_outputs/"  # no run id begins with an underscore
LISTED_AGAIN = 5  # times, if a claim was deleted since it was listed
CLEANED_UP = 10  # claims, the oldest ones, that the end of a run looks at


def refuse_another_open(deployment: Deployment, name: str, run_id: str) -> None:
    """PlanError if an earlier run of an incremental run's name is open: what it will have done is not known yet."""
    for run in others_of_name(deployment, name, run_id):
        if not run.state.ended:
            raise _still_open(run)


def refuse_outputs(deployment: Deployment, run: Run) -> None:
    """PlanError if a run may not write to its outputs; called before the run is in the ledger."""
    # The ledger alone shows a run that was entered and has not claimed yet. Its index may lag, so the claims are read,
    # too: a listing of S3 does not lag.
    for other in deployment.ledger.runs.unfinalized():
        _refuse_beside(run, other)
    _refuse_claimed(deployment, run, _claims(deployment))
    _refuse_held(deployment, run)
    # Only what Sparklet published is deleted: a file of other origin would stay, and be read with the new output.
    for folder in _folders(run) if run.options.existing == "overwrite" else ():
        if uri := next((file.uri for file in files_in(deployment.store, folder) if not file.by), ""):
            raise PlanError(f"the output {folder} holds {uri}, which no Sparklet run wrote; name another folder")


def _refuse_held(deployment: Deployment, run: Run) -> None:
    """PlanError if a run that wants its outputs empty finds something there."""
    for folder in _folders(run) if run.options.existing == "refuse" else ():
        if uri := next((info.uri for info in deployment.store.list(folder) if info.uri != folder), ""):
            raise PlanError(
                f"the output {folder} is not empty, it holds {uri}: append to it (--append), replace what is there "
                "(--overwrite), or name another folder"
            )


def _refuse_beside(run: Run, other: Run) -> None:
    """PlanError if an incremental run and another open run have one name, or if one of two wants a folder for itself.

    A run that appends may join one that appends too, or whose plan is sealed; so may a redriven run, whose output is
    there already.
    """
    # A run also claims the folder of its next run, so the two would refuse each other.
    if other.state.ended or (other.parent or other.run_id) == (run.parent or run.run_id):
        return
    if run.options.incremental and run.name == other.name:
        raise _still_open(other)
    shared = next((folder for folder in _claimed(run) if _overlap(folder, _claimed(other))), "")
    if not shared:
        return
    # Until its plan is sealed, a run that wants the folder empty, or empties it, may still look there or delete.
    alone = other.options.existing != "append" and other.state is RunState.PLANNING
    if alone or not (run.options.existing == "append" or run.generation):
        remedy = "" if alone or run.options.existing == "overwrite" else ", or append to it (--append)"
        raise PlanError(f"the run {other.run_id} writes to {shared} too and has not ended; wait for its end{remedy}")


def _still_open(run: Run) -> PlanError:
    stop = f"sparklet cancel {run.run_id}"
    return PlanError(f"the run {run.run_id}, also named {run.name!r}, has not ended: wait for it, or stop it ({stop})")


# --- claims ---


@dataclass(frozen=True, slots=True)
class _Claim:
    uri: str
    since_s: float  # by S3's clock, as are the times of objects
    identity: str
    generation: int
    folders: tuple[str, ...]
    name: str  # of the run


def take_outputs(deployment: Deployment, run: Run, *, empty: bool = False) -> None:
    """Claim, and ``empty``, the outputs of a run without a planned part; if another run forbids it, this one FAILED."""
    try:
        since_s = claim_outputs(deployment, run)
        if empty:
            delete_replaced(deployment, run, since_s)
    except PlanError as error:
        # Left open, it would stand in the way of other runs, since claims bind while their run is open.
        deployment.ledger.runs.finish(run.run_id, run.generation, RunState.FAILED)
        raise PlanError(f"{error}; {run.run_id} has ended with nothing planned") from None


def claim_outputs(deployment: Deployment, run: Run) -> float:
    """Claim the outputs for this generation, unless it has them; since when, by S3's clock. PlanError if forbidden."""
    while True:
        claims = _claims(deployment)
        for position, claim in enumerate(claims, 1):
            # A planner that comes again has its claim already, and so has this loop once its put took effect.
            if (claim.identity, claim.generation) == (run.identity, run.generation):
                # Its number may have become free again by the end of the run that had it: then claims behind it, of
                # runs that were let in meanwhile, are new to this one. Behind a run that is planned, by another
                # planner, they are there by right; in this order, since it may be planned between the two looks.
                behind = claims[position:]
                if behind and deployment.ledger.runs.get(run.run_id).state is RunState.PLANNING:
                    _refuse_claimed(deployment, run, behind)
                return claim.since_s
        _refuse_claimed(deployment, run, claims)
        # Since `refuse_outputs` looked, another run may have published here and ended. A redrive finds its own output,
        # a next run perhaps that of an earlier generation's.
        if not (run.generation or run.parent):
            _refuse_held(deployment, run)
        # Listings are in the order of keys, and eight digits make that the order of the numbers.
        number = int(claims[-1].uri.rpartition("/")[2]) + 1 if claims else 0
        body = json.dumps([run.identity, run.generation, _claimed(run), run.name]).encode()
        # If another run was faster, the put changes nothing, and the next look finds a claim that was not checked yet.
        put_once(deployment.store, (f"{deployment.runs_uri}{CLAIMS}{number:08d}", body))


def release_outputs(deployment: Deployment, run: Run) -> None:
    """Delete the claims of an ended run, and old ones of other ended runs; the last claim's number must stay taken."""
    # Without the last claim numbers would begin anew: a run that had read the claims before would find its number free,
    # and create it without having seen the newer ones.
    for index, claim in enumerate(_claims(deployment)[:-1]):
        other = run if claim.identity == run.identity else _claimer(deployment, claim) if index < CLEANED_UP else None
        if other and other.state.ended:
            deployment.store.delete_all([claim.uri], f"{deployment.runs_uri}{CLAIMS}")


def _refuse_claimed(deployment: Deployment, run: Run, claims: Sequence[_Claim]) -> None:
    """PlanError if the claim of an open run forbids this one."""
    for claim in claims:
        has_its_name = run.options.incremental and claim.name == run.name
        shares = has_its_name or any(_overlap(folder, claim.folders) for folder in _claimed(run))
        if shares and (other := _claimer(deployment, claim)):
            _refuse_beside(run, other)


def _claimer(deployment: Deployment, claim: _Claim) -> Run | None:
    """The run that made a claim; None if it is none of this ledger, or is deleted."""
    run = deployment.known_run(claim.identity.partition("_")[0])
    return run if run and run.identity == claim.identity else None


def _claims(deployment: Deployment, tries: int = LISTED_AGAIN) -> Sequence[_Claim]:
    """All claims, in the order in which they were made."""
    infos = list(deployment.store.list(f"{deployment.runs_uri}{CLAIMS}"))
    try:
        bodies = [json.loads(body) for body in deployment.store.get_all(info.uri for info in infos)]
    except (ObjectNotFoundError, ObjectForbiddenError):  # deleted since; S3 answers 403 without s3:ListBucket
        if tries > 1:
            return _claims(deployment, tries - 1)
        raise
    claim_files = zip(infos, bodies, strict=True)
    return [_Claim(info.uri, info.modified_s, body[0], body[1], tuple(body[2]), body[3]) for info, body in claim_files]


def earlier_followers(deployment: Deployment, parent: str, kind: RunKind, number: int) -> list[Run]:
    """The runs of a kind that were entered for ``parent`` before the one of this number."""
    ids = (follower_id(parent, kind, earlier) for earlier in range(number))
    return list(filter(None, map(deployment.known_run, ids)))


def delete_replaced(deployment: Deployment, run: Run, since_s: float) -> None:
    """Delete what a run replaces, before its first shard is dispatched; a repeated or late call does no harm.

    It deletes only what Sparklet published before ``since_s``, when the run claimed the folder; first what those runs
    have staged, so that nothing is published later. A next run also replaces the output of next runs of earlier
    generations; CheckpointConflictError if one of them has not ended. An incremental run plans again what shards of
    its name's earlier runs have not done, so their published files go.
    PlanError if this run, or another open one, reads what would be deleted.
    """
    for other in others_of_name(deployment, run.name, run.run_id) if run.options.incremental else ():
        _delete_staged(deployment, other)
        # All shards of a SUCCEEDED run have published whole, so they need not be read.
        if other.state is not RunState.SUCCEEDED:
            delete_half_published(deployment, other, run)
    earlier = earlier_followers(deployment, run.parent, run.kind, run.number) if run.number else []
    if still_open := next((other.run_id for other in earlier if not other.state.ended), ""):
        raise CheckpointConflictError(f"{run.run_id} is planned once {still_open}, which it replaces, has ended")
    replaces_all, replaced = run.options.existing == "overwrite", {other.identity for other in earlier}
    if not (replaces_all or replaced):
        return
    if (
        # A planner that wakes late may claim anew for a run that has ended and released its claim. What others have
        # published in between is older than the new claim, and must stay.
        deployment.ledger.runs.get(run.run_id).state is not RunState.PLANNING
    ):
        raise CheckpointConflictError(f"the run {run.run_id} was planned by another planner")

    def replaced_uris() -> Iterator[str]:
        for file in files_in(deployment.store, run.output_uri):
            # Both times are of S3. A file that is newer than the claim is of a run that was let in beside this one.
            whose = file.by["identity"] if file.by and file.modified_s <= since_s else run.identity
            if whose in replaced or (replaces_all and whose != run.identity):
                yield file.uri

    # The listing may be read twice: nothing is deleted before it is known that nobody reads any of it.
    refuse_read(deployment, run.output_uri, replaced_uris(), run)
    for other in earlier or _others_of_output(deployment, run):
        _delete_staged(deployment, other)
    deployment.store.delete_all(replaced_uris(), run.output_uri)


def _others_of_output(deployment: Deployment, run: Run) -> Iterator[Run]:
    """The ended runs that have written to a run's output, or may have."""
    return (
        other
        for other in deployment.ledger.runs.list()
        if other.state.ended and _overlap(run.output_uri, _folders(other))
    )


def _delete_staged(deployment: Deployment, run: Run) -> None:
    """Delete what an ended run has staged: an attempt that sleeps before it publishes copies nothing any more."""
    staged = f"s3://{deployment.bucket}/staged/{run.run_id}/"
    deployment.store.delete_all((info.uri for info in deployment.store.list(staged)), staged)


def delete_half_published(deployment: Deployment, run: Run, reader: Run | None = None) -> None:
    """Delete what FAILED shards of an ended run have published before their worker was lost.

    Only for a run that can be redriven no more: a redrive publishes the rest. PlanError if ``reader``, which is being
    planned, or another open run reads it.
    """
    if half := {record.number for record in half_published(deployment, run)}:
        uris = [info.uri for number, info in published_files(deployment.store, run) if number in half]
        refuse_read(deployment, run.output_uri, uris, reader)
        deployment.store.delete_all(uris, run.output_uri)


def refuse_read(deployment: Deployment, within: str, uris: Iterable[str], reader: Run | None = None) -> None:
    """PlanError if an open run, or ``reader``, has one of ``uris``, which are to be deleted, among its inputs.

    They lie in the folder ``within``, and are looked at only if a run reads there.
    """
    reads = list[tuple[str, tuple[str, ...], set[str]]]()
    for run in (*filter(None, [reader]), *deployment.ledger.runs.unfinalized()):
        # What a list names only the plan tells; a folder counts as a whole, since more of it may yet be planned.
        listed = (item.object_uri for item in planned_objects(deployment, run.run_id)) if run.lists else ()
        if not run.state.ended:
            folders = tuple(folder for folder in run.inputs if folder.endswith("/") and _overlap(folder, (within,)))
            objects = {uri for uri in chain(run.inputs, listed) if uri.startswith(within)}
            reads += [(run.run_id, folders, objects)] if folders or objects else []
    # `uris` may be a listing of S3, which costs nothing as long as it is not begun.
    for uri in uris if reads else ():
        run_id = next((run_id for run_id, folders, objects in reads if uri in objects or uri.startswith(folders)), "")
        if run_id:
            raise PlanError(f"{uri} would be deleted, and the run {run_id} reads it: wait for its end, or cancel it")


def half_published(deployment: Deployment, run: Run) -> Iterator[ShardRecord]:
    """The shards that FAILED after an attempt had won: some of their output may be where readers look."""
    return (record for record in deployment.ledger.shards.list(run.run_id, ShardState.FAILED) if record.winner)


def refuse_overtaken(deployment: Deployment, run: Run, *, lacks: bool = True) -> None:
    """PlanError if a later run has replaced this one's output, or plans what it ``lacks``: no redrive then."""
    overtaken = f"the run {run.run_id} cannot be redriven any more"
    if later := replaced_by(deployment, run):
        raise PlanError(f"{overtaken}: the run {later} has replaced what it wrote")
    for other in _later(deployment, run) if lacks else ():
        both_incremental = run.options.incremental and other.options.incremental and other.name == run.name
        # A later run that ended without a part, such as one that was refused, has taken over nothing.
        if both_incremental and (not other.state.ended or next(deployment.ledger.runs.parts(other.run_id), None)):
            again = f"the later run {other.run_id} plans again what it has not done; redrive that one"
            raise PlanError(f"{overtaken}: {again}")


def replaced_by(deployment: Deployment, run: Run) -> str:
    """The id of a later run that has replaced this one's output; "" if none has."""
    for other in _later(deployment, run):
        shared = any(_overlap(folder, _claimed(run)) for folder in (other.output_uri, other.local_output) if folder)
        # The next run replaces by right what its parent has claimed for it.
        if shared and other.options.existing == "overwrite" and other.parent != run.run_id:
            return other.run_id
    return ""


def _later(deployment: Deployment, run: Run) -> Iterator[Run]:
    """The other runs that were entered since this one, newest first."""
    # Of runs of the same time each counts as the later one, since nothing tells which was first.
    entered = takewhile(lambda other: other.created_s >= run.created_s, deployment.ledger.runs.list())
    return (other for other in entered if other.run_id != run.run_id)


def _folders(run: Run) -> tuple[str, ...]:
    """The folders in which a run publishes; the client that fills a local output checks that one itself."""
    return (run.output_uri, run.next.output_uri) if run.next else (run.output_uri,)


def _claimed(run: Run) -> tuple[str, ...]:
    return (*_folders(run), run.local_output) if run.local_output else _folders(run)


def _overlap(folder: str, others: tuple[str, ...]) -> bool:
    return any(folder.startswith(other) or other.startswith(folder) for other in others)


RunStatus = tuple[str, int, RunState]  # identity, generation, state


def done_before(deployment: Deployment, name: str, run_id: str = "") -> Digests:
    """What other runs of the name have done, by address, version and ETag; a cut object is done with its last slice."""
    done = Digests()
    for earlier in others_of_name(deployment, name, run_id):
        _add(deployment, earlier, done)
    return done


def earlier_runs(deployment: Deployment, name: str, run_id: str = "") -> list[RunStatus]:
    """The other runs of the name: while they are the same, so is what they have done."""
    return [(run.identity, run.generation, run.state) for run in others_of_name(deployment, name, run_id)]


def others_of_name(deployment: Deployment, name: str, run_id: str) -> Iterator[Run]:
    """The other runs of a run's name."""
    return (run for run in deployment.ledger.runs.list() if run.name == name and run.run_id != run_id)


def _add(deployment: Deployment, run: Run, done: Digests) -> None:
    """Add what a run has done. Slices of an object follow each other in the plan."""
    name: tuple[str, ...] = ()
    for name, items in groupby(_outcomes(deployment, run), key=itemgetter(0)):
        if all(succeeded for _, succeeded in items):
            done.add(*name)
    last = deque(deployment.ledger.runs.parts(run.run_id), maxlen=1)
    if last and last[0].position.slices:  # its planner was stopped before all slices of this object were planned
        done.discard(*name)


def _outcomes(deployment: Deployment, run: Run) -> Iterator[tuple[tuple[str, str, str], bool]]:
    """Every object and slice of a run's plan, and whether its shard has an output and its writes are committed."""
    left_out = uncommitted_shards(deployment, run)
    records = (record for record in deployment.ledger.shards.list(run.run_id) if record.has_output)
    done = (record.number for record in records if record.number not in left_out)
    # Ledger and plan are both read in the order of numbers, so one pass joins them without keeping the shards.
    number, parts = next(done, None), list(deployment.ledger.runs.parts(run.run_id))
    apart = dict[tuple[str, str, str, Slice | None], bool]()
    for part in parts:  # split off from shards whose lines follow each other as the slices of an object do
        for shard in shards_of(deployment, run.run_id, part) if part.part.startswith(OF_SPLIT) else ():
            record = deployment.ledger.shards.get(run.run_id, shard.number)
            # What a split shard held is in other shards: its pieces, or, of pieces that were joined, the one they came
            # from. One of the two loops meets these.
            if record.state is not ShardState.SPLIT:
                is_done = shard.number not in left_out and record.has_output
                for item in shard.objects:  # an archive is done if all files of it are
                    apart[_of_object(item)] = apart.get(_of_object(item), True) and is_done
    for part in parts:
        for shard in () if part.part.startswith(OF_SPLIT) else shards_of(deployment, run.run_id, part):
            while number is not None and number < shard.number:
                number = next(done, None)
            for item in shard.objects:
                is_done = number == shard.number or apart.get(_of_object(item), False)
                yield (item.uri, item.version_id, item.etag), is_done


def _of_object(item: InputObject) -> tuple[str, str, str, Slice | None]:
    return item.object_uri, item.version_id, item.etag, item.slice
