"""What a client wants of the local stack, and what one is told of the stack that runs."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparklet import __version__
from sparklet.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """What a client wants of the stack; what runs already wins, see ``LocalStack.differences``."""

    state_dir: Path
    workers: int = 2
    timeout_s: int = 900  # of one shard
    memory_mb: int = 3008  # of one worker
    runner: str = "warm"
    processing: bool = True  # False: only read; messages and schedules rest unless somebody else wants them
    keep: bool = False  # the stack outlives its clients, until it is stopped
    max_receive_count: int = 20
    worker_env: Mapping[str, str] = field(default_factory=dict)
    handlers: Mapping[str, str] = field(default_factory=dict)  # dotted, by logical id, in place of the template's own

    def __post_init__(self) -> None:
        for name, most in (("workers", 1000), ("timeout_s", 7200), ("memory_mb", 10240), ("max_receive_count", 60)):
            if not 1 <= (value := getattr(self, name)) <= most:
                raise SettingsError(f"{name} is {value}; it must lie between 1 and {most}")
        if self.runner not in ("warm", "submit"):
            raise SettingsError(f"runner is {self.runner!r}; it must be warm or submit")

    def order(self) -> dict[str, Any]:
        """What the host is told, and what two clients must agree on to share a stack."""
        from sparklet.local.local_template import load_template, to_json

        return {
            "workers": self.workers,
            "timeout_s": self.timeout_s,
            "memory_mb": self.memory_mb,
            "runner": self.runner,
            "processing": self.processing,
            "max_receive_count": self.max_receive_count,
            "worker_env": dict(self.worker_env),
            "handlers": dict(self.handlers),
            "version": f"{__version__}, template {hashlib.sha256(to_json(load_template()).encode()).hexdigest()[:12]}",
        }


@dataclass(frozen=True, slots=True)
class StackInfo:
    """A stack that runs."""

    endpoint_url: str
    region: str
    bucket: str
    queue_url: str
    dlq_url: str
    ledger_table: str
    worker_function: str
    checker_function: str
    dlq_function: str
    loop_machine: str
    map_machine: str
    host_pid: int
    workers: int
    timeout_s: int
    memory_mb: int
    runner: str
    log_dir: Path  # a file for each worker process; the ledger's log_stream names it
    env: Mapping[str, str]  # makes any AWS library speak to this stack and nothing else
