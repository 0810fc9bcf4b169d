"""How long a run takes, what limits it, and what it costs, part by part."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from benchmarks.simulate.constants import fact
from benchmarks.simulate.result import Result
from benchmarks.simulate.setup import NEVER, Scaling, Setup, by_engine, by_map, by_queue
from benchmarks.simulate.simulation import simulate
from sparklet.app.costs import Load, Prices, WorkerSize, work_costs
from sparklet.ledger.rules import RENEWALS_PER_S
from sparklet.model import Dispatch
from sparklet.model.shards import ledger_bucket_count

LAMBDA, MAP = "lambda", "map"


@dataclass(frozen=True, kw_only=True)
class Question:
    """A run of one's own."""

    shards: int
    seconds: Sequence[float]
    engine: str = LAMBDA  # or ``map``: functions by a Distributed Map, or an engine of ``prices.toml``
    concurrency: int = WorkerSize.concurrency
    memory_mb: int = WorkerSize.memory_mb
    account: int = int(fact("lambda.account"))
    pollers: int = 0  # provisioned; 0: none
    failed: float = 0.0
    lost: float = 0.0  # workers
    cold_start_s: float | None = None  # None: as in prices.toml
    seed: int = 0

    def setup(self, prices: Prices) -> Setup:
        """The simulation's input."""
        work = (self.shards, self.seconds, self.concurrency)
        rates: dict[str, Any] = {"failed": self.failed, "errors": self.lost}
        if self.engine not in (LAMBDA, MAP):
            return replace(by_engine(*work, prices["assumptions.engine_start_s"]), **rates)
        cold_s = prices["assumptions.cold_start_s"] if self.cold_start_s is None else self.cold_start_s
        setup = by_map(*work) if self.engine == MAP else by_queue(*work)
        if self.pollers:
            setup = replace(setup, scaling=Scaling.named("provisioned", 10 * self.pollers))
        return replace(setup, **rates, cold_start_s=cold_s, capacity=self.account)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run comes to."""

    question: Question
    setup: Setup
    result: Result
    costs: Mapping[str, float]  # US dollars, by part
    limits: Mapping[str, float]  # shards a second, by what limits them

    @property
    def cost(self) -> float:
        """US dollars in total."""
        return sum(self.costs.values())

    @property
    def end_s(self) -> float:
        """From the request to the run's manifests: its last shard, then a check that counts all of them."""
        return self.result.end_s + self.question.shards / fact("sparklet.finish_a_s")

    @property
    def limited_by(self) -> str:
        """What most of the time goes to."""
        name, limit = min(self.limits.items(), key=lambda each: each[1])
        if 2 * self.question.shards / limit > self.end_s:
            return f"{name}, {limit:,.1f} a second"
        alone_s = self.setup.cold_start_s + max(self.setup.seconds)
        return "one shard and its cold start" if self.end_s < 2 * alone_s else "the mapping's growth"

    def document(self) -> dict[str, Any]:
        """All figures, for ``--json`` and the page."""
        result = asdict(self.result)
        figures = {"end_s": self.end_s, "cost_usd": self.cost, "limited_by": self.limited_by, "lost": self.result.lost}
        asked = {**asdict(self.question), "seconds": fmean(self.question.seconds)}
        return {
            "question": asked,
            **figures,
            "costs_usd": self.costs,
            "limits_shards_a_s": self.limits,
            "result": result,
        }


def answer(question: Question, prices: Prices) -> Answer:
    """Simulate a run once."""
    setup = question.setup(prices)
    result = simulate(setup, question.seed)
    return Answer(question, setup, result, _costs(question, setup, result, prices), _limits(question, setup, prices))


def _limits(question: Question, setup: Setup, prices: Prices) -> dict[str, float]:
    """Shards a second that each part lets through once it has scaled."""
    mean_s = fmean(setup.seconds)
    most = setup.scaling.most
    partitions = ledger_bucket_count(question.shards)
    renewals = min(RENEWALS_PER_S, 2 * min(most, setup.capacity) / (setup.ledger.lease_s if setup.ledger else NEVER))
    writes = (fact("dynamodb.partition_writes") * partitions - renewals) / fact("sparklet.partition_writes")
    limits = {
        "planner": fact("sparklet.planned_a_s"),
        "pollers": most / (mean_s + setup.turnaround_s),
        "functions": setup.capacity / mean_s,
        "ledger's partitions": writes,
        "ledger's table": fact("dynamodb.table_writes") / prices["assumptions.ledger_writes_a_shard"],
        "S3's prefix": fact("s3.puts") / sum(prices[f"assumptions.s3_puts_a{n}"] for n in ("_shard", "n_output")),
        "checker": setup.sent_a_s,
    }
    unlike = "checker" if question.engine in (LAMBDA, MAP) else "functions"
    by_queue_alone = question.engine == LAMBDA and not question.pollers
    slots = "MaximumConcurrency" if by_queue_alone else "pollers" if question.pollers else "workers at once"
    return {slots if name == "pollers" else name: limit for name, limit in limits.items() if name != unlike}


def _costs(question: Question, setup: Setup, result: Result, prices: Prices) -> dict[str, float]:
    size = WorkerSize(memory_mb=question.memory_mb)
    dispatch = Dispatch.MAP if question.engine == MAP else Dispatch.QUEUE
    engine = "" if question.engine in (LAMBDA, MAP) else question.engine
    cold_s = result.cold_starts * setup.cold_start_s
    costs = work_costs(dispatch, result.billed_s - cold_s, Load(result.attempts), size, prices, engine)
    if not engine:
        costs["cold starts"] = work_costs(dispatch, cold_s, Load(0), size, prices)["lambda"]
    extra = max(0, result.receives - result.attempts)
    if dispatch is Dispatch.QUEUE and extra:
        costs["dispatch"] = costs.get("dispatch", 0.0) + extra * prices["prices.sqs_request"]
    reads = result.open_check_s * fact("sparklet.check_reads") * prices["prices.ledger_read"]
    costs["planner, checks"] = question.shards * fact("sparklet.plan_usd") + reads
    if question.pollers:
        costs["pollers"] = question.pollers * result.end_s / 3_600 * fact("provisioned.poller_hour_usd")
    return costs


def sweep(question: Question, values: Sequence[int], prices: Prices) -> Iterator[Answer]:
    """The answers with each concurrency."""
    for value in values:
        yield answer(replace(question, concurrency=value, account=max(question.account, value)), prices)


def steps(least: int, most: int, count: int = 9) -> list[int]:
    """So many values, each about as many times the one before."""
    return sorted({round(least * (most / least) ** (n / (count - 1))) for n in range(count)})
