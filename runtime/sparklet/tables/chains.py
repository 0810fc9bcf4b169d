"""Which records of a stream are in a table, exactly, in whatever batches they come.

What one writer has committed of one shard (Kinesis), partition (Kafka) or stream (DynamoDB) is a *chain*: a linked list
of files below the table's root. A *link* has the numbers of one commit's records, and the ranges of up to MAX_RANGES
commits before it. Each commit of the table itself holds the number of the last link, and replaces the one that its
writer has read, or fails: so rows and records become the table's in one step.

Ranges alone do not tell: with a parallelization factor batches of one shard interleave, and a batch that comes again
may be cut elsewhere. They tell which links to read: usually the last one alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping
from functools import lru_cache
from itertools import accumulate
from typing import Any

from pyarrow import fs

from sparklet.job.errors import CommitStateUnknownError
from sparklet.tables.staged_files import file_system, read_text

CHAIN = "records/"  # how the names of chains begin
CHANGES = f"{CHAIN}changes"  # of all commits that replace rows: none is made on one that it has not seen
MAX_RANGES = 100


def found(folder: str, name: str, records: Collection[int], table: Any) -> dict[int, int]:
    """Those of a batch's records that are in the table, each with the link of its chain that has it.

    Links whose commits were rolled back stay in the chain, and do not count.
    """
    wanted, links, head = frozenset(records), dict[int, int](), table.made(name)
    at = head and head[1]
    while at is not None:
        link = _read(folder, at)[name]
        for first, last, number in link["ranges"]:
            if first <= max(wanted) and last >= min(wanted):
                there = wanted.intersection(accumulate(_read(folder, number)[name]["steps"]))
                if there and table.holds(name, number):
                    links.update(dict.fromkeys(there, number))
        at = link["before"] if link["last_before"] >= min(wanted) else None
    return links


def extend(folder: str, records: Mapping[str, Collection[int]], table: Any) -> dict[str, int]:
    """Store a link behind the last one of each chain; the names and numbers that the commit has to set."""
    number = random.getrandbits(60)
    links = {name: _link(folder, name, sorted(records[name]), table.made(name), number) for name in records}
    system, path = file_system(_uri(folder, number))
    if isinstance(system, fs.LocalFileSystem):
        system.create_dir(path.rpartition("/")[0], recursive=True)
    with system.open_output_stream(path) as stream:  # which compresses, as the name says
        stream.write(json.dumps(links).encode())
    return dict.fromkeys(records, number)


def _link(folder: str, name: str, records: list[int], head: tuple[str, int] | None, number: int) -> dict[str, Any]:
    """``ranges``: first, last and number of links, its own the last; ``before``: the link with those before."""
    link = _read(folder, head[1])[name] if head else {"ranges": [], "before": None, "last_before": -1}
    if head and len(link["ranges"]) >= MAX_RANGES:
        last = max(link["last_before"], *(last for _, last, _ in link["ranges"]))
        link = {"ranges": [], "before": head[1], "last_before": last}
    steps = [later - earlier for earlier, later in zip([0, *records], records)]  # noqa: B905 - Python 3.9
    return {**link, "ranges": [*link["ranges"], [records[0], records[-1], number]], "steps": steps}


def _uri(folder: str, number: int) -> str:
    return f"{folder}/{number:015x}.json.gz"


@lru_cache(maxsize=8)
def _read(folder: str, number: int) -> Any:
    """The links of a commit, by chain; they never change."""
    uri = _uri(folder, number)
    try:
        return json.loads(read_text(uri))
    except FileNotFoundError as error:
        raise CommitStateUnknownError(f"{uri} is gone, and with it which records of a stream the table has") from error
