"""A function in a container that does shards from its queue, and runs whose scripts are pieces of code."""

import uuid
from dataclasses import dataclass
from pathlib import Path

from sparklet.model import Run, ShardRecord, ShardState
from tests.container.account import Account
from tests.container.container import Answer, Container
from tests.functional.worker.misbehaving import GOOD, GOOD_ROWS


@dataclass(frozen=True)
class ShardBench:
    """Runs pieces of code as runs of one shard: plans them, queues them and delivers them to the container."""

    account: Account
    function: Container
    folder: Path

    def start(self, code: str, **options: int) -> Run:
        """Plan and dispatch a run of a piece of code."""
        script = self.folder / f"{uuid.uuid4().hex[:8]}.py"
        script.write_text(code)
        return self.account.start(script, [self.account.put("input/one.csv", "n\n1\n")], {}, **options)

    def deliver(self) -> Answer:
        """Invoke the function with the next message; there must be one."""
        return self.account.deliver(self.function)

    def shard(self, run: Run) -> ShardRecord:
        """The ledger's record of the run's only shard."""
        return self.account.shard(run)

    def next_works(self) -> None:
        """Assert that a good script succeeds now, whatever happened before, and that one JVM alone serves it."""
        run = self.start(GOOD.decode(), max_attempts=1)  # a message that comes back would disturb the next test
        answer = self.deliver()
        record = self.shard(run)
        assert (record.state, record.rows) == (ShardState.SUCCEEDED, GOOD_ROWS), (
            f"{answer}\n{self.function.logs()[-5000:]}"
        )
        kinds = ("pyspark-shell", "sparklet.spark.script_host", "awslambdaric")
        lines = self.function.processes().values()
        assert [sum(kind in line for line in lines) for kind in kinds] == [1, 1, 1], "\n".join(lines)
