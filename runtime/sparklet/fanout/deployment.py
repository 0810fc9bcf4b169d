"""One deployed Sparklet, as what plans and watches its runs sees it."""

from dataclasses import dataclass

from sparklet.ports import Clock, Ledger, ObjectStore, TaskQueue


@dataclass(frozen=True, slots=True)
class Deployment:
    """The ports that planning, checking and recovery work on.

    A composition root makes one: ``fanout.handlers`` in Lambda, ``local.stack`` and the command line elsewhere.
    """

    bucket: str  # runs/<run_id>/ and dead-letters/ lie in it
    store: ObjectStore
    ledger: Ledger
    queue: TaskQueue  # of shard messages
    clock: Clock

    @property
    def runs_uri(self) -> str:
        """Below this every run keeps its own files."""
        return f"s3://{self.bucket}/runs/"

    def run_uri(self, run_id: str, name: str = "") -> str:
        """A file of a run, or its folder."""
        return f"{self.runs_uri}{run_id}/{name}"

    def part_uri(self, run_id: str, part: str) -> str:
        """A plan part; the worker reads its shard from there."""
        return self.run_uri(run_id, f"plan/{part}")
