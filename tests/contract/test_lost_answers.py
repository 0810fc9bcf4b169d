"""How adapters handle a write that took effect while its response was lost.

Each write is tested in two ways. With ``ONE`` response lost, botocore retries by itself, and the retry is refused
because of what the first request wrote. With ``ALL`` lost, botocore gives up, and the outcome is unknown.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.object_store import S3ObjectStore
from sparklet.errors import LeaseLostError, LedgerError, ObjectChangedError
from sparklet.ledger.rules import LEASE_GRACE_S
from sparklet.model import ClaimStatus, Counts, Failure, RunState, ShardResult, ShardState
from tests.contract.conftest import ON_STACK, TABLE
from tests.contract.lossy_proxy import LossyProxy, lossy_proxy
from tests.contract.samples import LEASE_S, MAX_ATTEMPTS, part, planned, ref, run, script, shard
from tests.stand_ins.memory import FakeClock
from tests.stand_ins.read_queues import ReadSqsQueue

ATTEMPTS = 2
ONE, ALL = 1, ATTEMPTS
UPDATE, PUT, TRANSACT = "UpdateItem", "PutItem", "TransactWriteItems"
FLAKY = Failure("GatewayLostError", "the JVM went away")


def _endpoint(clients: AwsClients) -> str:
    return clients.dynamodb.meta.endpoint_url


@pytest.fixture(
    scope="module",
    params=[pytest.param("ministack", marks=ON_STACK), pytest.param("dynamodb-local", marks=ON_STACK)],
)
def way(request: pytest.FixtureRequest) -> Iterator[tuple[LossyProxy, AwsClients]]:
    """The proxy, and clients that go through it."""
    direct: AwsClients = request.getfixturevalue(f"{request.param.replace('-', '_')}_clients")
    with lossy_proxy(_endpoint(direct)) as (proxy, endpoint):
        yield proxy, AwsClients(8, endpoint_url=endpoint, attempts=ATTEMPTS)


@pytest.fixture
def proxy(way: tuple[LossyProxy, AwsClients]) -> Iterator[LossyProxy]:
    yield way[0]
    way[0].lose("nothing", 0)


@pytest.fixture
def ledger(way: tuple[LossyProxy, AwsClients], proxy: LossyProxy, clock: FakeClock) -> DynamoLedger:
    return DynamoLedger(way[1], TABLE, clock)


@pytest.fixture
def other(request: pytest.FixtureRequest, way: tuple[LossyProxy, AwsClients], clock: FakeClock) -> DynamoLedger:
    """Another process's ledger behind the same proxy, which also loses its responses to the operation."""
    return DynamoLedger(way[1], TABLE, clock)


@pytest.fixture(params=[ONE, ALL], ids=["one", "all"])
def answers(request: pytest.FixtureRequest) -> int:
    count: int = request.param
    return count


def test_a_claim_without_a_response_is_granted_once(
    ledger: DynamoLedger, proxy: LossyProxy, run_id: str, answers: int
) -> None:
    planned(ledger, run_id)
    proxy.lose(UPDATE, answers)

    answer = ledger.attempts.claim(ref(run_id), "a", LEASE_S, MAX_ATTEMPTS)

    assert proxy.lost == answers
    assert (answer.status, answer.record.attempts) == (ClaimStatus.GRANTED, 1)
    assert ledger.shards.get(run_id, 0) == answer.record


@pytest.mark.parametrize("staged", [None, ShardResult(5)], ids=["renewed", "won"])
def test_a_renewal_or_a_win_counts_once(
    ledger: DynamoLedger,
    proxy: LossyProxy,
    run_id: str,
    answers: int,
    staged: ShardResult | None,
    clock: FakeClock,
) -> None:
    planned(ledger, run_id)
    ledger.attempts.claim(ref(run_id), "a", LEASE_S, MAX_ATTEMPTS)
    clock.advance(3)
    proxy.lose(UPDATE, answers)

    ledger.attempts.renew(run_id, 0, "a", LEASE_S, staged)

    assert proxy.lost == answers
    record = ledger.shards.get(run_id, 0)
    assert (record.lease_end_s, record.winner) == (clock.now_s() + LEASE_S, "a" if staged else "")


def test_an_attempt_succeeds_though_a_response_is_lost(
    ledger: DynamoLedger, proxy: LossyProxy, run_id: str, answers: int
) -> None:
    planned(ledger, run_id)
    ledger.attempts.claim(ref(run_id), "a", LEASE_S, MAX_ATTEMPTS)
    proxy.lose(UPDATE, answers)

    ledger.attempts.succeed(run_id, 0, "a", ShardResult(7))

    assert proxy.lost == answers
    record = ledger.shards.get(run_id, 0)
    assert (record.state, record.attempt_id, record.rows) == (ShardState.SUCCEEDED, "a", 7)


def test_a_win_during_a_renewal_counts(
    ledger: DynamoLedger, other: DynamoLedger, proxy: LossyProxy, run_id: str, answers: int
) -> None:
    """GIVEN a renewal that took effect and whose response is lost, WHEN the attempt wins meanwhile, THEN it has won."""
    planned(ledger, run_id)
    ledger.attempts.claim(ref(run_id), "a", LEASE_S, MAX_ATTEMPTS)
    proxy.lose(UPDATE, answers, meanwhile=lambda: other.attempts.renew(run_id, 0, "a", LEASE_S, ShardResult(5)))

    with suppress(LedgerError):  # the worker logs it, since it cannot know whether the renewal took effect
        ledger.attempts.renew(run_id, 0, "a", LEASE_S)

    ledger.attempts.succeed(run_id, 0, "a", ShardResult(5))
    record = ledger.shards.get(run_id, 0)
    assert (record.state, record.winner, record.rows) == (ShardState.SUCCEEDED, "a", 5)


def test_a_zombie_does_not_report_the_owners_write_as_its_own(
    ledger: DynamoLedger, proxy: LossyProxy, run_id: str, answers: int, clock: FakeClock
) -> None:
    planned(ledger, run_id)
    ledger.attempts.claim(ref(run_id), "zombie", LEASE_S, MAX_ATTEMPTS)
    clock.advance(LEASE_S + LEASE_GRACE_S + 1)
    ledger.attempts.claim(ref(run_id), "b", LEASE_S, MAX_ATTEMPTS)
    ledger.attempts.succeed(run_id, 0, "b", ShardResult(7))
    proxy.lose(UPDATE, answers)

    with pytest.raises(LeaseLostError):
        ledger.attempts.succeed(run_id, 0, "zombie", ShardResult(8))

    assert ledger.shards.get(run_id, 0).rows == 7


def test_the_checkers_writes_take_effect_once(
    ledger: DynamoLedger, proxy: LossyProxy, run_id: str, answers: int, clock: FakeClock
) -> None:
    planned(ledger, run_id)
    held = ledger.attempts.claim(ref(run_id), "a", LEASE_S, MAX_ATTEMPTS).record
    clock.advance(LEASE_S + 1)

    proxy.lose(UPDATE, answers)
    expired = ledger.attempts.expire(held, MAX_ATTEMPTS)
    assert expired == ledger.shards.get(run_id, 0)
    assert expired is not None
    assert expired.state is ShardState.PENDING

    proxy.lose(UPDATE, answers)
    counted = ledger.attempts.count_requeue(expired)
    assert counted == ledger.shards.get(run_id, 0)
    assert counted is not None
    assert counted.requeues == 1

    proxy.lose(UPDATE, answers)
    assert ledger.attempts.abandon(counted, FLAKY) is True

    proxy.lose(UPDATE, answers)
    driven = ledger.attempts.redrive(run_id, 0, 1)
    assert driven == ledger.shards.get(run_id, 0)
    assert proxy.lost == answers


def test_a_split_takes_effect_though_a_response_is_lost(
    ledger: DynamoLedger, proxy: LossyProxy, run_id: str, answers: int, clock: FakeClock
) -> None:
    planned(ledger, run_id)
    clock.advance(0.5)  # ministack writes 1000.0 as 1000, and would then treat a repeated transaction as another one
    ledger.attempts.claim(ref(run_id), "a", LEASE_S, MAX_ATTEMPTS)
    proxy.lose(UPDATE, answers)
    ledger.attempts.release(run_id, 0, "a", FLAKY, split="1")
    whole = ledger.shards.get(run_id, 0)
    assert whole.split == "1"

    pieces = [replace(whole, number=number, split="", object_count=1) for number in (1, 2)]
    proxy.lose(TRANSACT, answers)
    assert ledger.attempts.split(whole, ledger.runs.get(run_id), part(1, 1, 2), pieces)
    assert proxy.lost == answers
    assert ledger.shards.count(run_id) == Counts(pending=2)


def test_a_claim_that_expired_meanwhile_is_not_granted(
    ledger: DynamoLedger, other: DynamoLedger, proxy: LossyProxy, run_id: str, clock: FakeClock
) -> None:
    """GIVEN a claim whose response is lost, WHEN another attempt takes over, THEN the first is not granted."""
    planned(ledger, run_id)

    def take_over() -> None:
        clock.advance(LEASE_S + LEASE_GRACE_S + 1)
        assert other.attempts.claim(ref(run_id), "b", LEASE_S, MAX_ATTEMPTS).status is ClaimStatus.GRANTED

    proxy.lose(UPDATE, ONE, meanwhile=take_over)

    assert ledger.attempts.claim(ref(run_id), "a", LEASE_S, MAX_ATTEMPTS).status is ClaimStatus.HELD
    assert ledger.shards.get(run_id, 0).attempt_id == "b"


def test_a_run_is_entered_once(ledger: DynamoLedger, proxy: LossyProxy, run_id: str, answers: int) -> None:
    proxy.lose(TRANSACT, answers)

    ledger.runs.create(run(run_id))

    assert proxy.lost == answers
    assert ledger.runs.get(run_id) == run(run_id)
    assert [r.run_id for r in ledger.runs.list()].count(run_id) == 1


def test_changes_of_a_run_are_made_once(ledger: DynamoLedger, proxy: LossyProxy, run_id: str, answers: int) -> None:
    ledger.runs.create(run(run_id))
    steps: list[tuple[str, Callable[[], object]]] = [
        (TRANSACT, lambda: ledger.runs.add_part(run_id, part(0, 0, 3))),
        (UPDATE, lambda: ledger.runs.mark_dispatched(run_id, 0)),
        (TRANSACT, lambda: ledger.runs.seal_plan(run_id, 3, 6, 30)),
        (UPDATE, lambda: ledger.runs.cancel(run_id)),
        (UPDATE, lambda: ledger.runs.finish(run_id, 0, RunState.CANCELLED)),
        (TRANSACT, lambda: ledger.runs.finalize(ledger.runs.get(run_id))),
        (TRANSACT, lambda: ledger.runs.start_generation(run_id, 1, script("repaired"))),
    ]
    for operation, step in steps:
        proxy.lose(operation, answers)
        step()
        assert proxy.lost == answers

    assert list(ledger.runs.parts(run_id)) == [replace(part(0, 0, 3), dispatched=True)]
    after = ledger.runs.get(run_id)
    assert (after.state, after.shard_count, after.cancelled_s) == (RunState.RUNNING, 3, None)
    assert after.scripts == (script(), script("repaired"))
    assert run_id in [r.run_id for r in ledger.runs.unfinalized()]


def test_a_run_is_retired_and_deleted_once(ledger: DynamoLedger, proxy: LossyProxy, run_id: str, answers: int) -> None:
    planned(ledger, run_id)
    ledger.runs.finish(run_id, 0, RunState.FAILED)
    proxy.lose(UPDATE, answers)
    ledger.runs.retire(run_id)
    proxy.lose(TRANSACT, answers)

    assert ledger.runs.delete(run_id) == 3
    with pytest.raises(LedgerError, match="no run"):
        ledger.runs.get(run_id)


def test_shards_are_added_once(ledger: DynamoLedger, proxy: LossyProxy, run_id: str) -> None:
    ledger.runs.create(run(run_id))
    ledger.runs.add_part(run_id, part(0, 0, 60))
    ledger.shards.add(shard(run_id, number) for number in range(10))
    proxy.lose(PUT, 20)

    assert ledger.shards.add(shard(run_id, number) for number in range(60)) == 50

    assert proxy.lost == 20
    assert [r.number for r in ledger.shards.list(run_id)] == list(range(60))


def test_a_table_that_is_not_there_is_named(ledger: DynamoLedger, way: tuple[LossyProxy, AwsClients]) -> None:
    with pytest.raises(LedgerError, match=r"absent failed: there is no such table.*SPARKLET_LEDGER_TABLE"):
        DynamoLedger(way[1], "absent").runs.get("r")


# --- the other services, on ministack ---


@pytest.fixture
def through(request: pytest.FixtureRequest) -> Iterator[tuple[LossyProxy, AwsClients]]:
    direct: AwsClients = request.getfixturevalue("ministack_clients")
    with ExitStack() as stack:
        proxy, endpoint = stack.enter_context(lossy_proxy(_endpoint(direct)))
        yield proxy, AwsClients(4, endpoint_url=endpoint, attempts=ATTEMPTS)


@pytest.mark.stack
def test_an_object_created_by_another_is_not_treated_as_ones_own(
    through: tuple[LossyProxy, AwsClients], bucket: str
) -> None:
    proxy, clients = through
    clients.s3.create_bucket(Bucket=bucket)
    store = S3ObjectStore(clients)
    proxy.lose("PUT", 1)
    etag = store.put(f"s3://{bucket}/part", b"mine", create_only=True)

    assert proxy.lost == 1
    assert etag == store.head(f"s3://{bucket}/part").etag
    proxy.lose("PUT", 1)
    with pytest.raises(ObjectChangedError):
        store.put(f"s3://{bucket}/part", b"another's", create_only=True)
    assert store.get(f"s3://{bucket}/part") == b"mine"


@pytest.mark.stack
def test_no_message_is_missing_after_a_lost_answer(through: tuple[LossyProxy, AwsClients], run_id: str) -> None:
    proxy, clients = through
    url = clients.sqs.create_queue(QueueName=run_id)["QueueUrl"]
    queue = ReadSqsQueue(clients, url)
    proxy.lose("SendMessageBatch", 1)

    assert queue.send(str(number) for number in range(40)) == 40

    received: set[str] = set()
    while messages := queue.receive():
        received |= {message.body for message in messages}
        for message in messages:
            queue.delete(message.receipt)
    assert received == {str(number) for number in range(40)}
