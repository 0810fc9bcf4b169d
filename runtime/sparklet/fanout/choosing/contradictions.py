"""Settings of a deployed stack that contradict each other; the template excludes them, a later change may make them.

With each of them a run could lose time, work or a message although no code is wrong. A published experiment lost 103 of
15,000 messages to such settings: a dead-letter queue after one receive, and throttled receives.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sparklet.model import RunOptions
from sparklet.model.services import MappingSettings, StackSettings

VISIBILITY_FACTOR = 6  # AWS's advice for a queue that a function reads
MIN_RECEIVES = 5  # likewise
MIN_CONCURRENCY = 2
OTHER_FUNCTIONS = 5  # planner, checker, steps, and the dead-letter consumer, whose mapping takes two


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two settings that do not go together."""

    between: str
    found: str  # what, and what comes of it
    remedy: str


def contradictions(stack: StackSettings) -> Iterator[Contradiction]:
    """Everything in a stack's settings that does not go together; nothing in one as it was deployed."""
    yield from _visibility(stack)
    yield from _receives(stack)
    yield from _retention(stack)
    yield from _concurrency(stack)
    yield from _running(stack)


def too_small_an_account(unreserved: int | None, most: int) -> Iterator[Contradiction]:
    """What a stack with so many workers at once would lack, before it is deployed; None: it is not known."""
    if unreserved is not None and unreserved < most + OTHER_FUNCTIONS:
        fits = max(MIN_CONCURRENCY, unreserved - OTHER_FUNCTIONS)
        yield Contradiction(
            "concurrency of the account",
            f"{unreserved} is what functions without a reserve share, and MaximumConcurrency is {most} by default: "
            "shards would be throttled, ReserveConcurrency=yes and ColdStart=provisioned would fail the deployment",
            f"deploy with MaximumConcurrency={fits} MapConcurrency={fits}, and ask AWS for a higher limit: "
            "aws service-quotas request-service-quota-increase --service-code lambda --quota-code L-B99A9384 "
            "--desired-value 1000",
        )


def _visibility(stack: StackSettings) -> Iterator[Contradiction]:
    for name, queue, timeout_s, function in (
        ("Queue", stack.queue, stack.worker_timeout_s, "worker"),
        ("DeadLetterQueue", stack.dead_letters, stack.consumer_timeout_s, "dead-letter consumer"),
        *((name, queue, stack.worker_timeout_s, "worker") for name, queue in stack.further_queues.items()),
    ):
        needed_s = VISIBILITY_FACTOR * timeout_s
        if queue.visibility_s < needed_s:
            yield Contradiction(
                f"visibility of {name}, timeout of the {function}",
                f"{queue.visibility_s} s, and {timeout_s} s: a message is delivered again while a function has it, and "
                "throttled receives follow one another quickly",
                f"set the queue's VisibilityTimeout to {needed_s} ({VISIBILITY_FACTOR} × the timeout)",
            )
    if stack.worker_grace_s * 2 > stack.worker_timeout_s:
        yield Contradiction(
            "SPARKLET_GRACE_S, timeout of the worker",
            f"{stack.worker_grace_s:g} s of {stack.worker_timeout_s} s: a script has less than half of the time",
            "set GraceS to 10",
        )


def _receives(stack: StackSettings) -> Iterator[Contradiction]:
    queue = stack.queue
    if queue.max_receive_count is None or queue.dead_letters_arn != stack.dead_letters_arn:
        found = queue.dead_letters_arn or "no dead-letter queue"
        yield Contradiction(
            "redrive policy of Queue, DeadLetterQueue",
            f"Queue sends what is received too often to {found}: no consumer reads it there",
            f"set its redrive policy's deadLetterTargetArn to {stack.dead_letters_arn}",
        )
        return
    if queue.max_receive_count < MIN_RECEIVES:
        yield Contradiction(
            "maxReceiveCount of Queue, throttling",
            f"{queue.max_receive_count}: throttled receives count, so messages come to the dead-letter queue though no "
            "code ran",
            "set maxReceiveCount to 20; attempts are counted in the ledger",
        )
    dead_s = queue.max_receive_count * queue.visibility_s
    if dead_s >= queue.retention_s:
        most = (queue.retention_s - 1) // queue.visibility_s
        yield Contradiction(
            "maxReceiveCount × visibility of Queue, its retention",
            f"{queue.max_receive_count} × {queue.visibility_s} s is no less than {queue.retention_s} s: SQS deletes a "
            "message that is always throttled before it can become a dead-letter message",
            f"set maxReceiveCount to {most} or less",
        )


def _retention(stack: StackSettings) -> Iterator[Contradiction]:
    limit_s = RunOptions().time_limit_s
    if stack.queue.retention_s <= limit_s:
        yield Contradiction(
            "retention of Queue, time limit of a run",
            f"{stack.queue.retention_s} s, and {limit_s:.0f} s: messages expire while their run is open",
            "set the queue's MessageRetentionPeriod to 345600 (4 days)",
        )
    if stack.dead_letters.retention_s <= stack.queue.retention_s:
        yield Contradiction(
            "retention of DeadLetterQueue and of Queue",
            f"{stack.dead_letters.retention_s} s, and {stack.queue.retention_s} s: a dead-letter message keeps its age "
            "and may expire as it arrives",
            "set the dead-letter queue's MessageRetentionPeriod to 1209600 (14 days)",
        )


def _concurrency(stack: StackSettings) -> Iterator[Contradiction]:
    most = stack.worker_mapping.most_at_once if stack.worker_mapping else None
    throttled = "the mapping receives more than may run: throttled receives are counted though no code ran"
    if stack.worker_mapping and most is None:
        yield Contradiction(
            "MaximumConcurrency of the worker's mapping",
            f"it is not set: {throttled}",
            "set ScalingConfig.MaximumConcurrency on the mapping, as the template does",
        )
    if stack.reserved is not None and stack.reserved < (most or MIN_CONCURRENCY):
        yield Contradiction(
            "reserved concurrency of the worker, MaximumConcurrency of its mapping",
            f"{stack.reserved}, and {most}: {'no worker may run' if stack.reserved == 0 else throttled}",
            f"reserve {most or MIN_CONCURRENCY} for the function, or nothing",
        )
    if stack.reserved is None and stack.unreserved is not None and most is not None and stack.unreserved < most:
        yield Contradiction(
            "concurrency of the account, MaximumConcurrency of the worker's mapping",
            f"{stack.unreserved} is what functions without a reserve share, and {most}: {throttled}",
            "ask AWS for a higher limit, or deploy with a lower MaximumConcurrency",
        )


def _running(stack: StackSettings) -> Iterator[Contradiction]:
    for function, mapping, harm in (
        ("worker", stack.worker_mapping, "no shard is done"),
        ("dead-letter consumer", stack.consumer_mapping, "dead-letter messages stay where they are"),
    ):
        if mapping is None or not mapping.enabled:
            yield Contradiction(
                f"mapping of the {function}",
                f"{'there is none' if mapping is None else 'it is disabled'}: {harm}",
                "enable it: aws lambda update-event-source-mapping --uuid … --enabled" if mapping else "deploy again",
            )
        elif not mapping.reports_failures:
            yield _unreported(function, mapping)
    if not stack.checker_scheduled:
        yield Contradiction(
            "schedule of the checker",
            "no enabled rule calls it: lost shards stay lost, and runs do not end",
            "enable it: aws events enable-rule --name …",
        )


def _unreported(function: str, mapping: MappingSettings) -> Contradiction:
    return Contradiction(
        f"mapping of the {function}, ReportBatchItemFailures",
        "it is not set: a message that should come back is deleted as done",
        "aws lambda update-event-source-mapping --uuid … --function-response-types ReportBatchItemFailures",
    )
