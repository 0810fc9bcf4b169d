"""A side of a comparison: a local stack that another Python has started, and runs on it until their shards have ended.

The stack's checker is idle, so no run ends and no table is written to.
"""

import json
import os
import re
import site
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparklet.app.costs import load_prices
from sparklet.app.documents import on_disk
from sparklet.app.reporter import Reporter
from sparklet.app.stack import OpenStack, StackSelection, open_stack
from sparklet.app.start import begin, run_request
from sparklet.app.status import view_run
from sparklet.certify.compare import FAILURE, Fact, Staged
from sparklet.certify.staged import read_folder
from sparklet.errors import LocalStackError, ObjectNotFoundError
from sparklet.local.environment import free_port
from sparklet.local.stack import stop
from sparklet.model import SCHEME, Run, ShardRecord, ShardState
from sparklet.owned import delete_tree
from sparklet.worker.measuring import peak_kb

HOST = """
import json, sys, pyspark
from sparklet.client import Stack
with Stack(quiet=True, **json.loads(sys.argv[1])):
    print(pyspark.__version__, flush=True)
    sys.stdin.read()
"""
IDLE = {"CheckerFunction": "sparklet.certify.idle"}
POLL_S, SERVER_POLLS = 0.3, 200
OF_WRITE = ("table", "mode", "keys", "order_by", "merge_schema", "partition_by")


@contextmanager
def side(
    python: Path, state: Path, reporter: Reporter, within_s: float, workers: Mapping[str, Any], sail: Path | None = None
) -> Iterator["Side"]:
    """A stack whose workers have this Python and its Spark, or are clients of Sail."""
    port = free_port()
    remote = {"SPARKLET_SPARK_CONF": json.dumps({"spark.remote": f"sc://127.0.0.1:{port}"})} if sail else {}
    given = {**workers, "state_dir": str(state), "handlers": IDLE, **({"runner": "submit"} if sail else {})}
    command, pipe = [str(python), "-P", "-c", HOST, json.dumps(given)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **remote}) as host:
        if not (version := host.stdout.readline().strip() if host.stdout else ""):
            raise LocalStackError(f"the stack of {python} has not started; its message is above")
        try:
            with open_stack(StackSelection(state_dir=state), reporter, reading=True) as stack, ExitStack() as held:
                server = held.enter_context(_server(sail, port, state)) if sail else None
                if server:
                    held.callback(server.kill)
                told = subprocess.check_output([sail, "--version"], text=True).strip() if sail else f"Spark {version}"
                yield Side(stack, told, reporter, within_s, server)
        finally:
            stop(state)  # and wait, for its files are in use until then


def _server(sail: Path, port: int, state: Path) -> "subprocess.Popen[bytes]":
    """Sail's server; it works in the stack's S3, whose settings this process has while the stack is open."""
    env = {**os.environ, "AWS_ALLOW_HTTP": "true", "PYTHONPATH": os.pathsep.join(site.getsitepackages())}  # for UDFs
    command = [str(sail), "spark", "server", "--port", str(port)]
    with (state / "log" / "sail.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
    for _ in range(SERVER_POLLS):
        with socket.socket() as line:
            if process.poll() is None and not line.connect_ex(("127.0.0.1", port)):
                return process
        time.sleep(POLL_S)
    process.kill()
    raise LocalStackError(f"Sail has not started: {Path(log.name).read_text()[-500:]}")


@dataclass(frozen=True)
class Side:
    """An open stack, whose host has another environment than this process."""

    stack: OpenStack
    version: str
    reporter: Reporter
    within_s: float
    server: "subprocess.Popen[bytes] | None"

    def run(self, options: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any], Staged]:
        """Plan a run, wait for its shards; figures, and what is staged. LocalStackError if they take too long."""
        at, state = self.stack.at, self.stack.state or Path()
        unused = {"run_id": name, "output": str(state / "unused" / name)}
        request = run_request({**options, **unused}, StackSelection(state_dir=state))
        run, end_s = begin(self.stack, request, "queue", self.reporter), time.monotonic() + self.within_s
        while at.ledger.shards.count(name).open:
            self.stack.check()
            if time.monotonic() > end_s:
                raise LocalStackError(f"{options['script']} on {self.version}: not done after {self.within_s:.0f} s")
            time.sleep(POLL_S)
        records: list[ShardRecord] = []
        view = view_run(self.stack, run, load_prices(), records.append)
        figures = {
            "version": self.version,
            "seconds": round(view.found.summary.task_s, 2),
            "memory_mb": max((each.memory_mb or 0 for each in records), default=0) or None,
            "server_mb": (self.server and peak_kb(self.server.pid) // 1024) or None,
            "cost_usd": round(sum(view.costs.values()), 8),
        }
        return figures, self._staged(run, records)

    def _staged(self, run: Run, records: Sequence[ShardRecord]) -> Staged:
        """All that the shards have staged; what lies in a table's own folder is deleted."""
        facts: dict[Fact, str] = {}
        files: dict[str, list[Path]] = defaultdict(list)
        own: list[str] = []
        for record in records:
            place = f"shard {record.number}"
            facts["plan", place, ""] = f"{record.object_count} objects, {record.size_bytes} bytes"
            if record.state is not ShardState.SUCCEEDED:
                facts[FAILURE, place, ""] = f"{record.error_class}: {record.error_message}"
            if given := self._of_run(record, record.answer_file):
                facts["answer", place, ""] = json.dumps(given["answer"])
            for write in self._of_run(record, record.writes_file).get("writes", ()):
                facts["write", place, write["label"]] = json.dumps({each: write[each] for each in OF_WRITE})
                is_own = not write["folder"].startswith(SCHEME) and f"/{run.run_id}/" in write["folder"]
                own += [write["folder"].removeprefix("file://")] if is_own else []
                for path in (f"{write['folder']}/{path}" for path, _ in write["files"]):
                    folder = path.removeprefix(write["folder"]).rpartition("/")[0]
                    file = Path(on_disk(self.stack, path).removeprefix("file://"))
                    files[f"{place}, write {write['label']}{folder}"].append(file)
            staged = re.compile(rf"/shard=[^/]*_{record.number:06d}(?!.*/[_.])((?:/.*)?)/[^/]+$")
            for found in filter(None, (staged.search(each.uri) for each in self.stack.at.store.list(run.output_uri))):
                files[f"{place}, output{found[1]}"].append(Path(on_disk(self.stack, found.string)))
        folders = {place: read_folder(each) for place, each in files.items()}
        for place, dataset in folders.items():
            facts["columns", place, ""] = ", ".join(dataset.names)
            for path, (kind, nullable) in dataset.types.items():
                facts["type", place, path] = kind
                facts["nullability", place, path] = "nullable" if nullable else "not null"
        for folder in own:
            delete_tree(Path(folder))
        return Staged(facts, folders)

    def _of_run(self, record: ShardRecord, file: str) -> Mapping[str, Any]:
        try:
            return json.loads(self.stack.at.store.get(self.stack.at.run_uri(record.run_id, file)))  # type: ignore[no-any-return]
        except ObjectNotFoundError:
            return {}
