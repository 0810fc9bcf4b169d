"""A fault in the image under Lambda's conditions is recorded in the ledger, and the next invocation works."""

import pytest

from sparklet.model import ShardState
from tests.container.account import Account
from tests.container.bench import ShardBench
from tests.container.container import Container
from tests.functional.worker.misbehaving import JOB

MAX_EVENT_BYTES = 5_900_000  # Lambda accepts 6 MB


FAULTS = {  # a script, with the error class and message in its shard's record after the only attempt
    "takes more memory than there is": (
        JOB + "kept = []\nwhile True:\n    kept.append(b'x' * (32 << 20))",
        "ScriptFailedError",
        "ended by SIGKILL: killed from outside, as the kernel does when memory is used up",
    ),
    "fills the JVM's heap": (
        JOB + "spark.range(1).selectExpr(\"repeat('x', 600000000)\").collect()",
        "OutOfMemoryError",
        "the JVM ran out of memory: Java heap space; give the function more memory",
    ),
    "crashes the JVM": (
        JOB + "import os\nos.kill(spark._jvm.java.lang.ProcessHandle.current().pid(), 11)\nspark.range(3).count()",
        "GatewayLostError",
        "the JVM was ended by SIG",
    ),
    "fills /tmp": (
        "with open('/tmp/large', 'wb') as file:\n    while True:\n        file.write(b'x' * (8 << 20))",
        "ScratchFullError",
        "No space left on device",
    ),
}


def test_an_event_as_large_as_lambda_takes_reaches_the_script(account: Account, function: Container) -> None:
    script = "from sparklet.job import Job\njob = Job.from_args()\njob.report(rows=len(job.event['text']))"
    event = account.event_for(script)
    event["text"] = "ü" * ((MAX_EVENT_BYTES - len(str(event))) // len("\\u00fc"))

    answer = function.invoke(event)

    assert answer.document.get("rows") == len(event["text"]), answer


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_script_is_reported_and_the_next_one_works(bench: ShardBench, fault: str) -> None:
    script, error_class, message = FAULTS[fault]
    run = bench.start(script, max_attempts=1)

    answer = bench.deliver()

    record = bench.shard(run)
    assert (record.state, record.error_class) == (ShardState.FAILED, error_class), bench.function.logs()[-5000:]
    assert message in record.error_message
    assert answer.document == {"batchItemFailures": []}  # no attempt is left, so the message is deleted
    bench.next_works()
