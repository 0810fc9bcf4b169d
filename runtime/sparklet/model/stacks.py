"""The settings of a deployed stack that depend on one another, as the services show them."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What a queue is set to."""

    visibility_s: int
    retention_s: int
    max_receive_count: int | None = None  # None: no dead-letter queue
    dead_letters_arn: str = ""


@dataclass(frozen=True, slots=True)
class MappingSettings:
    """How a function takes messages from a queue."""

    enabled: bool
    reports_failures: bool  # ReportBatchItemFailures
    most_at_once: int | None = None  # MaximumConcurrency; None: no limit of its own


@dataclass(frozen=True, slots=True)
class StackSettings:
    """Queues, mappings and functions of one stack."""

    queue: QueueSettings
    dead_letters: QueueSettings
    dead_letters_arn: str
    worker_timeout_s: int
    worker_grace_s: float
    consumer_timeout_s: int
    worker_mapping: MappingSettings | None  # None: there is none
    consumer_mapping: MappingSettings | None
    checker_scheduled: bool  # a rule that is enabled calls it
    reserved: int | None = None  # of concurrency, for the worker; None: nothing
    unreserved: int | None = None  # of the account, what functions without a reserve share; None: not known
    further_queues: Mapping[str, QueueSettings] = field(default_factory=dict)  # that the worker reads, by name
