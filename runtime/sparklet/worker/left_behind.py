"""Work that a script has done for nothing, as often as there are shards, or nowhere.

Tables and folders of relative paths lie in the task's own folder, and end with it. On EMR, Glue or a laptop both would
stay, so a script that wrote there and nowhere else has lost its work. A script with addresses of its own does all of
them in each shard.

A script is judged by its acts, which Spark's side (``TaskS3A``, ``InferredTypes``) and its process (``script_acts``)
have left in the task's file ``seen``. What nobody sees, such as a database, is looked for in its text, so that no
script is refused for what it may have done there.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sparklet.spark.script import Script
from sparklet.spark.script_acts import ARGUMENTS, ASKED, ASKED_OUTPUT, ELSEWHERE, READ

WAREHOUSE = "spark-warehouse"
MAX_DEPTH = 4
SAME_IN_EACH = "none of the shard's inputs was read, so each shard does the same"
OF_THE_RUN = (
    "let the run's arguments name {input} and {output}, read INPUT_PATH and write to OUTPUT_PATH, or run it once by "
    "sparklet invoke"
)

_OF_SPARK = re.compile(r"(spark|blockmgr|artifacts)-.*|hadoop|hive.*|py-files|metastore_db|rdd-\d+|_.*|\..*")
_WRITTEN = re.compile(r"_SUCCESS|_delta_log|part-.*")


@dataclass(frozen=True)
class Acts:
    """What a script and Spark have done in a task: by each act its places, addresses or local paths."""

    seen: Mapping[str, list[str]]
    script: Script

    @classmethod
    def read(cls, path: Path, script: Script) -> "Acts":
        """Those of the file ``seen``."""
        seen = defaultdict[str, list[str]](list)
        for line in path.read_bytes().splitlines() if path.exists() else ():  # the script may have deleted it
            with suppress(ValueError):  # there was no room for the whole line
                act = json.loads(line)
                seen[act["seen"]] += [act["place"]] if "place" in act else []
        return cls(dict(seen), script)

    def has(self, *acts: str) -> bool:
        """Whether one of these was seen."""
        return not self.seen.keys().isdisjoint(acts)

    def places(self, act: str) -> list[str]:
        """Where it was seen."""
        return self.seen.get(act, [])

    @property
    def elsewhere(self) -> bool:
        """Whether the script may have written to, or read from, what nobody sees."""
        return self.has(ELSEWHERE) or self.script.may_reach_unseen

    def asked(self, *, of_arguments: bool) -> bool:
        """Whether the script has asked for its event, or its output.

        ``of_arguments``: whether its arguments have something of these.
        """
        return self.has(ASKED, ASKED_OUTPUT) or (of_arguments and self.has(ARGUMENTS))

    def asked_more(self, *, of_arguments: bool) -> bool:
        """The same without the output, which alone tells no shard from another one."""
        return self.has(ASKED) or (of_arguments and self.has(ARGUMENTS))


def left_behind(folder: Path) -> list[str]:
    """The tables, as ``database.table``, and the folders that Spark wrote below a task's folder."""
    try:
        tables = [path.name for path in sorted((folder / WAREHOUSE).glob("*")) if path.suffix != ".db"]
        tables += [f"{path.parent.stem}.{path.name}" for path in sorted((folder / WAREHOUSE).glob("*.db/*"))]
        return [*tables, *(str(path.relative_to(folder)) for path in _folders(folder, MAX_DEPTH))]
    except OSError:  # the script has deleted its folder, or closed it to us
        return []


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.is_symlink() or path.name == WAREHOUSE or _OF_SPARK.fullmatch(path.name):
            continue
        if any(_WRITTEN.fullmatch(entry.name) for entry in path.iterdir()):
            yield path
        elif depth:
            yield from _folders(path, depth - 1)


def told(names: list[str], acts: Acts, work: Path) -> tuple[str, bool]:
    """What to say of names that were left behind in ``work``, and whether the script's work is lost if it did no other.

    It is not if each was read again, or if the script may have written to what nobody sees.
    """
    last = {name: name.rpartition("/")[2] for name in names}  # of a path; a table's database may be named elsewhere
    lines_with = acts.script.lines_with
    lines = {name: lines_with(word) or lines_with(word.rpartition(".")[2]) for name, word in last.items()}
    listing = ", ".join(f"{name}{f' (line {numbers[0]})' if numbers else ''}" for name, numbers in lines.items())
    read = [f"{path}/" for path in acts.places(READ)]

    def is_read(name: str) -> bool:
        database, _, table = name.rpartition(".")
        of_tables = [f"{WAREHOUSE}/{name}/", f"{WAREHOUSE}/{database}.db/{table}/"]
        folders = [f"{work / folder}/" for folder in (name, *of_tables)]
        return acts.script.may_read_again(lines[name]) or any(
            path.startswith(folder) for path in read for folder in folders
        )

    return (
        f"the script wrote {listing} into the task's own folder, which ends with the task: write to job.output, "
        "OUTPUT_PATH or {output}, to a table by job.append, or to an address such as s3://…",
        not acts.elsewhere and not all(map(is_read, names)),
    )


def repeats(acts: Acts, *, asked: bool) -> tuple[str, bool]:
    """Why each shard of a run does the same, or "", and whether that was seen.

    ``asked``: whether the script has asked for something of its shard, other than the output.
    """
    if asked or acts.has("input", "part"):
        return "", False
    if acts.has("output"):
        return f"the script asks for nothing of its shard but the output; {SAME_IN_EACH}: {OF_THE_RUN}", False
    what = f"the script asks for nothing of its shard, {SAME_IN_EACH}: {OF_THE_RUN}"
    if acts.has("written") and not acts.elsewhere:
        return f"the script has addresses of its own, and {what}", True
    return (what, False) if acts.has("written", ELSEWHERE) else ("", False)


def changed_addresses(acts: Acts) -> Mapping[str, bool]:
    """The addresses of its own that a task has written to, and whether it has replaced what was there."""
    replaced = acts.places("deleted")
    return {address: address in replaced for address in dict.fromkeys([*acts.places("written"), *replaced])}


def read_by_name(acts: Acts, is_planned: Callable[[str], bool]) -> str:
    """What to say of a file of the run's input that the script named, and that is no input of its shard; "" without.

    ``is_planned``: whether the run plans an address as input, so that another shard has it.
    """
    if not (others := [address for path in acts.places("named") if is_planned(address := f"s3://{path}")]):
        return ""
    return (
        f"the script read {others[0]} by its name, an input of another shard: its rows come from each shard that reads "
        "it. Read the input's folder itself, let one shard have all inputs (--max-objects, --shard-size), or keep what "
        "each shard needs out of the run's input"
    )


def unregistered(acts: Acts) -> str:
    """What to say of tables elsewhere that only the task's own catalog knows; "" without one."""
    dropped = {line.rstrip() for line in acts.places("dropped")}
    tables = dict(line.split(" ", 1) for line in acts.places("table"))
    names = [f"{name} ({location})" for name, location in tables.items() if name not in dropped]
    if not names:
        return ""
    return (
        f"the table {', '.join(names)} is in the task's own catalog, which ends with the task: no other job finds it "
        "by its name. Write by job.append, name a catalog (docs/guide/tables.md), or read it by its address"
    )


def outliving_checkpoint(acts: Acts) -> str:
    """What to say of a stream into the shard's output whose checkpoint is elsewhere; "" without one."""
    places = {path.rpartition("/")[0] for path in acts.places("written") if path.endswith(("/commits", "/offsets"))}
    if not (places and acts.has("output")):
        return ""
    return (
        f"the checkpoint of a stream, s3://{min(places)}, outlives an attempt that fails, and the next one passes over "
        "what that had read: keep it in a folder of a relative path, or below the output"
    )
