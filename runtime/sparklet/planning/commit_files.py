"""Commit files: which shards' writes to tables each commit of a run makes.

``runs/<run_id>/_commit-<number>.jsonl`` is created once and never changes, so that a commit can be repeated. Its first
line describes it, each other one is what a shard's winner declared. No shard is in two of a run's files. See
``runs.commits``, which writes them, and ``docs/tables.md``.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparklet.errors import PlanError
from sparklet.job.tables.declaration import Table
from sparklet.model import WRITES, Run, RunState, ShardState
from sparklet.planning.deployment import Deployment
from sparklet.planning.outputs import commit_id

FOLDER, ENDING = "_commit-", ".jsonl"  # the worker fetches names that begin with an underscore
HEADER_BYTES = 1024  # at most


def declared(at: Deployment, run_id: str) -> Iterator[tuple[int, str]]:
    """The attempts that have declared writes to tables, with their shards' numbers."""
    for info in at.store.list(at.run_uri(run_id, WRITES)):
        number, _, attempt = info.uri.rpartition("/")[2].removesuffix(".json").partition("-")
        yield int(number), attempt


@dataclass(frozen=True, slots=True)
class CommitFile:
    """One commit's file."""

    number: int
    uri: str
    written_s: float

    def header(self, at: Deployment) -> Mapping[str, Any]:
        """Its first line."""
        header: Mapping[str, Any] = json.loads(at.store.get(self.uri, 0, HEADER_BYTES).partition(b"\n")[0])
        return header


def commit_uri(at: Deployment, run_id: str, number: int) -> str:
    """The address of a commit's file."""
    return at.run_uri(run_id, f"{FOLDER}{number}{ENDING}")


def commit_files(at: Deployment, run_id: str) -> Sequence[CommitFile]:
    """A run's commit files in their order; their numbers are 0, 1, 2, …"""
    prefix = at.run_uri(run_id, FOLDER)
    found = [
        CommitFile(int(info.uri[len(prefix) :].removesuffix(ENDING)), info.uri, info.modified_s)
        for info in at.store.list(prefix)
    ]
    return sorted(found, key=lambda file: file.number)


def shards_in(at: Deployment, files: Sequence[CommitFile]) -> Iterator[int]:
    """The numbers of the shards whose writes these commits make."""
    for body in at.store.get_all(file.uri for file in files):
        for line in body.splitlines()[1:]:
            yield json.loads(line)["shard"]


def tables_in(at: Deployment, files: Sequence[CommitFile]) -> set[Table]:
    """The tables that these commits write to."""
    lines = (line for body in at.store.get_all(file.uri for file in files) for line in body.splitlines()[1:])
    return {Table.parse(write["table"]) for line in lines for write in json.loads(line)["writes"]}


def commits_made(at: Deployment, run_id: str, count: int) -> int:
    """How many of the first ``count`` commits are made for sure: all up to that of the last run that did its work.

    A commit run makes every commit that those before it did not make.
    """
    for number in reversed(range(count)):
        known = at.known_run(commit_id(run_id, number))  # its file is written first
        if known and next(at.ledger.shards.list(known.run_id, ShardState.SUCCEEDED), None):
            return number + 1
    return 0


def uncommitted(at: Deployment, run: Run) -> frozenset[int]:
    """Shards of an ended run whose writes are in no table, and will be in none unless the run is redriven.

    PlanError if that is unknown, since a commit began and did not end well.
    """
    if run.state in (RunState.SUCCEEDED, RunState.SUCCEEDED_WITH_FAILURES):
        return frozenset()
    shards = frozenset(number for number, _ in declared(at, run.run_id))
    files = commit_files(at, run.run_id) if shards else ()
    if len(files) > commits_made(at, run.run_id, len(files)):
        raise PlanError(
            f"the run {run.run_id}, also named {run.name!r}, has ended as {run.state} while it committed to a table: "
            f"what it has done is unknown until it is redriven (sparklet redrive {run.run_id})"
        )
    return shards - frozenset(shards_in(at, files))
