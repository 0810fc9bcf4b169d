"""Commit files: which shards' writes to tables each commit of a run makes.

``runs/<run_id>/_commit-<identity>-<number>.jsonl`` is created once and never changes, so that a commit can be repeated.
Its first line describes the commit; each further line has the writes that a shard's winner declared. A shard is in two
of a run's files only if it was done again, by another winner. A run with this id in another ledger has another
identity.
``runs.phases`` writes the files; see ``docs/tables.md``.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from sparklet.errors import PlanError
from sparklet.job.fields import Table
from sparklet.model import WRITES, Run, RunKind, RunState, ShardRecord, ShardState, follower_id
from sparklet.ports import ObjectStore
from sparklet.ports.deployment import Deployment

FOLDER, ENDING = "_commit-", ".jsonl"  # the worker fetches files whose names begin with an underscore
HEADER_BYTES = 1024  # no first line is longer


def kept_files(
    deployment: Deployment, run_id: str, folder: str, file_of: Callable[[ShardRecord], str]
) -> Iterator[tuple[ShardRecord, str]]:
    """Each SUCCEEDED shard whose file (``file_of``) is in the run's ``folder``, and the file's address."""
    # They come in the order of the shards.
    listed_uris = (info.uri for info in deployment.store.list(deployment.run_uri(run_id, folder)))
    listed_uri = next(listed_uris, "")
    # Without files the ledger is not read.
    for record in deployment.ledger.shards.list(run_id, ShardState.SUCCEEDED) if listed_uri else ():
        uri = deployment.run_uri(run_id, file_of(record))
        # Both are in the order of the shards' numbers. Files of shards and attempts that do not count are skipped.
        while listed_uri and listed_uri < uri:
            listed_uri = next(listed_uris, "")
        if listed_uri == uri:
            yield record, uri


@dataclass(frozen=True, slots=True)
class CommitFile:
    """The file of one commit."""

    number: int
    uri: str
    written_s: float

    def header(self, store: ObjectStore) -> Mapping[str, Any]:
        """The file's first line."""
        header: Mapping[str, Any] = json.loads(store.get(self.uri, 0, HEADER_BYTES).partition(b"\n")[0])
        return header


def commit_uri(deployment: Deployment, run: Run, number: int) -> str:
    """The address of a commit's file."""
    return deployment.run_uri(run.run_id, f"{FOLDER}{run.identity}-{number}{ENDING}")


def commit_files(deployment: Deployment, run: Run) -> Sequence[CommitFile]:
    """A run's commit files in the order of their numbers 0, 1, 2, …"""
    prefix, files = deployment.run_uri(run.run_id, FOLDER), list[CommitFile]()
    for info in deployment.store.list(prefix):
        identity, _, number = info.uri[len(prefix) :].removesuffix(ENDING).rpartition("-")
        if identity == run.identity:
            files.append(CommitFile(int(number), info.uri, info.modified_s))
    return sorted(files, key=lambda file: file.number)


def declarations(store: ObjectStore, files: Sequence[CommitFile]) -> Iterator[Mapping[str, Any]]:
    """The writes that these commits make: objects with a ``shard``, its ``attempt`` and its ``writes``."""
    for body in store.get_all(file.uri for file in files):
        yield from map(json.loads, body.splitlines()[1:])


def winners_in(store: ObjectStore, files: Sequence[CommitFile]) -> set[tuple[int, str]]:
    """The shards whose writes these commits make, each with the attempt that won; a shard that was redone has two."""
    return {(declaration["shard"], declaration["attempt"]) for declaration in declarations(store, files)}


def winner_of(record: ShardRecord) -> tuple[int, str]:
    """A SUCCEEDED shard and the attempt whose writes count."""
    return record.number, record.winner or record.attempt_id


def tables_in(store: ObjectStore, files: Sequence[CommitFile]) -> set[Table]:
    """The tables that these commits write to."""
    return {
        Table.parse(write["table"]) for declaration in declarations(store, files) for write in declaration["writes"]
    }


def commits_made(deployment: Deployment, run_id: str, count: int) -> int:
    """How many of the first ``count`` commits are made: all up to the last commit whose run has SUCCEEDED.

    Each commit run makes the missing commits before its own.
    """
    for number in reversed(range(count)):
        # There may be no run yet: the commit's file is written first.
        commit_run = deployment.known_run(follower_id(run_id, RunKind.COMMIT, number))
        if commit_run and next(deployment.ledger.shards.list(commit_run.run_id, ShardState.SUCCEEDED), None):
            return number + 1
    return 0


def uncommitted_shards(deployment: Deployment, run: Run) -> frozenset[int]:
    """The shards of an ended run whose writes no table has; PlanError if a commit began and its result is unknown.

    A shard that was done again and has FAILED counts if the writes that it declared before are in no table.
    """
    # A run ends in these states only after its commits.
    if run.state in (RunState.SUCCEEDED, RunState.SUCCEEDED_WITH_FAILURES):
        return frozenset()
    shards = {winner_of(record) for record, _ in kept_files(deployment, run.run_id, WRITES, attrgetter("writes_file"))}
    files = commit_files(deployment, run) if shards or run.generation else ()
    # A commit run that has not SUCCEEDED may have committed nevertheless, or may still do so.
    if len(files) > commits_made(deployment, run.run_id, len(files)):
        raise PlanError(
            f"the run {run.run_id}, also named {run.name!r}, has ended as {run.state} while it committed to a table: "
            f"what it has done is unknown until it is redriven (sparklet redrive {run.run_id})"
        )
    committed = winners_in(deployment.store, files)
    failed_numbers = (
        record.number for record in deployment.ledger.shards.list(run.run_id, ShardState.FAILED) if record.has_output
    )
    redone = set(failed_numbers).difference(number for number, _ in committed) if run.generation else set()
    if redone:
        prefix = deployment.run_uri(run.run_id, WRITES)
        redone &= {int(info.uri[len(prefix) :].partition("-")[0]) for info in deployment.store.list(prefix)}
    return frozenset({number for number, _ in shards - committed} | redone)
