"""Whether the shards of a run inferred other types, or wrote other schemas to one output, where one job has one.

Workers keep the schemas of a run in files named by reader or output, and schema (``model.schemas``), so one listing
shows whether any has two. Only then shards are read: a file may be that of an attempt that has not won.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

from sparklet.ledger.rules import cut
from sparklet.model import SCHEMAS, Run, RunState, ShardState
from sparklet.model.schemas import Schema, clash
from sparklet.planning.incremental import others_of_name
from sparklet.ports.deployment import Deployment
from sparklet.spark.script import Script

MAX_SHOWN_BYTES = 1000  # of the difference
MAX_COMPARED = 1000  # schemas of one reader; there are many where keys of JSON are missing here and there


class Drift(NamedTuple):
    """Two inputs or files of SUCCEEDED shards whose columns or types differ where one job has one schema; or ""."""

    text: str = ""
    fails: bool = False  # whether the run has FAILED by it


def drift_of(deployment: Deployment, run: Run) -> Drift:
    """The drift of a run, which fails it unless it allows drift, or its script reads two input folders apart.

    What one shard alone has with several schemas is not compared: so would one job. An incremental run is compared with
    the last one of its name, too.
    """
    files, (before, earlier) = (
        _files(deployment, run),
        _before(deployment, run) if run.options.incremental else (None, {}),
    )
    names = defaultdict[str, set[str]](set)  # by output or reader
    for name in {**files, **earlier}:
        names[name.partition("-")[0]].add(name)
    several = {subject: schema_names for subject, schema_names in names.items() if len(schema_names) > 1}
    examples = _examples(deployment, run, several) if several else {}
    for subject, uri_by_schema in _examples(deployment, before, several).items() if before and several else ():
        if examples.get(subject) and len(uri_by_schema) == 1:  # what differed in the earlier run itself was told there
            examples[subject] |= uri_by_schema
    drifts = [
        _drift(deployment, run, uri_by_schema, {**files, **earlier})
        for uri_by_schema in examples.values()
        if len(uri_by_schema) > 1
    ]
    # False comes first: what fails the run before what may be meant so, and what was inferred before what was written,
    # since inputs tell a user more than files.
    is_apart, _, text = min((drift for drift in drifts if drift[2]), default=(True, False, ""))
    return Drift(text, not (is_apart or run.options.allow_drift))


def _files(deployment: Deployment, run: Run) -> dict[str, str]:
    """The files of a run's schemas, by the names of these."""
    prefix = deployment.run_uri(run.run_id, SCHEMAS)
    return {info.uri.removeprefix(prefix).removesuffix(".json"): info.uri for info in deployment.store.list(prefix)}


def _before(deployment: Deployment, run: Run) -> tuple[Run | None, dict[str, str]]:
    """The last run of the name before a run, into the same output, that SUCCEEDED with schemas, and their files."""
    others = (
        earlier_run
        for earlier_run in others_of_name(deployment, run.name, run.run_id)
        if earlier_run.created_s < run.created_s
    )
    for other in sorted(others, key=lambda earlier_run: earlier_run.created_s, reverse=True):
        is_like = other.state is RunState.SUCCEEDED and other.output_uri == run.output_uri
        if is_like and (files := _files(deployment, other)):
            return other, files
    return None, {}


def _examples(deployment: Deployment, run: Run, several: Mapping[str, set[str]]) -> dict[str, dict[str, str]]:
    """By output or reader and schema the first shard's file or input; none where one shard alone has several."""
    examples = defaultdict[str, dict[str, str]](dict)
    for record in deployment.ledger.shards.list(run.run_id, ShardState.SUCCEEDED):
        for subject, names in several.items():
            schema_names = names & record.schemas.keys()
            if len(schema_names) > 1:
                # One shard with both shows that one job would have both, too. The empty entry is a mark that keeps
                # later shards out.
                examples[subject] = {}
            elif subject not in examples or examples[subject]:
                for name in schema_names:
                    file = record.schemas[name]
                    uri = file if "://" in file else f"{run.shard_output(record.number)}/{file}"
                    examples[subject].setdefault(name, uri)
    return examples


def _drift(
    deployment: Deployment, run: Run, examples: Mapping[str, str], files: Mapping[str, str]
) -> tuple[bool, bool, str]:
    """Whether the script reads apart what differs, whether that was written, not read, and the difference in words."""
    # By what must not differ, and how it is, the first.
    firsts_by_part = defaultdict[str, dict[str, tuple[str, Schema]]](dict)
    for name, example in islice(examples.items(), MAX_COMPARED):
        schema = Schema(*json.loads(deployment.store.get(files[name])))
        for part, value in ({"": name} if schema.is_whole else schema.columns).items():
            firsts_by_part[part].setdefault(value, (example, schema))
    for values in firsts_by_part.values():
        if differing := clash(values):
            (first, one), (second, other) = (values[value] for value in values if value in differing)
            text = f": {first} and {second} ({cut(one.difference(other), MAX_SHOWN_BYTES)}). One Spark job "
            if not one.is_inferred:
                text += "writes one schema: give the run's (--schema), or --allow-drift"
                return False, True, f"shards wrote different columns to one output{text}"
            if _reads_apart(deployment, run, first, second):
                text += "that reads both infers one (--schema); the script names its folders, so it may read them apart"
                return True, False, f"shards inferred different types from two input folders{text}"
            text += "infers one: give a schema (--schema), or --allow-drift"
            return False, False, f"shards inferred different types from their inputs{text}"
    return False, False, ""


def _reads_apart(deployment: Deployment, run: Run, first: str, second: str) -> bool:
    """Whether inputs lie in two of the run's folders, and its script asks for these, or names both."""
    folders = {next(filter(uri.startswith, run.inputs), "") for uri in (first, second)}
    if len(folders) < 2 or "" in folders:
        return False
    script = Script(deployment.store.get(run.scripts[-1].uri))
    return script.asks_for_folders or all(script.names_folder(folder) for folder in folders)
