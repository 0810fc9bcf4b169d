"""Durations that were measured in a run: from its result files, or from the ledger of the local or a deployed stack."""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from sparklet.app.stack import StackSelection, open_stack
from sparklet.errors import SettingsError
from sparklet.model import ShardState


@dataclass(frozen=True, slots=True)
class Attempt:
    """A shard's last attempt."""

    environment: str  # its log stream
    started_s: float
    took_s: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run's shards took. The first one of an environment is cold: what it took longer is the cold start."""

    seconds: tuple[float, ...]
    cold_start_s: float
    lasted_s: float  # from the first claim to the last end
    environments: int
    gap_s: float  # of an environment, between two shards

    @classmethod
    def of(cls, attempts: Iterable[Attempt]) -> "Measured":
        """From a run's attempts, in any order; SettingsError if there are none."""
        ordered = sorted(attempts, key=lambda each: each.started_s)
        if not ordered:
            raise SettingsError("the run has no shard that succeeded")
        cold: dict[str, Attempt] = {}
        for each in ordered:
            cold.setdefault(each.environment, each)
        gaps = [
            after.started_s - before.started_s - before.took_s
            for name in cold
            for before, after in pairwise(each for each in ordered if each.environment == name)
        ]
        first = {id(each) for each in cold.values()}
        warm = tuple(each.took_s for each in ordered if id(each) not in first) or tuple(each.took_s for each in ordered)
        return cls(
            warm,
            max(0.0, fmean(each.took_s for each in cold.values()) - fmean(warm)),
            max(each.started_s + each.took_s for each in ordered) - ordered[0].started_s,
            len(cold),
            max(0.0, fmean(gaps)) if gaps else 0.0,
        )


class _Progress:
    """Progress of a stack that is opened, on standard error."""

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    warn = say


def measured(run: str, stack: str = "") -> Measured:
    """Of a folder or file with SUCCEEDED_*.json, else of a run's id."""
    path = Path(run)
    if path.exists():
        files = sorted(path.glob("SUCCEEDED_*.json")) if path.is_dir() else [path]
        return Measured.of(_attempt(entry) for file in files for entry in json.loads(file.read_text()))
    with open_stack(StackSelection(stack), _Progress(), looking=True) as opened:
        shards = opened.deployment.ledger.shards.list(run, ShardState.SUCCEEDED)
        return Measured.of(Attempt(each.log_stream, each.started_s, each.took_s) for each in shards)


def _attempt(entry: dict[str, str | float]) -> Attempt:
    started = datetime.fromisoformat(str(entry["StartDate"]).replace("Z", "+00:00"))
    return Attempt(str(entry["LogStream"]), started.timestamp(), float(entry["DurationSeconds"]))
