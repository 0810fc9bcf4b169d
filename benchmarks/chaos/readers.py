"""The campaign's side of the independent readers: one process that reads Delta and Iceberg, one with Spark for Hudi."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos.world import World
from benchmarks.facts import ROOT
from sparklet.local.environment import host_env

READER = Path(os.environ.get("CHAOS_READER", ROOT / ".venv-reader" / "bin" / "python"))
ENGINES = {"delta": ("duckdb", "delta-rs"), "iceberg": ("duckdb", "pyiceberg"), "hudi": ("spark",)}
Row = tuple[int, str]


class CannotReadError(Exception):
    """A reader found the table unreadable."""


@dataclass
class Readers:
    """Reads tables; the processes are started when they are first needed."""

    world: World
    _processes: dict[str, "subprocess.Popen[str]"] = field(default_factory=dict)
    _locks: Mapping[str, threading.Lock] = field(
        default_factory=lambda: {"reader": threading.Lock(), "hudi_reader": threading.Lock()}
    )

    def read(self, engine: str, format_: str, place: str, catalog: str = "") -> "Counter[Row] | None":
        """All rows of a table; None if there is none. Raises CannotReadError with the engine's words."""
        request = {"engine": engine, "format": format_, "place": place, "catalog": catalog}
        name = "hudi_reader" if engine == "spark" else "reader"
        with self._locks[name]:
            process = self._process(name)
            assert process.stdin
            assert process.stdout
            print(json.dumps(request), file=process.stdin, flush=True)
            answer: dict[str, Any] = json.loads(process.stdout.readline() or '{"error": "the reader ended"}')
        if "error" in answer:
            raise CannotReadError(f"{engine}: {answer['error']}")
        rows = answer["rows"]
        return None if rows is None else Counter((row[0], row[1]) for row in rows)

    def _process(self, name: str) -> "subprocess.Popen[str]":
        if name not in self._processes:
            mine = name == "hudi_reader"
            script = Path(__file__).with_name(f"{name}.py")
            env = {**host_env(), **self.world.info.env, "AWS_ALLOW_HTTP": "true"}
            with (self.world.folder / f"{name}.log").open("wb") as log:
                self._processes[name] = subprocess.Popen(
                    [sys.executable if mine else str(READER), str(script)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env={**env, **self.world.worker_env} if mine else env,
                    start_new_session=True,
                )
        return self._processes[name]

    def close(self) -> None:
        """End the processes."""
        for process in self._processes.values():
            process.communicate(timeout=60)
