"""Finds out from which input each output file of an attempt was made, and what became of each input (decision 0083)."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sparklet.errors import MixedInputsError, PlanError
from sparklet.model import InputObject, Run
from sparklet.planning.outputs import TELL_APART, output_name, suffix_of
from sparklet.ports import ObjectInfo
from sparklet.spark.script import Script

Origin = tuple[str, int]  # the address of the input that a Spark task read, "" if unknown; the number of its rows
REMEDY = "each output needs tasks of Spark that read one input and no shuffle, or one input a shard (--max-objects 1)"
_TASK = re.compile(r"part-(\d+)-[0-9a-f-]{36}")


def read_origins(folder: Path, objects: Mapping[str, str], script: Script) -> dict[str, Origin]:
    """Read the origins of Spark tasks from ``AttemptCommit``'s files in ``folder``; keys are prefixes of output files.

    ``objects`` has the addresses of inputs by bucket and key, as Spark reads them. Raises MixedInputsError if a task
    has read several inputs, or none; it names the line of the script that may be the cause.
    """
    origins = dict[str, Origin]()
    for path in folder.iterdir():
        # Three fields for each task: its number, the key of its input, and its rows.
        words = path.read_text(encoding="utf-8").split("\0")
        for task, key, rows in zip(words[::3], words[1::3], words[2::3], strict=True):
            origins[f"part-{int(task):05d}-{path.name}"] = objects.get(key, ""), int(rows)
    # If there is one input, all rows are from it, whatever a task has read.
    if len(set(objects.values())) > 1 and not all(uri for uri, _ in origins.values()):
        line, method = script.mixing
        hint = f"; line {line} has {method}()" if line else ""
        raise MixedInputsError(f"the script wrote rows of several inputs, or of none, in one task{hint}: {REMEDY}")
    return origins


def outputs_by_input(
    run: Run, shard: int, files: Mapping[str, ObjectInfo], inputs: Iterable[InputObject], origins: Mapping[str, Origin]
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Return the names of staged ``files`` below the run's output, and a document of what became of each input.

    Files and names are given by paths that begin with ``/``. A file without rows gets no name if the run wants no such
    files. Raises MixedInputsError if the input of a file is unknown; PlanError if two files would have the same name,
    or if an input of a strict run has several files.
    """
    items = {item.uri: item for item in inputs}
    only_uri = next(iter(items)) if len(items) == 1 else ""
    paths_of, rows, counted_tasks = {uri: list[str]() for uri in items}, Counter[str](), set[str]()
    for path in files:
        match = _TASK.match(path.rpartition("/")[2])
        task = match[0] if match else ""
        origin_uri, task_rows = origins.get(task, ("", 0))
        if task in origins and not task_rows and run.options.empty_outputs == "none":
            continue
        uri = only_uri or origin_uri
        if uri not in items:
            raise MixedInputsError(f"the input from which {path[1:]} was made is unknown: {REMEDY}")
        paths_of[uri].append(path)
        rows[uri] += 0 if task in counted_tasks else task_rows
        counted_tasks.add(task)
    names, uri_by_name = dict[str, str](), dict[str, str]()
    for uri, paths in paths_of.items():
        names |= _output_names(run, shard, items[uri], paths)
        for path in paths:
            if (other := uri_by_name.setdefault(names[path].casefold(), uri)) != uri:
                raise PlanError(f"the outputs of {other} and {uri} would both be {names[path]}: {TELL_APART}")
    results = [
        {
            "shard": shard,
            "input": uri,
            "outputs": [f"{run.output_uri.rstrip('/')}/{names[path]}" for path in paths],
            "rows": rows[uri],
            "bytes": sum(files[path].size_bytes for path in paths),
        }
        for uri, paths in paths_of.items()
    ]
    return names, results


def _output_names(run: Run, shard: int, item: InputObject, paths: list[str]) -> dict[str, str]:
    """The names of one input's files. A file in a folder keeps its path, below a folder named after the input.

    Several files with the same suffix get their number behind the input's name, or their own name if it is not Spark's.
    """
    part = f"-{shard:06d}" if item.slice else ""  # other shards have the other slices of the object
    name_of = partial(output_name, run.run_id, run.options, run.inputs, item)
    names, by_suffix = dict[str, str](), defaultdict[str, list[str]](list)
    for path in sorted(paths):
        folder, _, name = path.rpartition("/")
        if folder:
            names[path] = f"{name_of()}{path}"
        else:
            by_suffix[suffix_of(name)].append(path)
    for suffix, same_suffix in by_suffix.items():
        if len(same_suffix) > 1 and run.options.strict:
            raise PlanError(
                f"{item.uri} has {len(same_suffix)} outputs, {', '.join(same_suffix[:3])} (--strict refuses that)"
            )
        for number, path in enumerate(same_suffix, 1):
            file_part = f"-{number:05d}" if _TASK.match(path[1:]) else f"-{path[1:].removesuffix(suffix)}"
            names[path] = name_of(part + file_part if len(same_suffix) > 1 else part, suffix)
    return names
