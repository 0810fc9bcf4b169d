"""Who hands a run's shards to the workers: which of three ways, and what each would cost and take. Pure figures.

*loop*: the queue, a message for each shard; a state machine waits and checks. Cheapest a shard, can be paced, and its
workers become more by the minute. *map*: a Distributed Map, a child for each shard. All its workers begin within
seconds, after the whole plan is sealed, and each child is paid for. *inline*: the same machine's inline Map, for as few
shards as run at once in it.

The estimates are for comparing: no attempt fails, all shards take the same time, and nothing else uses the workers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from sparklet.fanout.choosing.prices import Prices
from sparklet.fanout.machines.waiting import LEAST_S, LONGEST_S, TURNS_PER_AGE
from sparklet.ledger_rules import LEASE_S

FREE_SCRATCH_MB = 512
STEPS_BESIDE = 8  # states that a machine enters once: plan, first and last choices, outcome
SOONER_BY = 0.1  # of the loop's time must a map save, and
SOONER_S = 60.0  # so many seconds, to be worth
DEARER_BY = 0.1  # so much more of the loop's cost


class Way(StrEnum):
    """Who hands out the shards."""

    LOOP = "loop"
    MAP = "map"
    INLINE = "inline"


@dataclass(frozen=True, slots=True)
class Worker:
    """What one worker is."""

    memory_mb: int
    scratch_mb: int = FREE_SCRATCH_MB
    timeout_s: int = 900
    architecture: str = "x86_64"


@dataclass(frozen=True, slots=True)
class PlanFigures:
    """What an estimate needs to know of a plan and of who does it."""

    shards: int
    shard_s: float  # what one shard takes, see ``shard_seconds``
    worker: Worker
    concurrency: int  # shards that the queue may have in work at once
    map_concurrency: int  # shards that a map may
    rate_per_s: float = 0.0  # messages sent per second; 0 = as fast as they can be sent


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one way would cost and when it would end."""

    way: Way
    end_s: float  # from now
    costs: Mapping[str, float]  # US dollars, by what is paid for
    workers: int  # at once, at most
    refused: str = ""  # why it cannot be chosen; empty: it can

    @property
    def cost(self) -> float:
        """US dollars, all together."""
        return sum(self.costs.values())


@dataclass(frozen=True, slots=True)
class Comparison:
    """The three ways, and the one to take."""

    figures: PlanFigures
    estimates: tuple[Estimate, ...]
    chosen: Way
    reason: str

    def of(self, way: Way) -> Estimate:
        """One of the three."""
        return next(each for each in self.estimates if each.way is way)


def compare(figures: PlanFigures, prices: Prices) -> Comparison:
    """Estimate the three ways and choose one."""
    estimates = tuple(_estimate(way, figures, prices) for way in Way)
    chosen, reason = _choice(figures, {each.way: each for each in estimates})
    return Comparison(figures, estimates, chosen, reason)


def refusal(way: Way, shards: int, prices: Prices) -> str:
    """Why a plan of so many shards cannot go this way, with the remedy; empty if it can."""
    most = int(prices["limits.inline_shards"])
    if way is Way.INLINE and shards > most:
        return f"{shards:,} shards are more than the {most} that run at once in an inline Map; use map or loop"
    return ""


def assumed_shard_s(bytes_a_shard: float, prices: Prices) -> float:
    """What a shard takes where nothing was measured: a part that every task has, and its bytes."""
    return prices["assumptions.task_fixed_s"] + bytes_a_shard / prices["assumptions.task_bytes_a_s"]


def scaled_shard_s(measured_s: float, measured_bytes: float, bytes_a_shard: float, prices: Prices) -> float:
    """What a shard takes that is larger or smaller than those measured; the part that every task has stays."""
    fixed_s = min(measured_s, prices["assumptions.task_fixed_s"])
    if measured_bytes <= 0:
        return measured_s
    return fixed_s + (measured_s - fixed_s) * bytes_a_shard / measured_bytes


def worker_costs(task_s: float, tasks: float, worker: Worker, prices: Prices) -> dict[str, float]:
    """What so many seconds in so many invocations cost, and what such tasks ask of ledger and S3."""
    gb = worker.memory_mb / 1024
    scratch_gb = max(0, worker.scratch_mb - FREE_SCRATCH_MB) / 1024
    a_second = gb * prices[f"prices.lambda_gb_s_{worker.architecture}"] + scratch_gb * prices["prices.scratch_gb_s"]
    reads, writes = prices["assumptions.ledger_reads_a_shard"], prices["assumptions.ledger_writes_a_shard"]
    puts, gets = prices["assumptions.s3_puts_a_shard"], prices["assumptions.s3_gets_a_shard"]
    return {
        "lambda": task_s * a_second + tasks * prices["prices.lambda_request"],
        "ledger": (tasks * writes + task_s / (LEASE_S / 2)) * prices["prices.ledger_write"]
        + tasks * reads * prices["prices.ledger_read"],
        "s3": tasks * (puts * prices["prices.s3_put"] + gets * prices["prices.s3_get"]),
    }


def dispatch_cost(way: Way, shards: int, end_s: float, prices: Prices) -> float:
    """What handing out so many shards costs: messages, or states entered, and the machine's own turns."""
    transition = prices["prices.transition"]
    machine = STEPS_BESIDE * transition
    if way is Way.LOOP:
        messages = shards * prices["assumptions.sqs_requests_a_shard"] * prices["prices.sqs_request"]
        return machine + messages + most_turns(end_s) * prices["assumptions.states_a_turn"] * transition
    return machine + shards * prices["assumptions.states_a_map_shard"] * transition


def most_turns(end_s: float) -> int:
    """How often a machine looks at a run of that length, at most (see ``fanout.machines.waiting``).

    Every ``LEAST_S`` at first, then ``TURNS_PER_AGE`` more for each e-fold of its age, then every ``LONGEST_S``.
    """
    seldom_s, rarest_s = LEAST_S * TURNS_PER_AGE, LONGEST_S * TURNS_PER_AGE
    folds = math.log(min(end_s, rarest_s) / seldom_s) if end_s > seldom_s else 0.0
    return math.ceil(min(end_s, seldom_s) / LEAST_S + TURNS_PER_AGE * folds + max(0.0, end_s - rarest_s) / LONGEST_S)


def work_s(shards: int, shard_s: float, first: float, more_a_s: float, most: float) -> float:
    """How long so many shards take with workers that become more: ``first`` at once, then up to ``most``.

    The work is spread evenly, and no shorter than the last shard of the busiest worker allows.
    """
    if shards < 1:
        return 0.0
    first = min(first, most)
    work = shards * shard_s
    growing_s = (most - first) / more_a_s if more_a_s > 0 else 0.0
    grown = growing_s * (first + most) / 2
    if work >= grown:
        spread_s = growing_s + (work - grown) / most
    else:
        spread_s = (math.sqrt(first * first + 2 * more_a_s * work) - first) / more_a_s
    return max(spread_s, shard_s * math.ceil(shards / most))


def _estimate(way: Way, figures: PlanFigures, prices: Prices) -> Estimate:
    most = _most_workers(way, figures, prices)
    end_s = _end_s(way, figures, prices, most)
    cold = min(figures.shards, most)
    worker = figures.worker
    paid_s = figures.shards * figures.shard_s + cold * prices["assumptions.cold_start_s"]
    dispatched = dispatch_cost(way, figures.shards, end_s, prices)
    costs = {"dispatch": dispatched, **worker_costs(paid_s, figures.shards, worker, prices)}
    return Estimate(way, end_s, costs, cold, refusal(way, figures.shards, prices))


def _most_workers(way: Way, figures: PlanFigures, prices: Prices) -> int:
    if way is Way.LOOP:
        return max(1, min(figures.concurrency, int(prices["limits.sqs_pollers_most"])))
    limit = "limits.inline_shards" if way is Way.INLINE else "limits.map_children"
    return max(1, min(figures.map_concurrency, int(prices[limit])))


def _end_s(way: Way, figures: PlanFigures, prices: Prices, most: int) -> float:
    """Seconds to the end: a queue's workers begin with the first part of the plan, a map's once it is sealed."""
    planned_a_s = prices["assumptions.planned_a_s"]
    beside_s = prices["assumptions.step_s"] + prices["assumptions.cold_start_s"]
    shards, shard_s = figures.shards, figures.shard_s
    if way is not Way.LOOP:
        all_at_once = 10 * prices["limits.lambda_more_a_s"]  # Lambda counts in steps of 10 s, and the first is there
        return beside_s + shards / planned_a_s + work_s(shards, shard_s, all_at_once, all_at_once / 10, most)
    sent_a_s = min(planned_a_s, figures.rate_per_s or math.inf)
    pollers = (prices["limits.sqs_pollers_first"], prices["limits.sqs_pollers_more_a_s"])
    last_sent_s = max(0, shards - 1) / sent_a_s
    return beside_s + max(work_s(shards, shard_s, *pollers, most), last_sent_s + shard_s)


def _choice(figures: PlanFigures, of: Mapping[Way, Estimate]) -> tuple[Way, str]:
    loop, mapped, inline = of[Way.LOOP], of[Way.MAP], of[Way.INLINE]
    if figures.rate_per_s:
        return Way.LOOP, "only messages can be paced (--rate)"
    if not inline.refused:
        who = "one shard runs" if figures.shards == 1 else f"{figures.shards} shards run at once"
        return Way.INLINE, f"{who} in an inline Map, without queue or children"
    saved_s, more = loop.end_s - mapped.end_s, mapped.cost - loop.cost
    if saved_s < max(SOONER_S, SOONER_BY * loop.end_s):
        return Way.LOOP, f"a map would end {_sooner(saved_s)}, and cost {_dollars(more)} {_more(more)}"
    if more > DEARER_BY * loop.cost:
        return Way.LOOP, f"a map would end {_sooner(saved_s)}, but cost {_dollars(more)} more (over {DEARER_BY:.0%})"
    return Way.MAP, f"it ends {_sooner(saved_s)} than the loop, for {_dollars(more)} {_more(more)}"


def _sooner(saved_s: float) -> str:
    if abs(saved_s) < 3:
        return "no sooner"
    return f"{abs(saved_s) / 60:,.1f} min {'sooner' if saved_s >= 0 else 'later'}"


def _more(more: float) -> str:
    return "more" if more >= 0 else "less"


def _dollars(amount: float) -> str:
    return f"{abs(amount):,.{2 if abs(amount) >= 1 else 4}f} USD"
