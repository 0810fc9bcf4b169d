"""What a simulation is given: the work, the queue, how the mapping scales, what functions may, what Sparklet adds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.simulate.constants import fact, usual
from sparklet.ledger.rules import LEASE_S, lease_s
from sparklet.model.options import RunOptions
from sparklet.runs.dispatch import DEAD_LETTER

NEVER = float("inf")
MAX_RECEIVES = 20  # the template's MaxReceiveCount
VISIBILITY_TIMEOUTS = 6  # the template's visibility, in timeouts of the function
ENGINE_STARTS = 1_000 / 60  # a second: a check looks at 1,000 waiting shards, each minute


@dataclass(frozen=True, slots=True)
class Scaling:
    """How many messages may be in work at once: the mapping's, or a Map state's."""

    first: int
    a_minute: float
    most: int

    @classmethod
    def named(cls, name: str, most: int | None = None) -> "Scaling":
        """Of ``sqs_2022``, ``sqs_2026`` or ``provisioned``; ``most``: MaximumConcurrency, or pollers times ten."""
        cap = min(int(fact(f"{name}.most")), most or int(fact(f"{name}.most")))
        return cls(min(int(fact(f"{name}.first")), cap), fact(f"{name}.a_minute"), cap)


@dataclass(frozen=True, slots=True)
class Ledger:
    """What Sparklet adds to a queue: claims, leases, checks, a consumer of dead letters."""

    max_attempts: int = RunOptions().max_attempts
    lease_s: float = LEASE_S
    dead_letters: float = DEAD_LETTER.most


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A simulation's input. Shares are of attempts."""

    shards: int
    seconds: Sequence[float]  # a shard's time: one of these, each as likely
    sent_a_s: float  # messages
    starts_s: float = 0.0  # when the first message is sent
    visibility_s: float = NEVER
    max_receives: float = NEVER
    scaling: Scaling
    capacity: int  # invocations at once: reserved, or of the account
    burst: float  # new environments at once
    burst_a_s: float
    cold_start_s: float
    failed: float = 0.0  # the script fails: the worker says so, and the message comes back soon
    errors: float = 0.0  # the function fails, or its worker is killed
    errors_from_s: float = 0.0
    retry_first_s: float
    retry_most_s: float
    turnaround_s: float
    slots_a_throttle: float
    slots_an_error: float
    ledger: Ledger | None = None
    limit_s: float = NEVER


def of_2022(unknown: Mapping[str, float], **changes: Any) -> Setup:
    """The published experiment, on what AWS said of that time."""
    setup = Setup(
        shards=15_000,
        seconds=(120.0,),
        sent_a_s=15_000 / 68,
        visibility_s=600,
        max_receives=1,
        scaling=Scaling.named("sqs_2022"),
        capacity=round(fact("lambda.account") - unknown["used_by_others"]),
        burst=fact("lambda_2022.burst"),
        burst_a_s=fact("lambda_2022.a_second"),
        **_of_the_mapping(unknown),
    )
    return replace(setup, **changes)


def by_queue(
    shards: int, seconds: Sequence[float], concurrency: int, unknown: Mapping[str, float] | None = None, **changes: Any
) -> Setup:
    """A run of Sparklet's by its queue, with the template's settings, on today's scaling."""
    setup = of_2022(
        unknown or usual(),
        shards=shards,
        seconds=seconds,
        sent_a_s=fact("sparklet.planned_a_s"),
        visibility_s=VISIBILITY_TIMEOUTS * timeout_s(seconds),
        max_receives=MAX_RECEIVES,
        scaling=Scaling.named("sqs_2026", concurrency),
        burst=fact("lambda_2026.burst"),
        burst_a_s=fact("lambda_2026.a_second"),
        ledger=Ledger(),
        limit_s=fact("sparklet.run_limit_s"),
    )
    return replace(setup, **changes)


def by_map(shards: int, seconds: Sequence[float], concurrency: int, **changes: Any) -> Setup:
    """The same by a Distributed Map: its children begin after the plan, refused ones are tried again by its rule."""
    cap = min(concurrency, int(fact("map.children")))
    setup = by_queue(
        shards,
        seconds,
        cap,
        starts_s=shards / fact("sparklet.planned_a_s"),
        sent_a_s=NEVER,
        scaling=Scaling(cap, 0.0, cap),
        visibility_s=NEVER,
        max_receives=NEVER,
        retry_first_s=fact("map.retry_first_s"),
        retry_most_s=fact("map.retry_most_s"),
        slots_a_throttle=0.0,
        ledger=Ledger(lease_s=lease_s(cap)),
    )
    return replace(setup, **changes)


def by_engine(shards: int, seconds: Sequence[float], concurrency: int, start_s: float) -> Setup:
    """The same by workers of an engine: a check starts them, each for one shard."""
    return by_map(
        shards,
        [start_s + each for each in seconds],
        concurrency,
        starts_s=0.0,
        sent_a_s=ENGINE_STARTS,
        capacity=concurrency,
        burst=NEVER,
        cold_start_s=0.0,
        turnaround_s=fact("sparklet.check_every_s") / 2,
    )


def timeout_s(seconds: Sequence[float]) -> float:
    """The least timeout of the template that holds the longest shard twice."""
    return next((each for each in (60, 120, 180, 300, 600) if each >= 2 * max(seconds)), 900)


def _of_the_mapping(unknown: Mapping[str, float]) -> dict[str, Any]:
    names = ("cold_start_s", "retry_first_s", "retry_most_s", "turnaround_s", "slots_a_throttle", "slots_an_error")
    return {name: unknown[name] for name in names}
