"""The shards of a run in this process: each stages what its script writes; then one commit per table is made."""

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

from sparklet.connectors.tables.commit import commit, plan
from sparklet.connectors.tables.declaration import Commit, Committed, Declaration
from sparklet.job import Job
from sparklet.job.outcome import CLAIMED, OUTCOME_FILE

Script = Callable[[Job, DataFrame], int]


@dataclass
class Shards:
    """Runs, one after the other, whose shards stage in the folder; ``declared`` has what the present run has staged."""

    folder: Path
    declared: list[Declaration] = field(default_factory=list)

    def stage(self, script: Script, *frames: DataFrame) -> None:
        """Run the script as one shard for each frame."""
        for frame in frames:
            shard = len(self.declared)
            outcome = self.folder / f"{uuid.uuid4().hex}.json"
            event = {
                "sparklet": {"run": "r", "identity": "r_1", "shard": shard, "attempt": "a", "generation": 0},
                "inputs": [],
                "params": {},
                "output_path": f"file://{self.folder}/staged/{shard:06d}-{uuid.uuid4().hex[:8]}",
            }
            job = Job.from_args(["--event", json.dumps(event)], {OUTCOME_FILE: str(outcome), CLAIMED: "1"})
            script(job, frame)
            for document in json.loads(outcome.read_text())["writes"]:
                text = json.dumps(document)  # as the worker stores it, and the checker copies it
                self.declared.append(Declaration.from_document(json.loads(text), shard))

    def planned(self) -> Sequence[Commit]:
        """Return the run's commits, one for each table; the next shards belong to a new run."""
        declared, self.declared = self.declared, []
        return plan({"identity": f"run-{uuid.uuid4().hex}", "commit": 0}, [declared])

    def commit(self) -> list[Committed]:
        """Make the run's commits."""
        return [commit(replace(each, warehouse=None), SparkSession.active()) for each in self.planned()]
