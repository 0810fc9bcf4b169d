"""What do ten messages of SQS cost, as a batch that is one script's event, and as ten scripts?

A warm worker gets an event of ten messages, each with a line of CSV, both ways in turn. The last line on standard error
has the median ratio.

    python -m benchmarks.batch [--rounds 5]
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from benchmarks.comparison import SPARKLET, Case, document, options, publish
from benchmarks.function import BUCKET, MEMORY_MB, function
from benchmarks.process_tree import end_on_sigterm
from benchmarks.workload import JOBS, Job, WrongOutputError, sales

QUESTION = "What do ten messages of SQS cost, as a batch that is one script's event, and as ten scripts?"
EACH = "each"
MESSAGES = 10
WARM_UPS = 3
EVENTS = 3  # of each way in a round


@dataclass
class Messages(Job):
    """An event of messages, handled in one of the ways."""

    handling: str = "batch"

    @property
    def script(self) -> Path:
        """Reads the messages by ``job.records``."""
        return JOBS / "messages_to_parquet.py"

    def event(self, side: str) -> dict[str, Any]:
        """The invocation that hands the messages over."""
        shutil.rmtree(output := self._output(side), ignore_errors=True)
        records = [
            {
                "messageId": f"{number:08d}-0000-4000-8000-000000000000",
                "receiptHandle": "r",
                "body": line,
                "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1545082649183"},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:sales",
            }
            for number, line in enumerate(sales().splitlines()[1 : MESSAGES + 1])
        ]
        uri = f"s3://{BUCKET}/{self.script.name}"
        task = {"script": uri, "args": [str(output)], "batch_handling": self.handling, "event": {"Records": records}}
        return {"sparklet": task}


def check(job: Job, path: Path) -> None:
    """Stop unless each message's row is there once; WrongOutputError."""
    found = sorted(parquet.read_table(path, columns=["id"])["id"].to_pylist())
    if found != list(range(MESSAGES)):
        raise WrongOutputError(f"{job.name}: the rows {found}, not one of each message")


def main() -> None:
    """Measure and print."""
    given = options(__doc__).parse_args()
    end_on_sigterm()
    case = Case(f"warm, {MESSAGES} messages of CSV", [EACH])
    with tempfile.TemporaryDirectory(prefix="sparklet-bench-") as name:
        folder = Path(name)
        one, each = (Messages(f"messages-{way}", folder, check, False, handling=way) for way in ("batch", "message"))
        with function(folder, [one, each]) as worker, worker.environment() as environment:
            for job in [one, each] * WARM_UPS:
                environment.run(job)
            for _ in range(given.rounds):
                case.add(SPARKLET, *(environment.run(one) for _ in range(EVENTS)))
                case.add(EACH, *(environment.run(each) for _ in range(EVENTS)))
    parameters: dict[str, Any] = {"function_memory_mb": MEMORY_MB, "messages": MESSAGES, "warm_ups": WARM_UPS}
    parameters |= {"rivals": {EACH: "BatchHandling=message: ten scripts, one after the other"}}
    publish(document("batch", QUESTION, parameters, [case]))


if __name__ == "__main__":
    main()
