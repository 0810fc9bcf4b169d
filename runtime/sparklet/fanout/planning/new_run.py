"""From what a user asks for to a run in the ledger; asking again for the same run continues it."""

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from sparklet.errors import PlanError, RunExistsError
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.inventory import buckets_of, open_inventory, refuse_other_regions, resolve_inputs
from sparklet.fanout.planning.follow_up_ids import FOLLOW_UP_ID
from sparklet.fanout.planning.list_requests import (
    ListRequest,
    keep_lists,
    readers,
    refuse_mixed,
    resolve_list,
    stored_at,
)
from sparklet.fanout.planning.outputs import refuse_outputs
from sparklet.fanout.planning.scripts import ScriptFiles, keep_script, read_script, script_name
from sparklet.fanout.planning.turns import refuse_another_open, take_turn
from sparklet.fanout.planning.unplannable import refuse_unplannable
from sparklet.model import RUN_ID, Access, Dispatch, ListSource, NextRun, Run, RunOptions, ScriptRef
from sparklet.s3_uri import SCHEME

__all__ = ["ListRequest", "RunRequest", "keyed_run_id", "new_run", "run_id_for", "slug_of"]

RUN_ID_IN_OUTPUT = "{run_id}"  # for who asks for run after run with the same words
LONGEST_NAME = 40  # so that time and suffix fit into the 63 characters of a run id


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a user asks for.

    Parameters
    ----------
    script
        ``s3://`` address or local path of a ``.py`` file.
    inputs
        S3 folders and objects, in the order in which they are planned; none where ``lists`` are given.
    output_uri
        S3 folder below which every shard writes; ``{run_id}`` in it stands for the run's id.
    run_id
        Empty: made from ``name``, or from the script's. Given: the same request again continues that run.
    name
        Empty: the script's. Runs of one name belong together: ``options.incremental`` skips what they have done.
    lists
        Planned after the inputs.
    access
        How inputs and lists in S3 are read.
    dispatch
        Who hands the shards to the workers.
    check
        A script that judges the run once all shards have ended: if it fails, the run has FAILED.
    next, next_output
        A script to run over what this run wrote once it has ended well, and the S3 folder where that one writes;
        empty: ``output/<run_id>-next/`` in the deployment's bucket.
    idempotency_key
        Instead of a run id: of one key and name there is one run.
    env
        What the script finds in its environment: an operator's word, that no event may say.
    """

    script: str
    inputs: tuple[str, ...]
    output_uri: str
    run_id: str = ""
    name: str = ""
    py_files: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    options: RunOptions = field(default_factory=RunOptions)
    check_syntax: bool = True
    lists: tuple[ListRequest, ...] = ()
    access: Access = field(default_factory=Access)
    dispatch: Dispatch = Dispatch.QUEUE
    check: str = ""
    next: str = ""
    next_output: str = ""
    idempotency_key: str = ""
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def run_name(self) -> str:
        """The run's name."""
        return self.name or script_name(self.script)


def new_run(at: Deployment, request: RunRequest) -> Run:
    """Enter a run into the ledger, its script copied; nothing is written before input and script proved good.

    If the run is there already and is the same one, it is returned as it stands, so that ``plan`` continues it.

    Raises
    ------
    PlanError
        If input, output or script are not usable, also where the output is not empty and the options do not say what
        becomes of that; or if the run is incremental and another of its name has not ended.
    RunExistsError
        If a run of that id has another input, output, script or other options.
    """
    if request.dispatch is Dispatch.MAP and request.options.rate_per_s:
        raise PlanError(
            "a run whose dispatch is map takes no rate: no messages are sent; its MaxConcurrency paces a map"
        )
    refuse_mixed(request.lists, request.inputs, request.options)
    run_id = _run_id(at, request)
    request = replace(
        request,
        output_uri=request.output_uri.replace(RUN_ID_IN_OUTPUT, run_id),
        next_output=_next_output(at, request).replace(RUN_ID_IN_OUTPUT, run_id),
    )
    scripts = _read_scripts(at, run_id, request)
    if known := at.known_run(run_id):
        _refuse_another(known, request, scripts)
        return known
    if request.options.incremental:
        refuse_another_open(at, request.run_name, run_id)
    run = _entered(at, request, run_id, scripts)
    refuse_outputs(at, run)
    for script in scripts.all:
        keep_script(at, script)
    keep_lists(at, request.lists, run.lists)
    try:
        at.ledger.create_run(run)
    except RunExistsError:
        if not (known := at.known_run(run_id)):  # else somebody was quicker
            raise
        _refuse_another(known, request, scripts)
        return known
    if run.options.incremental:
        take_turn(at, run)
    return run


def run_id_for(name: str, now_s: float) -> str:
    """A run id of its own from a name, the time (UTC) and a random suffix: ``flights-20130101t120000-3f9a1c``."""
    return f"{slug_of(name)}-{datetime.fromtimestamp(now_s, UTC):%Y%m%dt%H%M%S}-{secrets.token_hex(3)}"


def keyed_run_id(name: str, key: str) -> str:
    """The id of the one run of a name that has this key: ``flights-5f2b8c1d9e07``."""
    return f"{slug_of(name)}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def slug_of(name: str) -> str:
    """What a run id begins with: the name in its characters."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:LONGEST_NAME].rstrip("-") or "run"


def _run_id(at: Deployment, request: RunRequest) -> str:
    if request.run_id and request.idempotency_key:
        raise PlanError("a run id and an idempotency key were given; give one of them: each names one run")
    if request.idempotency_key:
        return keyed_run_id(request.run_name, request.idempotency_key)
    run_id = request.run_id or run_id_for(request.run_name, at.clock.now_s())
    if not RUN_ID.fullmatch(run_id):
        raise PlanError(f"the run id {run_id!r} must be 1 to 63 of a-z, 0-9 and -, beginning with a letter or digit")
    if FOLLOW_UP_ID.search(run_id):
        raise PlanError(f"the run id {run_id!r} ends as those of check and next runs do; choose another one")
    return run_id


@dataclass(frozen=True, slots=True)
class _Scripts:
    """The scripts of a request, as they were read."""

    main: ScriptFiles
    check: ScriptFiles | None
    next: ScriptFiles | None

    @property
    def all(self) -> tuple[ScriptFiles, ...]:
        return tuple(script for script in (self.main, self.check, self.next) if script)


def _read_scripts(at: Deployment, run_id: str, request: RunRequest) -> _Scripts:
    """Main, check and next script, each with the run's py-files; nothing is written."""
    if request.next_output and not request.next:
        raise PlanError(f"the next output {request.next_output} has no script that writes there; name it as next")

    def read(source: str) -> ScriptFiles:
        return read_script(at, run_id, source, request.py_files, check_syntax=request.check_syntax)

    check = read(request.check) if request.check else None
    return _Scripts(read(request.script), check, read(request.next) if request.next else None)


def _entered(at: Deployment, request: RunRequest, run_id: str, scripts: _Scripts) -> Run:
    """The run as it enters the ledger, its input shown to be there and plannable."""
    store, options = at.inputs(request.access), request.options
    inputs = resolve_inputs(store, request.inputs) if request.inputs or not request.lists else ()
    output_uri = _output(request.output_uri)
    _refuse_own_output(at, inputs, output_uri)
    next_run = _next_run(request, scripts.next)
    if next_run:
        _refuse_own_output(at, (*inputs, output_uri), next_run.output_uri)
    if not options.other_region:
        refuse_other_regions(store, buckets_of(inputs))
    sources = [resolve_list(store, given) for given in request.lists]
    run = Run(
        run_id=run_id,
        inputs=inputs,
        output_uri=output_uri,
        scripts=(scripts.main.ref,),
        args=request.args,
        params=request.params,
        env=request.env,
        options=options,
        name=request.run_name,
        lists=_stored(at, run_id, request.lists, sources),
        access=request.access,
        dispatch=request.dispatch,
        check=scripts.check.ref if scripts.check else None,
        next=next_run,
        created_s=at.clock.now_s(),
    )
    lists = list(readers(store, request.lists, sources))
    name = ", ".join([*inputs, *(given.source for given in request.lists)])
    refuse_unplannable(store, open_inventory(at, run, lists), lists, options, name)
    return run


def _next_output(at: Deployment, request: RunRequest) -> str:
    if request.next and not request.next_output:
        return f"s3://{at.bucket}/output/{RUN_ID_IN_OUTPUT}-next/"
    return request.next_output


def _next_run(request: RunRequest, script: ScriptFiles | None) -> NextRun | None:
    return NextRun(script.ref, _output(request.next_output)) if script else None


def _stored(
    at: Deployment, run_id: str, requests: Sequence[ListRequest], sources: Sequence[ListSource]
) -> tuple[ListSource, ...]:
    return tuple(stored_at(at, run_id, n, *pair) for n, pair in enumerate(zip(requests, sources, strict=True)))


def _refuse_own_output(at: Deployment, inputs: Sequence[str], output_uri: str) -> None:
    for folder in (given for given in inputs if given.endswith("/")):
        for written, what in ((output_uri, "the output"), (at.runs_uri, "Sparklet's own folder")):
            if written.startswith(folder):
                raise PlanError(
                    f"{what} {written} lies inside the input {folder}, so what is written there "
                    f"would be planned as input; choose another input or output"
                )


def _output(uri: str) -> str:
    """The output as an S3 folder."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in ("s3", "s3a", "s3n") or not rest.partition("/")[0]:
        raise PlanError(f"the output {uri!r} must look like s3://bucket/folder/")
    return f"{SCHEME}{rest.rstrip('/')}/"


def _refuse_another(known: Run, request: RunRequest, scripts: _Scripts) -> None:
    """RunExistsError naming what differs; an input's closing slash does not count (see ``resolve_inputs``)."""
    differences = {
        "inputs": _bare(known.inputs) != _bare(request.inputs),
        "output": known.output_uri != _output(request.output_uri),
        "script": _content(known.scripts[0]) != _content(scripts.main.ref),
        "arguments": known.args != request.args,
        "parameters": dict(known.params) != dict(request.params),
        "environment": dict(known.env) != dict(request.env),
        "options": known.options != request.options,
        "name": bool(request.name) and known.name != request.name,
        "lists": not _same_lists(known, request),
        "access": known.access != request.access,
        "dispatch": known.dispatch is not request.dispatch,
        "check": _content(known.check) != _content(scripts.check.ref if scripts.check else None),
        "next": not _same_next(known.next, _next_run(request, scripts.next)),
    }
    if any(differences.values()):
        names = " and ".join(name for name, differs in differences.items() if differs)
        raise RunExistsError(f"the run {known.run_id} exists with other {names}; choose another run id")


def _content(script: ScriptRef | None) -> ScriptRef | None:
    """A script by its bytes, wherever the user has it."""
    return script and replace(script, source_uri="")


def _same_next(known: NextRun | None, asked: NextRun | None) -> bool:
    if known is None or asked is None:
        return known is asked
    return _content(known.script) == _content(asked.script) and known.output_uri == asked.output_uri


def _same_lists(known: Run, request: RunRequest) -> bool:
    """Whether the lists are those of the run; a change of their content is found when they are read."""
    if len(known.lists) != len(request.lists):
        return False
    for source, given in zip(known.lists, request.lists, strict=True):
        if (source.path, source.items) != (given.path, given.items) or (given.format and given.format != source.format):
            return False
        if given.body is None and source.uri != f"{SCHEME}{given.source.partition('://')[2]}":
            return False
        if given.body is not None and hashlib.sha256(given.body).hexdigest()[:16] not in source.uri:
            return False
    return True


def _bare(inputs: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{SCHEME}{given.partition('://')[2].rstrip('/')}" for given in inputs)
