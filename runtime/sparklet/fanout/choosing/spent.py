"""What a run has cost so far, from the seconds in its ledger."""

from collections.abc import Mapping
from dataclasses import dataclass

from sparklet.fanout.choosing.prices import Prices
from sparklet.fanout.choosing.ways import Way, Worker, dispatch_cost, worker_costs
from sparklet.fanout.reporting.observed import Observation

INCLUDED = (
    "Lambda's seconds and requests of this generation's attempts, their messages or states, ledger and S3 requests"
)
EXCLUDED = "cold starts, planner and checker, earlier generations, storage, transfer, logs"


@dataclass(frozen=True, slots=True)
class Spent:
    """US dollars, by what was paid for."""

    costs: Mapping[str, float]
    worked_s: float  # that Lambda has billed for

    @property
    def cost(self) -> float:
        """All together."""
        return sum(self.costs.values())


def spent(found: Observation, way: Way | None, worker: Worker, prices: Prices) -> Spent:
    """Estimate what the attempts so far have cost; ``way`` None: messages, and no machine beside them."""
    attempts, age_s = found.summary.attempts, found.now_s - found.summary.created_s
    if found.summary.state.ended:
        age_s = found.summary.duration_s
    if way is None:
        handed_out = attempts * prices["assumptions.sqs_requests_a_shard"] * prices["prices.sqs_request"]
    else:
        handed_out = dispatch_cost(way, attempts, max(0.0, age_s), prices)
    worked_s = found.worked_s
    return Spent({"dispatch": handed_out, **worker_costs(worked_s, attempts, worker, prices)}, worked_s)
