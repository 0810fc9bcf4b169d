"""A function that does shards from its queue, and pieces of code as shards for it."""

import uuid
from dataclasses import dataclass
from pathlib import Path

from sparklet.model import Run, ShardRecord, ShardState
from tests.container.account import Account
from tests.container.container import Answer, Container
from tests.functional.worker.misbehaving import GOOD, GOOD_ROWS


@dataclass(frozen=True)
class ShardBench:
    """Runs pieces of code as runs of one shard: planned, queued, delivered, done in the container."""

    account: Account
    function: Container
    folder: Path

    def start(self, code: str, **options: int) -> Run:
        """Plan and dispatch it."""
        script = self.folder / f"{uuid.uuid4().hex[:8]}.py"
        script.write_text(code)
        return self.account.start(script, [self.account.put("input/one.csv", "n\n1\n")], {}, **options)

    def deliver(self) -> Answer:
        """Let the function have the next message, which must be there."""
        return self.account.deliver(self.function)

    def shard(self, run: Run) -> ShardRecord:
        """What the ledger says of the one shard."""
        return self.account.shard(run)

    def next_works(self) -> None:
        """Whatever happened before: a good script succeeds now, and nothing but one JVM serves it."""
        run = self.start(GOOD.decode(), max_attempts=1)  # a message that came back would be the next test's
        answer = self.deliver()
        record = self.shard(run)
        assert (record.state, record.rows) == (ShardState.SUCCEEDED, GOOD_ROWS), (
            f"{answer}\n{self.function.said()[-5000:]}"
        )
        kinds = ("pyspark-shell", "sparklet.spark.script_host", "awslambdaric")
        lines = self.function.processes().values()
        assert [sum(kind in line for line in lines) for kind in kinds] == [1, 1, 1], "\n".join(lines)
