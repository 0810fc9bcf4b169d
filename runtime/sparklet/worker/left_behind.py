"""Finds work of a script that is lost with the task, or that each shard of the run repeats.

Tables and folders with relative paths are in the task's own folder, which is deleted after the task. On EMR, Glue or a
laptop they would stay. So a script that wrote only to its folder has lost its work. A script that reads and writes
fixed addresses does the same work in each shard.

A script is judged by its acts, which Spark's side (``TaskS3A``, ``InferredTypes``) and its process (``script_acts``)
have written into the task's file ``seen``. Some acts cannot be observed, such as writes to a database. The script's
text is searched for them, so that no script is refused that may have done its work in such a place.
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

_SPARKS_OWN_FOLDERS = re.compile(r"(spark|blockmgr|artifacts)-.*|hadoop|hive.*|py-files|metastore_db|rdd-\d+|_.*|\..*")
_OUTPUT_ENTRIES = re.compile(r"_SUCCESS|_delta_log|part-.*")


@dataclass(frozen=True)
class Acts:
    """What a script and Spark have done in a task: for each act the places, which are addresses or local paths."""

    seen: Mapping[str, list[str]]
    script: Script

    @classmethod
    def read(cls, path: Path, script: Script) -> "Acts":
        """Read the acts from the task's file ``seen``."""
        seen = defaultdict[str, list[str]](list)
        for line in path.read_bytes().splitlines() if path.exists() else ():  # the script may have deleted the file
            with suppress(ValueError):  # a line is cut off if the disk was full
                act = json.loads(line)
                seen[act["seen"]] += [act["place"]] if "place" in act else []
        return cls(dict(seen), script)

    def has(self, *acts: str) -> bool:
        """Whether at least one of these acts was done."""
        return not self.seen.keys().isdisjoint(acts)

    def places(self, act: str) -> list[str]:
        """Where this act was done."""
        return self.seen.get(act, [])

    @property
    def may_be_incomplete(self) -> bool:
        """Whether the script may have read or written something that cannot be observed, such as a database."""
        return self.has(ELSEWHERE) or self.script.may_reach_unobserved

    def has_read_event_or_output(self, *, in_arguments: bool) -> bool:
        """Whether the script has read its event or its output's address; arguments count if ``in_arguments``."""
        return self.has(ASKED, ASKED_OUTPUT) or (in_arguments and self.has(ARGUMENTS))

    def has_read_event(self, *, in_arguments: bool) -> bool:
        """Whether the script has read its event or its inputs' addresses; arguments count if ``in_arguments``."""
        return self.has(ASKED) or (in_arguments and self.has(ARGUMENTS))


def left_behind_names(folder: Path) -> list[str]:
    """The tables, as ``database.table``, and the folders that Spark wrote below a task's folder."""
    try:
        tables = [path.name for path in sorted((folder / WAREHOUSE).glob("*")) if path.suffix != ".db"]
        tables += [f"{path.parent.stem}.{path.name}" for path in sorted((folder / WAREHOUSE).glob("*.db/*"))]
        return [*tables, *(str(path.relative_to(folder)) for path in _folders(folder, MAX_DEPTH))]
    except OSError:  # the script has deleted the folder, or taken away our permission to read it
        return []


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    """The folders that Spark wrote for the script below ``folder``, at most ``depth`` levels further down."""
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.is_symlink() or path.name == WAREHOUSE or _SPARKS_OWN_FOLDERS.fullmatch(path.name):
            continue
        if any(_OUTPUT_ENTRIES.fullmatch(entry.name) for entry in path.iterdir()):
            yield path
        elif depth:
            yield from _folders(path, depth - 1)


def left_behind_message(names: list[str], acts: Acts, work: Path) -> tuple[str, bool]:
    """The message on the names that a script left behind in ``work``, and whether they are its lost work.

    They are not if the script has read each name again, or if it may have written to a place that is not observed.
    """
    lines_with = acts.script.lines_with
    lines = dict[str, list[int]]()
    for name in names:
        last_part = name.rpartition("/")[2]
        # The script may have set the database on another line, so the table is also searched for alone.
        lines[name] = lines_with(last_part) or lines_with(last_part.rpartition(".")[2])
    listing = ", ".join(f"{name}{f' (line {numbers[0]})' if numbers else ''}" for name, numbers in lines.items())
    read_paths = [f"{path}/" for path in acts.places(READ)]

    def is_read(name: str) -> bool:
        database, _, table = name.rpartition(".")
        table_folders = [f"{WAREHOUSE}/{name}/", f"{WAREHOUSE}/{database}.db/{table}/"]
        folders = [f"{work / folder}/" for folder in (name, *table_folders)]
        return acts.script.may_read_again(lines[name]) or any(
            path.startswith(folder) for path in read_paths for folder in folders
        )

    return (
        f"the script wrote {listing} into the task's own folder, which is deleted after the task: write to job.output, "
        "OUTPUT_PATH or {output}, to a table by job.append, or to an address such as s3://…",
        not acts.may_be_incomplete and not all(map(is_read, names)),
    )


def repetition_message(acts: Acts, *, has_read_event: bool) -> tuple[str, bool]:
    """The message that each shard of the run does the same, "" if that is not so; and whether it is certain."""
    if has_read_event or acts.has("input", "part"):
        return "", False
    if acts.has("output"):
        return f"the script asks for nothing of its shard but the output; {SAME_IN_EACH}: {OF_THE_RUN}", False
    repetition = f"asks for nothing of its shard; {SAME_IN_EACH}: {OF_THE_RUN}"
    if acts.has("written") and not acts.may_be_incomplete:
        return f"the script writes to addresses of its own and {repetition}", True
    return (f"the script {repetition}", False) if acts.has("written", ELSEWHERE) else ("", False)


def changed_addresses(acts: Acts) -> Mapping[str, bool]:
    """The addresses outside the shard's output that a task has written, with whether it replaced what was there."""
    replaced = acts.places("deleted")
    return {address: address in replaced for address in dict.fromkeys([*acts.places("written"), *replaced])}


def read_by_name_message(acts: Acts, is_planned: Callable[[str], bool]) -> str:
    """The message that the script read an input of another shard by its name; "" if it read none.

    ``is_planned`` tells whether an address is an input of the run.
    """
    if not (inputs := [address for path in acts.places("named") if is_planned(address := f"s3://{path}")]):
        return ""
    return (
        f"the script read {inputs[0]} by its name, an input of another shard: its rows come from each shard that reads "
        "it. Read the input's folder itself, let one shard have all inputs (--max-objects, --shard-size), or keep what "
        "each shard needs out of the run's input"
    )


def unregistered_tables_message(acts: Acts) -> str:
    """The message on tables outside the task's folder that are only in the task's own catalog; "" if there are none."""
    dropped_names = {line.rstrip() for line in acts.places("dropped")}
    tables = dict(line.split(" ", 1) for line in acts.places("table"))
    names = [f"{name} ({location})" for name, location in tables.items() if name not in dropped_names]
    if not names:
        return ""
    return (
        f"the table {', '.join(names)} is only in the task's own catalog, which is lost after the task: no other job "
        "finds it by its name. Write by job.append, name a catalog (docs/guide/tables.md), or read it by its address"
    )


def checkpoint_message(acts: Acts) -> str:
    """The message on a stream that writes to the shard's output with its checkpoint outside; "" if there is none."""
    places = {path.rpartition("/")[0] for path in acts.places("written") if path.endswith(("/commits", "/offsets"))}
    if not (places and acts.has("output")):
        return ""
    return (
        f"the checkpoint of a stream, s3://{min(places)}, stays if an attempt fails, so the next attempt skips what "
        "the failed one has read: keep the checkpoint in a folder with a relative path, or below the output"
    )
