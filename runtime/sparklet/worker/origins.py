"""Which input each file of an attempt is of, and what became of each input (docs/decisions/0083)."""

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

Origin = tuple[str, int]  # the input's address, "" if nobody can tell; the rows of the task
REMEDY = "each output needs tasks of Spark that read one input and no shuffle, or one input a shard (--max-objects 1)"
_TASK = re.compile(r"part-(\d+)-[0-9a-f-]{36}")


def told_origins(folder: Path, objects: Mapping[str, str], script: Script) -> dict[str, Origin]:
    """By the beginnings of names of files, what ``AttemptCommit`` has told of the tasks that wrote them.

    ``objects``: the addresses of inputs by bucket and key, as Spark reads them. MixedInputsError, with a line of the
    script that may be why, if a task has read several, or none.
    """
    origins = dict[str, Origin]()
    for path in folder.iterdir():
        words = path.read_text(encoding="utf-8").split("\0")
        for task, key, rows in zip(words[::3], words[1::3], words[2::3], strict=True):
            origins[f"part-{int(task):05d}-{path.name}"] = objects.get(key, ""), int(rows)
    # With one input all rows are of it, whatever a task has read.
    if len(set(objects.values())) > 1 and not all(uri for uri, _ in origins.values()):
        line, method = script.mixing
        hint = f"; line {line} has {method}()" if line else ""
        raise MixedInputsError(f"the script wrote rows of several inputs, or of none, in one task{hint}: {REMEDY}")
    return origins


def by_input(
    run: Run, shard: int, files: Mapping[str, ObjectInfo], inputs: Iterable[InputObject], origins: Mapping[str, Origin]
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """The names below the run's output of staged ``files``, by their paths from ``/`` on; what inputs became.

    A file without rows has no name if the run wants no such files. MixedInputsError if nobody can tell of which input a
    file is; PlanError if two files would have one name, or if an input of a strict run has several.
    """
    items = {item.uri: item for item in inputs}
    only = next(iter(items)) if len(items) == 1 else ""
    of, rows, counted = {uri: list[str]() for uri in items}, Counter[str](), set[str]()
    for path in files:
        match = _TASK.match(path.rpartition("/")[2])
        task = match[0] if match else ""
        uri, its_rows = origins.get(task, ("", 0))
        if task in origins and not its_rows and run.options.empty_outputs == "none":
            continue
        if (uri := only or uri) not in items:
            raise MixedInputsError(f"nobody can tell of which input {path[1:]} is: {REMEDY}")
        of[uri].append(path)
        rows[uri] += 0 if task in counted else its_rows
        counted.add(task)
    names, met = dict[str, str](), dict[str, str]()
    for uri, paths in of.items():
        names |= _names(run, shard, items[uri], paths)
        for path in paths:
            if (other := met.setdefault(names[path].casefold(), uri)) != uri:
                raise PlanError(f"the outputs of {other} and {uri} would both be {names[path]}: {TELL_APART}")
    become = [
        {
            "shard": shard,
            "input": uri,
            "outputs": [f"{run.output_uri.rstrip('/')}/{names[path]}" for path in paths],
            "rows": rows[uri],
            "bytes": sum(files[path].size_bytes for path in paths),
        }
        for uri, paths in of.items()
    ]
    return names, become


def _names(run: Run, shard: int, item: InputObject, paths: list[str]) -> dict[str, str]:
    """The names of one input's files: what lies in folders of the script's keeps them, below the input's name.

    Of several files with one suffix each has its number behind the name, or its own name, if it is not Spark's.
    """
    part = f"-{shard:06d}" if item.slice else ""  # others have the rest of the object
    named = partial(output_name, run.run_id, run.options, run.inputs, item)
    names, by_suffix = dict[str, str](), defaultdict[str, list[str]](list)
    for path in sorted(paths):
        folder, _, name = path.rpartition("/")
        if folder:
            names[path] = f"{named()}{path}"
        else:
            by_suffix[suffix_of(name)].append(path)
    for suffix, several in by_suffix.items():
        if len(several) > 1 and run.options.strict:
            raise PlanError(f"{item.uri} has {len(several)} outputs, {', '.join(several[:3])} (--strict refuses that)")
        for number, path in enumerate(several, 1):
            file_part = f"-{number:05d}" if _TASK.match(path[1:]) else f"-{path[1:].removesuffix(suffix)}"
            names[path] = named(part + file_part if len(several) > 1 else part, suffix)
    return names
