"""What goes wrong in the image under Lambda's conditions is known to the ledger, and the next invocation works."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sparklet.model import Run, ShardState
from tests.container.account import Account, QueueMapping
from tests.container.container import Conditions, Container
from tests.functional.worker.misbehaving import GOOD, JOB

CONDITIONS = Conditions(timeout_s=20, env={"SPARKLET_GRACE_S": "3"})
LARGEST_EVENT_BYTES = 5_900_000  # Lambda takes 6 MB
WORKER = "import os\nfrom pathlib import Path\nstat = Path(f'/proc/{os.getppid()}/stat').read_text()\n"
WORKER += "worker = int(stat.rpartition(')')[2].split()[1])\n"  # the parent of the script host


@dataclass(frozen=True)
class Fault:
    """A script, and what the ledger says of its shard after its only attempt."""

    name: str
    script: str
    error_class: str
    says: str

    def __str__(self) -> str:
        return self.name


FAULTS = [
    Fault(
        "runs past the deadline", JOB + "import time\ntime.sleep(600)", "DeadlineExceededError", "ended at its deadline"
    ),
    Fault(
        "takes more memory than there is",
        JOB + "kept = []\nwhile True:\n    kept.append(b'x' * (32 << 20))",
        "ScriptFailedError",
        "ended by SIGKILL: killed from outside, as the kernel does when memory is used up",
    ),
    Fault(
        "fills the JVM's heap",
        JOB + "spark.range(1).selectExpr(\"repeat('x', 600000000)\").collect()",
        "OutOfMemoryError",
        "the JVM ran out of memory: Java heap space; give the function more memory",
    ),
    Fault(
        "crashes the JVM",
        JOB + "import os\nos.kill(spark._jvm.java.lang.ProcessHandle.current().pid(), 11)\nspark.range(3).count()",
        "GatewayLostError",
        "the JVM",
    ),
    Fault(
        "fills /tmp",
        "with open('/tmp/large', 'wb') as file:\n    while True:\n        file.write(b'x' * (8 << 20))",
        "ScratchFullError",
        "",
    ),
]


@pytest.fixture
def run_of(account: Account, tmp_path: Path) -> Callable[..., Run]:
    """Plans and dispatches a run of one shard for a piece of code."""

    def start(code: str, **options: int) -> Run:
        script = tmp_path / f"job{len(list(tmp_path.iterdir()))}.py"
        script.write_text(code)
        return account.start(script, [account.put("input/faults/one.csv", "n\n1\n")], {}, **options)

    return start


@pytest.fixture
def next_works(account: Account, mapping: QueueMapping, function: Container, run_of: Callable[..., Run]) -> object:
    """What every test here ends with."""

    def check() -> None:
        run = run_of(GOOD.decode())
        answer = mapping.deliver()
        record = account.shard(run)
        assert (record.state, record.rows) == (ShardState.SUCCEEDED, 45), f"{answer}\n{function.said()[-5000:]}"
        jvms = [pid for pid, line in function.processes().items() if "SparkSubmit" in line]
        assert len(jvms) == 1

    return check


def test_a_good_script_succeeds_in_the_ledger(next_works: Callable[[], None]) -> None:
    next_works()


def test_an_event_as_large_as_lambda_takes_reaches_the_script(account: Account, function: Container) -> None:
    script = "from sparklet.job import Job\njob = Job.from_args()\njob.report(rows=len(job.event['text']))"
    event = account.asking(script, text="")
    event["text"] = "ü" * ((LARGEST_EVENT_BYTES - len(str(event))) // len("\\u00fc"))

    answer = function.invoke(event)

    assert answer.document.get("rows") == len(event["text"]), answer


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_script_that_goes_wrong_is_known_by_its_cause_and_the_next_one_works(
    account: Account,
    mapping: QueueMapping,
    function: Container,
    run_of: Callable[..., Run],
    next_works: Callable[[], None],
    fault: Fault,
) -> None:
    run = run_of(fault.script, max_attempts=1)

    answer = mapping.deliver()

    record = account.shard(run)
    assert (record.state, record.error_class) == (ShardState.FAILED, fault.error_class), function.said()[-5000:]
    assert fault.says in record.error_message
    assert answer is not None and answer.document == {"batchItemFailures": []}  # no attempt is left: it is at its end
    next_works()


ONCE = "seen = Path('/tmp/seen-{name}')\nfirst = not seen.exists()\nseen.touch()\n"


def test_a_worker_that_lambda_kills_at_its_deadline_loses_no_shard(
    account: Account,
    mapping: QueueMapping,
    function: Container,
    run_of: Callable[..., Run],
    next_works: Callable[[], None],
) -> None:
    """The guard cannot act: the worker's own process is stopped."""
    stop = "if first:\n    import signal, time\n    os.kill(worker, signal.SIGSTOP)\n    time.sleep(600)\n"
    run = run_of(WORKER + ONCE.format(name="stopped") + stop, max_attempts=2)

    answer = mapping.deliver()
    assert answer is not None and "Task timed out after" in answer.text, answer
    assert account.shard(run).state is ShardState.RUNNING  # nobody could say otherwise

    lapsed_and_done(account, mapping, run)
    next_works()


def test_a_worker_that_dies_loses_no_shard(
    account: Account,
    mapping: QueueMapping,
    function: Container,
    run_of: Callable[..., Run],
    next_works: Callable[[], None],
) -> None:
    kill = "if first:\n    import time\n    os.kill(worker, 9)\n    time.sleep(600)\n"
    run = run_of(WORKER + ONCE.format(name="killed") + kill, max_attempts=2)

    answer = mapping.deliver()
    assert answer is not None and "Runtime.ExitError" in answer.text, answer
    next_works()

    lapsed_and_done(account, mapping, run)


def lapsed_and_done(account: Account, mapping: QueueMapping, run: Run) -> None:
    """The checker finds the lease over and sends the shard again; its next attempt succeeds."""
    end_s = time.monotonic() + CONDITIONS.timeout_s + 10
    while not account.check(run).lapsed:
        assert time.monotonic() < end_s, account.shard(run)
        time.sleep(0.2)
    mapping.deliver()
    record = account.shard(run)
    assert (record.state, record.attempts) == (ShardState.SUCCEEDED, 2)
    assert account.check(run).run.state.ended
