"""How do concurrent committers get along? 1 to 8 processes commit to one table at once, each several times.

They use the committer's own code, as scripts do with ``commit="direct"``, on small Parquet files that lie there
already; they are processes with a JVM, whose start counts. A try that another committer overtook is a conflict: it
looks the id up, and tries again.

    python -m benchmarks.chaos.committers [--committers 1 2 4 8] [--commits 5] [--rounds 5] [--out …]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.chaos.__main__ import names
from benchmarks.chaos.proxy import FINE, Fault, Proxy, Request
from benchmarks.chaos.steps import label
from benchmarks.chaos.world import DATA, free_of_aws, say
from benchmarks.comparison import options as rounds_option
from benchmarks.facts import ROOT, facts
from sparklet.aws.clients import AwsClients
from sparklet.aws.object_store import S3ObjectStore
from sparklet.connectors.tables.commit import commit
from sparklet.connectors.tables.declaration import Commit, Declaration
from sparklet.connectors.tables.delta import stage
from sparklet.connectors.tables.layout import layout_of
from sparklet.job import Job
from sparklet.job.errors import CommitConflictError
from sparklet.job.fields import Table
from sparklet.job.session import JARS
from sparklet.local.jars import ensure_jars
from sparklet.local.spark_installation import jar_cache, stack_file
from tests.stand_ins.ministack import ministack

TRIED = {"delta": "PUT Delta log", "iceberg": "PUT Iceberg metadata"}  # what each try of a commit writes
ROWS = 10


def main() -> None:
    """Measure, print, write."""
    parser = rounds_option(__doc__)
    parser.add_argument("--committers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--commits", type=int, default=5, help="of each committer")
    parser.add_argument("--formats", type=names(tuple(TRIED)), default=tuple(TRIED))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "committers.json")
    parser.add_argument("--child", nargs=3, metavar=("TABLE", "NUMBER", "COMMITS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _commit(options.child[0], int(options.child[1]), int(options.child[2]))
        return
    free_of_aws()
    jars = ensure_jars(stack_file(), jar_cache(), ["s3a", "delta", "iceberg", "sqlite"], progress=print)
    os.environ.setdefault(JARS, os.pathsep.join(map(str, jars)))
    figures = []
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory()))
        at = _Place(folder, closing.enter_context(ministack(folder)))
        closing.callback(at.proxy.close)
        for number, format_, committers in product(range(options.rounds), options.formats, options.committers):
            figures.append(at.measured(format_, committers, options.commits, number))
            say(json.dumps(figures[-1]))
    document = {"benchmark": "committers", "figures": figures, **facts()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=1) + "\n")


class _Place:
    """A stand-in, seen through the counting proxy."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.proxy, self._steps, self._folder = Proxy(endpoint), Counter[str](), folder
        keys = {"AWS_ACCESS_KEY_ID": "000000000000", "AWS_SECRET_ACCESS_KEY": "none", "AWS_REGION": "us-east-1"}
        os.environ.update(keys | {"AWS_ENDPOINT_URL": self.proxy.listen(self._count), "AWS_ALLOW_HTTP": "true"})
        self._store = S3ObjectStore(AwsClients(endpoint_url=endpoint, region="us-east-1"))
        AwsClients(endpoint_url=endpoint, region="us-east-1").s3.create_bucket(Bucket=DATA)

    def _count(self, request: Request) -> Fault:
        self._steps[label(request)] += 1
        return FINE

    def measured(self, format_: str, committers: int, commits: int, number: int) -> dict[str, Any]:
        """So many committers at once, and what they needed; a round's number, each has tables of its own."""
        name = f"{format_}_{committers}_{number}"
        table = f"iceberg:db.{name}" if format_ == "iceberg" else f"delta:s3://{DATA}/{name}"
        prefix = "PYICEBERG_CATALOG__ICEBERG__"
        catalog = {"TYPE": "sql", "URI": f"sqlite:///{self._folder}/{name}.db", "WAREHOUSE": f"s3://{DATA}/{name}"}
        os.environ.update({f"{prefix}{key}": value for key, value in catalog.items()})
        self._stage(name, committers, commits)
        command = [sys.executable, "-m", "benchmarks.chaos.committers", "--child", table]  # pyiceberg reads them once
        subprocess.run([*command, str(committers), "1"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)  # the table
        self._steps.clear()
        started_s = time.perf_counter()
        children = [
            subprocess.Popen([*command, str(number), str(commits)], cwd=ROOT, stdout=subprocess.PIPE)
            for number in range(committers)
        ]
        told = [json.loads(child.communicate()[0]) for child in children]
        took_s = time.perf_counter() - started_s
        made, tries = sum(map(len, told)), self._steps[TRIED[format_]]
        slowest_s = max(second for each in told for second in each)
        return {
            "format": format_,
            "committers": committers,
            "commits": made,
            "gave_up": committers * commits - made,
            "conflicts": tries - made,
            "seconds": round(took_s, 2),
            "slowest_commit_s": round(slowest_s, 2),
            "requests": self._steps.total(),
        }

    def _stage(self, name: str, committers: int, commits: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for number in range(committers + 1):
            for place in range(commits):
                rows = pa.table({"id": pa.array(range(ROWS), pa.int32()), "name": [f"{number} {place}"] * ROWS})
                buffer = pa.BufferOutputStream()
                pq.write_table(rows, buffer)
                self._store.put(f"s3://{DATA}/{name}/files/{number}-{place}.parquet", buffer.getvalue().to_pybytes())


def _commit(table: str, number: int, commits: int) -> None:
    """Commit the files of one committer, one after the other; print how long each took."""
    parsed = Table.parse(table)
    name = parsed.place.rpartition("/")[2].rpartition(".")[2]
    store, seconds = S3ObjectStore(AwsClients()), list[float]()
    spark: Any = Job().spark("committer")
    for place in range(commits):
        folder, file = f"s3://{DATA}/{name}/files", f"{number}-{place}.parquet"
        files = ((file, store.head(f"{folder}/{file}").size_bytes),)
        write = Declaration(parsed, "append", "1", folder, files, rows=ROWS, shard=number)
        rows = spark.read.parquet(f"{folder}/{file}")  # each format describes files that it has written itself
        write = stage(rows, replace(write, files=())) if parsed.format == "delta" else _staged(rows, write)
        started_s = time.perf_counter()
        with suppress(CommitConflictError):  # others were faster for two minutes
            commit(Commit(f"{number}/{place}", parsed, "append", (write,)), spark)
            seconds.append(time.perf_counter() - started_s)
    print(json.dumps(seconds))


def _staged(frame: Any, write: Declaration) -> Declaration:
    layout = layout_of(frame, write)
    assert layout.draft
    folder = f"{layout.root}/sparklet/direct/{uuid.uuid4().hex}"
    rows, files, described = layout.draft.stage(frame, folder)
    return replace(write, folder=folder, files=files, rows=rows, described=described, seen=layout.seen)


if __name__ == "__main__":
    main()
