"""Runs that follow a run: one that checks it before it ends, those that commit to tables, one for its output.

All are runs like any other, with ids of their own (see ``planning.follow_up_ids``). Any checker that finds one due
enters it; a second checker finds it in the ledger. So after a crash between any two steps the next check continues::

    all shards have ended, within what the run tolerates
      → statistics to runs/<run_id>/_summary-<identity>-<generation>.json → the check run, whose input that is → its end
      → the commit runs, if shards have declared writes to tables (see ``runs.commit_runs``) → their end
      → the next run, whose input is what this run wrote → the end of this run

The summary's name begins with an underscore, so the worker fetches it (``worker.staging``): the script gets it as a
file without a permission to list ``runs/``.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from sparklet.errors import PlanError
from sparklet.job.fields import INFER, SCHEMA
from sparklet.model import Counts, ListSource, Run, RunOptions, RunState, ShardState
from sparklet.model.options import AUTO, ENGINE, FAIL, NO_LIMIT_BYTES
from sparklet.model.redaction import redacted
from sparklet.planning.commit_files import commit_files
from sparklet.planning.engine_choice import fit_engines
from sparklet.planning.follow_up_ids import Kind, follow_up_id
from sparklet.planning.inputs.selection import is_hidden
from sparklet.planning.new_run import entered
from sparklet.planning.output_claims import earlier_next_runs, half_published, take_outputs
from sparklet.planning.outputs import published_files
from sparklet.ports.deployment import Deployment, put_once
from sparklet.runs.summary import statistics, summarize

MIN_CHECK_S = 3600.0  # time limit of a check or commit run, at least, even if its run's time is over
TOO_MANY_FAILED = "too many shards have FAILED while their output was published"
MAX_LEFT_OUT = 500  # such shards, which a next run leaves out, each by a pattern
NO_ANSWERS = "no shard has given an answer (job.answer), or they are too many or too large for items"
INHERITED = (  # options of a next run
    *("target_bytes", "max_attempts", "time_limit_s", "engine", "too_large", "max_shard_bytes"),
    *("isolate", "tolerated_failure_count", "tolerated_failure_percentage", "allow_drift"),
)


@dataclass(frozen=True, slots=True)
class FollowUp:
    """A check, commit or next run, as it is now."""

    run_id: str
    state: str  # a run's, or "not begun"
    error_class: str = ""  # why it failed
    message: str = ""

    def to_document(self) -> dict[str, Any]:
        """Its entry in notices and status documents."""
        error = {"class": self.error_class, "message": self.message} if self.error_class else None
        return {"run_id": self.run_id, "state": str(self.state), "error": error}


def schema_run(deployment: Deployment, run: Run) -> Run | None:
    """The run that infers this one's schema, if it was entered."""
    return deployment.known_run(follow_up_id(run.run_id, "schema")) if run.params.get(SCHEMA) == INFER else None


def check_run(deployment: Deployment, run: Run) -> Run | None:
    """The run that checks this one's generation, if it was entered."""
    return deployment.known_run(follow_up_id(run.run_id, "check", run.generation)) if run.check else None


def enter_check(deployment: Deployment, run: Run, state: RunState) -> Run:
    """Enter the check run once all shards have ended; ``state`` is how this run ends if its check run succeeds."""
    assert run.check is not None
    made_id = follow_up_id(run.run_id, "check", run.generation)
    uri = deployment.run_uri(run.run_id, f"_summary-{run.identity}-{run.generation}.json")
    put_once(
        deployment.store, (uri, _summary(deployment, run, state))
    )  # a faster checker's is the same: the shards have ended
    options = RunOptions(max_attempts=run.options.max_attempts, time_limit_s=time_left_s(deployment, run))
    follower = Run(made_id, (uri,), f"s3://{deployment.bucket}/output/{made_id}/", (run.check,), options=options)
    return entered(deployment, run, replace(follower, name=f"{run.name}-check", params=run.params))


def last_commit_run(deployment: Deployment, run: Run) -> Run | None:
    """The last commit run that was entered: it also makes the commits that those before it did not."""

    def commit(number: int) -> Run | None:
        return deployment.known_run(follow_up_id(run.run_id, "commit", number))

    if (first := commit(0)) is None:
        return None
    last = len(commit_files(deployment, run)) - 1  # written before its run is entered
    # A checker that was killed between the two has left the last file without a run.
    return commit(last) or commit(last - 1) or first


def next_run(deployment: Deployment, run: Run) -> Run | None:
    """The run that processes this generation's output, if it was entered."""
    return deployment.known_run(follow_up_id(run.run_id, "next", run.generation)) if run.next else None


def enter_next(deployment: Deployment, run: Run, counts: Counts, items_uri: str = "") -> Run | None:
    """Enter the run that processes this one's output; its driver plans it.

    Its input is what SUCCEEDED shards of this run have published, and no other file of the folder; or the items in
    ``items_uri``, if it asks for items. None if there are none, or if more than ``MAX_LEFT_OUT`` shards failed while
    their output was published. Open next runs of earlier generations are cancelled: this one replaces their output.
    """
    assert run.next is not None
    if run.next.items and not items_uri:
        return None
    records = half_published(deployment, run) if counts.failed else iter(())
    left_out = {record.number for record in islice(records, MAX_LEFT_OUT + 1)}
    if len(left_out) > MAX_LEFT_OUT:
        return None
    earlier = earlier_next_runs(deployment, run.run_id, run.generation)
    for earlier_run in earlier:
        deployment.ledger.runs.cancel(earlier_run.run_id)
    options = RunOptions(
        include=() if items_uri or run.options.output_per else (run.patterns(),),
        exclude=() if items_uri or run.options.output_per else tuple(map(run.patterns, sorted(left_out))),
        existing="append" if earlier else run.options.existing,
        **{name: getattr(run.options, name) for name in INHERITED},
    )
    if run.next.shards:
        options = _in_one_shard(deployment, options)
    list_uri = items_uri
    if not items_uri and run.options.output_per and (left_out or run.options.existing == "append"):
        list_uri = _listed_outputs(deployment, run, left_out)  # names do not tell whose the folder's files are
    # The follower may be planned much later: a list that was replaced by then is refused.
    etag = deployment.store.head(list_uri).etag if list_uri else ""
    lists = (ListSource(list_uri, "jsonl", etag=etag, items=bool(items_uri)),) if list_uri else ()
    run_id, output_uri = follow_up_id(run.run_id, "next", run.generation), run.next.output_uri
    inputs = () if lists else (run.output_uri,)
    follower = Run(run_id, inputs, output_uri, (run.next.script,), options=options, lists=lists)
    made = entered(
        deployment, run, replace(follower, name=f"{run.name}-next", params=run.params, dispatch=run.dispatch)
    )
    if not made.state.ended:
        with suppress(PlanError):  # it has FAILED then
            take_outputs(deployment, made)  # while they are still its parent's
    return made


def _listed_outputs(deployment: Deployment, run: Run, left_out: Collection[int]) -> str:
    """The address of a list of the files that a run has published for its inputs, but for some shards'."""
    base, uri = f"{run.output_uri.rstrip('/')}/", deployment.run_uri(run.run_id, f"outputs-{run.generation}.jsonl")
    lines = [
        json.dumps({"uri": info.uri, "size": info.size_bytes, "etag": info.etag})
        for number, info in published_files(deployment.store, run)
        if number not in left_out and not is_hidden(info.uri[len(base) :])
    ]
    deployment.store.put(uri, "\n".join(lines).encode())
    return uri


def _in_one_shard(deployment: Deployment, options: RunOptions) -> RunOptions:
    """The options of a reduce: one shard of any size, which an engine does if it is too large for a function."""
    engine = options.engine or fit_engines(deployment, AUTO)[0]
    too_large = options.too_large if options.engine else ENGINE if engine else FAIL
    whole = replace(options, target_bytes=NO_LIMIT_BYTES, max_objects=NO_LIMIT_BYTES)
    return replace(whole, engine=engine, too_large=too_large)


def follow_ups(deployment: Deployment, run: Run) -> dict[Kind, Run | None]:
    """The schema run, the check and next run of this generation and the last commit run; None: it was not entered."""
    return {
        "schema": schema_run(deployment, run),
        "check": check_run(deployment, run),
        "commit": last_commit_run(deployment, run),
        "next": next_run(deployment, run),
    }


def open_follow_ups(deployment: Deployment, run: Run) -> Iterator[Run]:
    """Those of them that have not ended."""
    return (follower for follower in follow_ups(deployment, run).values() if follower and not follower.state.ended)


def time_left_s(deployment: Deployment, run: Run) -> float:
    """The time limit of a check or commit run that is entered now: what is left of its run's."""
    return max(run.created_s + run.options.time_limit_s - deployment.clock.now_s(), MIN_CHECK_S)


def _summary(deployment: Deployment, run: Run, state: RunState) -> bytes:
    document = statistics(run, summarize(deployment, run, state))
    more = {"inputs": list(run.inputs), "args": redacted(run.args), "params": redacted(run.params)}
    return json.dumps({**document, **more}, indent=2).encode() + b"\n"


def as_follow_up(deployment: Deployment, run: Run | None) -> FollowUp | None:
    """A check, commit or next run with its state and why it failed; None if there is none."""
    if run is None:
        return None
    if run.state not in (RunState.FAILED, RunState.CANCELLED):
        return FollowUp(run.run_id, run.state)
    failed = next(deployment.ledger.shards.list(run.run_id, ShardState.FAILED), None)
    if failed is None:  # it was not planned in time, or cancelled when all its shards had succeeded
        return FollowUp(run.run_id, run.state, str(run.state), f"the run {run.run_id} has ended as {run.state}")
    return FollowUp(run.run_id, run.state, failed.error_class, failed.error_message)
