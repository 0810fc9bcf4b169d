"""Which input each file of an attempt is of, and what became of each input (docs/decisions/0083)."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sparklet.errors import MixedInputsError
from sparklet.model import InputObject, Run
from sparklet.planning.outputs import input_place
from sparklet.ports import ObjectInfo

Origin = tuple[str, int]  # the input's address, "" if nobody can tell; the rows of the task
EMPTY = "/_empty"  # a staged file of no bytes, published for each input without rows
REMEDY = "each output needs tasks of Spark that read one input and no shuffle, or one input a shard (--max-objects 1)"
_TASK = re.compile(r"part-(\d+)-[0-9a-f-]{36}")
_MIXING = re.compile(  # not the join of a text or of paths
    r"(?<=\.)(?<![\"']\.)(?<!path\.)(agg|coalesce|cache|createDataFrame|distinct|drop_?[dD]uplicates|except\w*|group\w*"
    r"|intersect\w*|join|limit|orderBy|persist|pivot|repartition\w*|sort|sortBy\w*|subtract|toDF)\("
)


def told_origins(folder: Path, objects: Mapping[str, str], source: str) -> dict[str, Origin]:
    """By the beginnings of names of files, what ``AttemptCommit`` has told of the tasks that wrote them.

    ``objects``: the addresses of inputs by bucket and key, as Spark reads them. MixedInputsError, with a line of the
    script that may be why, if a task has read several, or none.
    """
    found = dict[str, Origin]()
    for path in folder.iterdir():
        words = path.read_text(encoding="utf-8").split("\0")
        for task, key, rows in zip(words[::3], words[1::3], words[2::3], strict=True):
            found[f"part-{int(task):05d}-{path.name}"] = objects.get(key, ""), int(rows)
    if len(set(objects.values())) > 1 and not all(uri for uri, _ in found.values()):
        lines = ((number, _MIXING.search(line)) for number, line in enumerate(source.splitlines(), 1))
        place = next((f"; line {number} has {mixing[1]}()" for number, mixing in lines if mixing), "")
        raise MixedInputsError(f"the script wrote rows of several inputs, or of none, in one task{place}: {REMEDY}")
    return found


def by_input(
    run: Run, shard: int, files: Mapping[str, ObjectInfo], inputs: Iterable[InputObject], told: Mapping[str, Origin]
) -> tuple[dict[str, list[str]], list[dict[str, Any]]]:
    """Where staged ``files`` are published below the run's output, by their paths from ``/`` on; what inputs became.

    MixedInputsError if nobody can tell of which input a file is.
    """
    outputs = {item.uri: input_place(item.object_uri, run.inputs) for item in inputs}
    only, base = next(iter(outputs)) if len(outputs) == 1 else "", f"{run.output_uri.rstrip('/')}/"
    become: dict[str, dict[str, Any]] = {
        uri: {"shard": shard, "input": uri, "output": base + place, "rows": 0, "bytes": 0, "files": 0}
        for uri, place in outputs.items()
    }
    own = f"{run.identity}_{shard:06d}"
    places, counted = dict[str, list[str]](), set[str]()
    for path, info in files.items():
        folder, _, name = path.rpartition("/")
        task = found[0] if (found := _TASK.match(name)) else ""
        uri, rows = told.get(task, ("", 0))
        if (uri := only or uri) not in become:
            raise MixedInputsError(f"nobody can tell of which input {path[1:]} is: {REMEDY}")
        places[path] = [f"/{outputs[uri]}{folder}/part-{own}-{name.removeprefix('part-')}"]
        for what, more in (("bytes", info.size_bytes), ("files", 1), ("rows", 0 if task in counted else rows)):
            become[uri][what] += more
        counted.add(task)
    filled = {outputs[uri] for uri, counts in become.items() if counts["files"]}
    if without := [place for place in dict.fromkeys(outputs.values()) if place not in filled]:
        places[EMPTY] = [f"/{place}{EMPTY}-{own}" for place in without]
    return places, list(become.values())
