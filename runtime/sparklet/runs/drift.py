"""Whether the shards of a run inferred other types, or wrote other schemas to one output, where one job has one.

Workers keep the schemas of a run in files named by reader or output, and schema (``model.schemas``), so one listing
shows whether any has two. Only then shards are read: a file may be that of an attempt that has not won.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from itertools import islice

from sparklet.ledger.rules import cut
from sparklet.model import SCHEMAS, Run, RunState, ShardState
from sparklet.model.schemas import Schema, clash
from sparklet.planning.incremental import others_of_name
from sparklet.ports.deployment import Deployment

MAX_SHOWN_BYTES = 1000  # of the difference
MAX_COMPARED = 1000  # schemas of one reader; there are many where keys of JSON are missing here and there


def drift_of(at: Deployment, run: Run) -> str:
    """Two inputs or files of SUCCEEDED shards that should have the same columns and types, and the difference; or "".

    What one shard alone has with several schemas is not compared: so would one job. An incremental run is compared with
    the last one of its name, too.
    """
    files, (before, earlier) = _files(at, run), _before(at, run) if run.options.incremental else (None, {})
    names = defaultdict[str, set[str]](set)  # by output or reader
    for name in {**files, **earlier}:
        names[name.partition("-")[0]].add(name)
    several = {subject: found for subject, found in names.items() if len(found) > 1}
    examples = _examples(at, run, several) if several else {}
    for subject, found in _examples(at, before, several).items() if before and several else ():
        if examples.get(subject) and len(found) == 1:  # what differed in the earlier run itself was told there
            examples[subject] |= found
    drifts = [_drift(at, found, {**files, **earlier}) for found in examples.values() if len(found) > 1]
    return min((each for each in drifts if each[1]), default=(True, ""))[1]


def _files(at: Deployment, run: Run) -> dict[str, str]:
    """The files of a run's schemas, by the names of these."""
    prefix = at.run_uri(run.run_id, SCHEMAS)
    return {info.uri.removeprefix(prefix).removesuffix(".json"): info.uri for info in at.store.list(prefix)}


def _before(at: Deployment, run: Run) -> tuple[Run | None, dict[str, str]]:
    """The last run of the name before a run, into the same output, that SUCCEEDED with schemas, and their files."""
    others = (each for each in others_of_name(at, run.name, run.run_id) if each.created_s < run.created_s)
    for other in sorted(others, key=lambda each: each.created_s, reverse=True):
        is_like = other.state is RunState.SUCCEEDED and other.output_uri == run.output_uri
        if is_like and (files := _files(at, other)):
            return other, files
    return None, {}


def _examples(at: Deployment, run: Run, several: Mapping[str, set[str]]) -> dict[str, dict[str, str]]:
    """By output or reader and schema the first shard's file or input; none where one shard alone has several."""
    found = defaultdict[str, dict[str, str]](dict)
    for record in at.ledger.shards.list(run.run_id, ShardState.SUCCEEDED):
        for subject, names in several.items():
            own = names & record.schemas.keys()
            if len(own) > 1:
                found[subject] = {}
            elif subject not in found or found[subject]:
                for name in own:
                    file = record.schemas[name]
                    uri = file if "://" in file else f"{run.shard_output(record.number)}/{file}"
                    found[subject].setdefault(name, uri)
    return found


def _drift(at: Deployment, examples: Mapping[str, str], files: Mapping[str, str]) -> tuple[bool, str]:
    """Whether it is of files that were written, which inputs explain better, and the first difference, in words."""
    known = defaultdict[str, dict[str, tuple[str, Schema]]](dict)  # by what must not differ, and how it is, the first
    for name, example in islice(examples.items(), MAX_COMPARED):
        schema = Schema(*json.loads(at.store.get(files[name])))
        for part, value in ({"": name} if schema.is_whole else schema.columns).items():
            known[part].setdefault(value, (example, schema))
    for values in known.values():
        if differing := clash(values):
            (first, one), (second, other) = (values[each] for each in values if each in differing)
            difference = cut(one.difference(other), MAX_SHOWN_BYTES)
            what, job = "shards wrote different columns to one output", "writes one schema: give the run's"
            if one.is_inferred:
                what, job = "shards inferred different types from their inputs", "infers one: give a schema"
            told = f"{what}: {first} and {second} ({difference}). One Spark job {job} (--schema), or --allow-drift"
            return not one.is_inferred, told
    return False, ""
