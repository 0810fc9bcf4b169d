"""Decides which output folders a run is allowed to write to or replace, and which incremental run of a name can go on.

A run claims its output folders and its name before it is planned, and each redrive claims them again. Claims are
numbered files in ``runs/_outputs/``, each created once. A run creates the next one after it has read all earlier
claims: of two runs that exclude each other, one sees the other's claim. A claim holds while its run is open in the
ledger; no clock decides (``docs/decisions/0048-who-owns-an-output-folder.md``).

An incremental run leaves out what earlier runs of its name have done. So only one run of a name is open at a time.
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
MAX_LISTINGS = 5  # if claims are deleted between listing and reading
CLEANED_UP = 10  # so many of the oldest claims are checked, and perhaps deleted, when a run ends


def refuse_another_open(deployment: Deployment, name: str, run_id: str) -> None:
    """PlanError if another run with an incremental run's name is open: which objects it will do is not known yet."""
    for run in others_of_name(deployment, name, run_id):
        if not run.state.ended:
            raise _still_open(run)


def refuse_outputs(deployment: Deployment, run: Run) -> None:
    """PlanError if a run is not allowed to write to its outputs; called before the run is in the ledger."""
    # Only the ledger shows a run that was entered and has no claim yet. But its index may lag, so the claims are read,
    # too: listings of S3 do not lag.
    for other in deployment.ledger.runs.unfinalized():
        _refuse_conflict(run, other)
    _refuse_claimed(deployment, run, _claims(deployment))
    _refuse_not_empty(deployment, run)
    # Only files that Sparklet published are deleted: another file would stay, and be read with the new output.
    for folder in _published_folders(run) if run.options.existing == "overwrite" else ():
        if uri := next((file.uri for file in files_in(deployment.store, folder) if not file.by), ""):
            raise PlanError(f"the output {folder} holds {uri}, which no Sparklet run wrote; name another folder")


def _refuse_not_empty(deployment: Deployment, run: Run) -> None:
    """PlanError if a run that needs empty outputs finds a file in one."""
    for folder in _published_folders(run) if run.options.existing == "refuse" else ():
        if uri := next((info.uri for info in deployment.store.list(folder) if info.uri != folder), ""):
            raise PlanError(
                f"the output {folder} is not empty, it holds {uri}: append to it (--append), replace what is there "
                "(--overwrite), or name another folder"
            )


def _refuse_conflict(run: Run, other: Run) -> None:
    """PlanError if another open run has an incremental run's name, or if one of the two needs a folder for itself.

    A run that appends, or a redriven run (its output is in the folder already), is allowed beside a run that appends or
    whose plan is sealed.
    """
    # A run also claims the folder of its next run: they must not refuse each other.
    if other.state.ended or (other.parent or other.run_id) == (run.parent or run.run_id):
        return
    if run.options.incremental and run.name == other.name:
        raise _still_open(other)
    shared_folder = next((folder for folder in _claimed_folders(run) if _overlap(folder, _claimed_folders(other))), "")
    if not shared_folder:
        return
    # Until its plan is sealed, a run that needs the folder empty, or empties it, may still list or delete its files.
    needs_it_alone = other.options.existing != "append" and other.state is RunState.PLANNING
    if needs_it_alone or not (run.options.existing == "append" or run.generation):
        remedy = "" if needs_it_alone or run.options.existing == "overwrite" else ", or append to it (--append)"
        raise PlanError(
            f"the run {other.run_id} writes to {shared_folder} too and has not ended; wait for its end{remedy}"
        )


def _still_open(run: Run) -> PlanError:
    stop = f"sparklet cancel {run.run_id}"
    return PlanError(f"the run {run.run_id}, also named {run.name!r}, has not ended: wait for it, or stop it ({stop})")


# --- claims ---


@dataclass(frozen=True, slots=True)
class _Claim:
    uri: str
    since_s: float  # by S3's clock, like the times of objects
    identity: str
    generation: int
    folders: tuple[str, ...]
    name: str  # of the run


def take_outputs(deployment: Deployment, run: Run, *, empty: bool = False) -> None:
    """Claim the outputs of a run without a plan part, and ``empty`` them; if that is refused, end the run as FAILED."""
    try:
        since_s = claim_outputs(deployment, run)
        if empty:
            delete_replaced(deployment, run, since_s)
    except PlanError as error:
        # An open run would block other runs, since claims hold while their run is open.
        deployment.ledger.runs.finish(run.run_id, run.generation, RunState.FAILED)
        raise PlanError(f"{error}; {run.run_id} has ended with nothing planned") from None


def claim_outputs(deployment: Deployment, run: Run) -> float:
    """Claim the outputs for this generation, or find its claim; return the claim's time by S3's clock.

    PlanError if another run forbids it.
    """
    while True:
        claims = _claims(deployment)
        for position, claim in enumerate(claims, 1):
            # The claim exists if a planner comes again, and after the put of this loop.
            if (claim.identity, claim.generation) == (run.identity, run.generation):
                # The claim may have taken a number that became free when another run ended. Then runs that were let in
                # meanwhile have later claims, which this run must check. But if another planner has planned this run,
                # they came after it. The state is read last, since the run may be planned between the two reads.
                later_claims = claims[position:]
                if later_claims and deployment.ledger.runs.get(run.run_id).state is RunState.PLANNING:
                    _refuse_claimed(deployment, run, later_claims)
                return claim.since_s
        _refuse_claimed(deployment, run, claims)
        # Since `refuse_outputs`, another run may have published here and ended. But a redrive finds its own output, and
        # a next run perhaps the output of an earlier generation's next run.
        if not (run.generation or run.parent):
            _refuse_not_empty(deployment, run)
        # Listings are in the order of keys, which with eight digits is the order of the numbers.
        number = int(claims[-1].uri.rpartition("/")[2]) + 1 if claims else 0
        body = json.dumps([run.identity, run.generation, _claimed_folders(run), run.name]).encode()
        # If another run was faster, the put changes nothing, and the next round finds and checks that run's claim.
        put_once(deployment.store, (f"{deployment.runs_uri}{CLAIMS}{number:08d}", body))


def release_outputs(deployment: Deployment, run: Run) -> None:
    """Delete the claims of an ended run, and old claims of other ended runs.

    The newest claim of all runs stays, since the next claim continues its number. If the numbers began anew, a run that
    has listed the claims before could create its own under a number that had been taken since, and miss that claim.
    """
    for index, claim in enumerate(_claims(deployment)[:-1]):
        claimer = run if claim.identity == run.identity else None
        if not claimer and index < CLEANED_UP:
            claimer = _claimer(deployment, claim)
        if claimer and claimer.state.ended:
            deployment.store.delete_all([claim.uri], f"{deployment.runs_uri}{CLAIMS}")


def _refuse_claimed(deployment: Deployment, run: Run, claims: Sequence[_Claim]) -> None:
    """PlanError if the claim of an open run forbids this one."""
    for claim in claims:
        has_its_name = run.options.incremental and claim.name == run.name
        may_conflict = has_its_name or any(_overlap(folder, claim.folders) for folder in _claimed_folders(run))
        if may_conflict and (other := _claimer(deployment, claim)):
            _refuse_conflict(run, other)


def _claimer(deployment: Deployment, claim: _Claim) -> Run | None:
    """The run that made a claim; None if this ledger does not have it, or not any more."""
    run = deployment.known_run(claim.identity.partition("_")[0])
    return run if run and run.identity == claim.identity else None


def _claims(deployment: Deployment, tries: int = MAX_LISTINGS) -> Sequence[_Claim]:
    """All claims, in the order in which they were made."""
    infos = list(deployment.store.list(f"{deployment.runs_uri}{CLAIMS}"))
    try:
        bodies = [json.loads(body) for body in deployment.store.get_all(info.uri for info in infos)]
    except (ObjectNotFoundError, ObjectForbiddenError):  # deleted since then; 403 without s3:ListBucket
        if tries > 1:
            return _claims(deployment, tries - 1)
        raise
    claim_files = zip(infos, bodies, strict=True)
    return [_Claim(info.uri, info.modified_s, body[0], body[1], tuple(body[2]), body[3]) for info, body in claim_files]


def earlier_followers(deployment: Deployment, parent: str, kind: RunKind, number: int) -> list[Run]:
    """The runs of a kind that were entered for ``parent`` before the run with this number."""
    ids = (follower_id(parent, kind, earlier) for earlier in range(number))
    return list(filter(None, map(deployment.known_run, ids)))


def delete_replaced(deployment: Deployment, run: Run, since_s: float) -> None:
    """Delete what a run replaces, before its first shard is dispatched; a repeated or late call does no harm.

    Only files that Sparklet published before ``since_s``, when the run claimed the folder, are deleted. Before that,
    files that their runs have staged are deleted, so that they are not published later. A next run also replaces the
    output of earlier generations' next runs; CheckpointConflictError if one of them has not ended. An incremental run
    plans again what earlier runs of its name have not done: files that their FAILED shards have published are deleted.
    PlanError if this run, or another open run, reads a file that would be deleted.
    """
    for other in others_of_name(deployment, run.name, run.run_id) if run.options.incremental else ():
        _delete_staged(deployment, other)
        # All shards of a SUCCEEDED run have published all files, so they need not be read.
        if other.state is not RunState.SUCCEEDED:
            delete_half_published(deployment, other, run)
    earlier = earlier_followers(deployment, run.parent, run.kind, run.number) if run.number else []
    if still_open := next((other.run_id for other in earlier if not other.state.ended), ""):
        raise CheckpointConflictError(
            f"{run.run_id} cannot be planned before {still_open}, whose output it replaces, has ended"
        )
    replaces_all, replaced_identities = run.options.existing == "overwrite", {other.identity for other in earlier}
    if not (replaces_all or replaced_identities):
        return
    # A planner that wakes late may claim anew for a run that has ended and released its claim. Files that others have
    # published in between are older than the new claim, and must stay.
    if deployment.ledger.runs.get(run.run_id).state is not RunState.PLANNING:
        raise CheckpointConflictError(f"the run {run.run_id} was planned by another planner")

    def replaced_uris() -> Iterator[str]:
        for file in files_in(deployment.store, run.output_uri):
            # Both times are by S3's clock. A file that is newer than the claim is of a run that was let in beside this
            # one, and stays like this run's own files.
            publisher = file.by["identity"] if file.by and file.modified_s <= since_s else run.identity
            if publisher in replaced_identities or (replaces_all and publisher != run.identity):
                yield file.uri

    # The files are listed twice: nothing is deleted before it is known that no run reads any of them.
    refuse_read(deployment, run.output_uri, replaced_uris(), run)
    for other in earlier or _others_of_output(deployment, run):
        _delete_staged(deployment, other)
    deployment.store.delete_all(replaced_uris(), run.output_uri)


def _others_of_output(deployment: Deployment, run: Run) -> Iterator[Run]:
    """The ended runs whose outputs overlap with a run's output."""
    return (
        other
        for other in deployment.ledger.runs.list()
        if other.state.ended and _overlap(run.output_uri, _published_folders(other))
    )


def _delete_staged(deployment: Deployment, run: Run) -> None:
    """Delete the files that an ended run has staged, so that an attempt which is late to publish finds none."""
    staged = f"s3://{deployment.bucket}/staged/{run.run_id}/"
    deployment.store.delete_all((info.uri for info in deployment.store.list(staged)), staged)


def delete_half_published(deployment: Deployment, run: Run, reader: Run | None = None) -> None:
    """Delete the files that FAILED shards of an ended run have published before their workers were lost.

    This is only for a run that cannot be redriven any more: a redrive would publish the other files. PlanError if
    ``reader``, a run that is being planned, or another open run reads the files.
    """
    if numbers := {record.number for record in half_published_shards(deployment, run)}:
        uris = [info.uri for number, info in published_files(deployment.store, run) if number in numbers]
        refuse_read(deployment, run.output_uri, uris, reader)
        deployment.store.delete_all(uris, run.output_uri)


def refuse_read(deployment: Deployment, within: str, uris: Iterable[str], reader: Run | None = None) -> None:
    """PlanError if an open run, or ``reader``, has one of ``uris``, which are to be deleted, among its inputs.

    All ``uris`` are in the folder ``within``. They are read only if a run has inputs in that folder.
    """
    reads = list[tuple[str, tuple[str, ...], set[str]]]()
    for run in (*filter(None, [reader]), *deployment.ledger.runs.unfinalized()):
        # Objects of lists are known from the plan only. A folder counts as a whole: more of it may still be planned.
        listed = (item.object_uri for item in planned_objects(deployment, run.run_id)) if run.lists else ()
        if not run.state.ended:
            folders = tuple(folder for folder in run.inputs if folder.endswith("/") and _overlap(folder, (within,)))
            objects = {uri for uri in chain(run.inputs, listed) if uri.startswith(within)}
            reads += [(run.run_id, folders, objects)] if folders or objects else []
    # `uris` may be a listing of S3, which is not requested before the first of them is read.
    for uri in uris if reads else ():
        run_id = next((run_id for run_id, folders, objects in reads if uri in objects or uri.startswith(folders)), "")
        if run_id:
            raise PlanError(f"{uri} would be deleted, and the run {run_id} reads it: wait for its end, or cancel it")


def half_published_shards(deployment: Deployment, run: Run) -> Iterator[ShardRecord]:
    """The shards that FAILED after an attempt had won: a part of their output may be published."""
    return (record for record in deployment.ledger.shards.list(run.run_id, ShardState.FAILED) if record.winner)


def refuse_overtaken(deployment: Deployment, run: Run, *, has_missing_output: bool = True) -> None:
    """PlanError if a run must not be redriven.

    So it is if a later run has replaced its output; or, if shards to redrive have no output (``has_missing_output``),
    if a later incremental run of its name plans their inputs again.
    """
    overtaken = f"the run {run.run_id} cannot be redriven any more"
    if later := replaced_by(deployment, run):
        raise PlanError(f"{overtaken}: the run {later} has replaced its output")
    for other in _later_runs(deployment, run) if has_missing_output else ():
        both_incremental = run.options.incremental and other.options.incremental and other.name == run.name
        # A later run that ended without a plan part, for example since it was refused, plans nothing again.
        if both_incremental and (not other.state.ended or next(deployment.ledger.runs.parts(other.run_id), None)):
            again = f"the later run {other.run_id} plans again what it has not done; redrive that one"
            raise PlanError(f"{overtaken}: {again}")


def replaced_by(deployment: Deployment, run: Run) -> str:
    """The id of a later run that has replaced this one's output; "" if none has."""
    for other in _later_runs(deployment, run):
        shares_folder = any(
            _overlap(folder, _claimed_folders(run)) for folder in (other.output_uri, other.local_output) if folder
        )
        # A next run is allowed to replace what its parent has claimed for it.
        if shares_folder and other.options.existing == "overwrite" and other.parent != run.run_id:
            return other.run_id
    return ""


def _later_runs(deployment: Deployment, run: Run) -> Iterator[Run]:
    """The other runs that were entered since this one, newest first."""
    # If two runs have the same time, each counts as the later one, since it is not known which was first.
    later_runs = takewhile(lambda other: other.created_s >= run.created_s, deployment.ledger.runs.list())
    return (other for other in later_runs if other.run_id != run.run_id)


def _published_folders(run: Run) -> tuple[str, ...]:
    """The folders in which a run and its next run publish, but not a folder to which a client downloads the output."""
    return (run.output_uri, run.next.output_uri) if run.next else (run.output_uri,)


def _claimed_folders(run: Run) -> tuple[str, ...]:
    return (*_published_folders(run), run.local_output) if run.local_output else _published_folders(run)


def _overlap(folder: str, other_folders: tuple[str, ...]) -> bool:
    return any(folder.startswith(other) or other.startswith(folder) for other in other_folders)


RunStatus = tuple[str, int, RunState]  # identity, generation, state


def finished_objects(deployment: Deployment, name: str, run_id: str = "") -> Digests:
    """The objects (address, version, ETag) that other runs of the name have done, with all slices if they were cut."""
    done = Digests()
    for earlier in others_of_name(deployment, name, run_id):
        _add_finished(deployment, earlier, done)
    return done


def earlier_runs(deployment: Deployment, name: str, run_id: str = "") -> list[RunStatus]:
    """The other runs of the name, with their states: while these are the same, so are the objects they have done."""
    return [(run.identity, run.generation, run.state) for run in others_of_name(deployment, name, run_id)]


def others_of_name(deployment: Deployment, name: str, run_id: str) -> Iterator[Run]:
    """The other runs of a run's name."""
    return (run for run in deployment.ledger.runs.list() if run.name == name and run.run_id != run_id)


def _add_finished(deployment: Deployment, run: Run, done: Digests) -> None:
    """Add to ``done`` the objects that a run has done."""
    # Slices of an object follow each other in the plan.
    name: tuple[str, ...] = ()
    for name, items in groupby(_outcomes(deployment, run), key=itemgetter(0)):
        if all(succeeded for _, succeeded in items):
            done.add(*name)
    last_part = deque(deployment.ledger.runs.parts(run.run_id), maxlen=1)
    # The planner was stopped before all slices of the last object were planned: so that object is not done.
    if last_part and last_part[0].position.slices:
        done.discard(*name)


def _outcomes(deployment: Deployment, run: Run) -> Iterator[tuple[tuple[str, str, str], bool]]:
    """Each object and slice of a run's plan, and whether its shard has output and all its writes are committed."""
    uncommitted = uncommitted_shards(deployment, run)
    records = (record for record in deployment.ledger.shards.list(run.run_id) if record.has_output)
    done_numbers = (record.number for record in records if record.number not in uncommitted)
    # Ledger and plan are both read in the order of numbers, so one pass joins them without keeping the shards.
    number, parts = next(done_numbers, None), list(deployment.ledger.runs.parts(run.run_id))
    is_done_in_pieces = dict[tuple[str, str, str, Slice | None], bool]()
    for part in parts:
        for shard in shards_of(deployment, run.run_id, part) if part.part.startswith(OF_SPLIT) else ():
            record = deployment.ledger.shards.get(run.run_id, shard.number)
            # The inputs of a split shard are in other shards: in its pieces, or, if it was a piece that was joined, in
            # the shard from which it was split off. One of the two loops finds these.
            if record.state is not ShardState.SPLIT:
                is_done = shard.number not in uncommitted and record.has_output
                # An archive is done if all its files are.
                for item in shard.objects:
                    key = _object_key(item)
                    is_done_in_pieces[key] = is_done_in_pieces.get(key, True) and is_done
    # The planned shards' own parts: here the slices of an object follow each other.
    for part in parts:
        for shard in () if part.part.startswith(OF_SPLIT) else shards_of(deployment, run.run_id, part):
            while number is not None and number < shard.number:
                number = next(done_numbers, None)
            for item in shard.objects:
                is_done = number == shard.number or is_done_in_pieces.get(_object_key(item), False)
                yield (item.uri, item.version_id, item.etag), is_done


def _object_key(item: InputObject) -> tuple[str, str, str, Slice | None]:
    return item.object_uri, item.version_id, item.etag, item.slice
