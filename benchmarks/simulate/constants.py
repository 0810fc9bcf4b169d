"""What AWS and others say, with date and source, and a range for what nobody says.

Both were fixed before the first comparison with a published result, and are not tuned to any. ``--constants`` prints
them. Prices are Sparklet's own: ``runtime/sparklet/app/prices.toml``.
"""

import random
from dataclasses import dataclass

from sparklet.model.quantities import Figure

AWS_2022 = "AWS Compute Blog, Understanding how AWS Lambda scales with Amazon SQS standard queues"
AWS_2023 = "AWS Compute Blog, Introducing faster polling scale-up for AWS Lambda functions configured with Amazon SQS"
AWS_GUIDE = "AWS Lambda guide, Configuring scaling behavior for SQS event source mappings"
AWS_PROVISIONED = "AWS News Blog, AWS Lambda enhances event processing with provisioned mode for SQS"
AWS_LAMBDA = "AWS Lambda guide, Lambda scaling behavior"

FACTS = {
    # the mapping until November 2023
    "sqs_2022.first": Figure(5, "2022-09", AWS_2022),
    "sqs_2022.a_minute": Figure(60, "2022-09", AWS_2022),
    "sqs_2022.most": Figure(1_250, "2023-11", AWS_2023 + ", of the time before; in 2022 AWS said 1,000"),
    "lambda_2022.burst": Figure(3_000, "2023-06", "AWS Lambda guide, Burst concurrency: us-east-1; 500 elsewhere"),
    "lambda_2022.a_second": Figure(500 / 60, "2023-06", "AWS Lambda guide, Burst concurrency: 500 a minute"),
    # the mapping today, without and with provisioned pollers
    "sqs_2026.first": Figure(5, "2026-11", AWS_GUIDE),
    "sqs_2026.a_minute": Figure(300, "2026-11", AWS_GUIDE),
    "sqs_2026.most": Figure(1_250, "2026-11", AWS_GUIDE),
    "sqs_2026.maximum_concurrency": Figure(1_000, "2026-11", AWS_GUIDE + ": the most that MaximumConcurrency may be"),
    "provisioned.first": Figure(20, "2026-11", AWS_GUIDE + ": at least 2 pollers of 10 invocations each"),
    "provisioned.a_minute": Figure(1_000, "2025-11", AWS_PROVISIONED),
    "provisioned.most": Figure(100_000, "2026-08", AWS_GUIDE + ": at most 10,000 pollers; 2,000 in 2025"),
    "provisioned.poller_hour_usd": Figure(0.00925, "2025-11", "AWS Lambda price list, secondary"),
    "lambda_2026.burst": Figure(1_000, "2026-11", AWS_LAMBDA + ": new environments of a function at once"),
    "lambda_2026.a_second": Figure(100, "2026-11", AWS_LAMBDA + ": 1,000 every ten seconds, refilled continuously"),
    "lambda.account": Figure(1_000, "2026-11", "AWS Lambda quotas: concurrent executions by default"),
    "map.children": Figure(10_000, "2026-11", "Step Functions quotas: children of a Distributed Map at once"),
    "map.retry_first_s": Figure(2, "2026-11", "sam/statemachines/run.asl.json, Lambda.TooManyRequestsException"),
    "map.retry_most_s": Figure(300, "2026-11", "the same, MaxDelaySeconds"),
    # ledger and S3
    "dynamodb.partition_writes": Figure(1_000, "2026-11", "DynamoDB guide: write units of a partition a second"),
    "dynamodb.table_writes": Figure(40_000, "2026-11", "DynamoDB quotas: write units of a table a second, by default"),
    "s3.puts": Figure(3_500, "2026-11", "S3 guide: puts of a prefix a second, before S3 splits it"),
    # Sparklet, measured or counted; docs/scaling.md says when
    "sparklet.partition_writes": Figure(4, "2026-11", "counted: put, claim, winner, end; as many in the index"),
    "sparklet.planned_a_s": Figure(250, "2026-11", "prices.toml, planned_a_s; 625 were measured on two cores"),
    "sparklet.check_every_s": Figure(60, "2026-11", "sam/template.yaml: the checker's schedule"),
    "sparklet.finish_a_s": Figure(5_500, "2026-11", "measured: 0.18 ms a shard for the last count and the manifests"),
    "sparklet.run_limit_s": Figure(3 * 86_400, "2026-11", "planning/request: a run's time limit"),
    "sparklet.plan_usd": Figure(0.46e-6, "2026-11", "computed: planner 0.06 and plan parts 0.40 a million shards"),
    "sparklet.check_reads": Figure(0.01, "2026-11", "computed: read units of a check for an open shard"),
}


@dataclass(frozen=True, slots=True)
class Range:
    """What is not known: between ``least`` and ``most``, ``usual`` if it has to be one value."""

    least: float
    usual: float
    most: float
    why: str

    def drawn(self, rng: random.Random) -> float:
        """A value: log-uniform if the range spans more than a factor of four, else uniform."""
        if self.least > 0 and self.most > 4 * self.least:
            return float(self.least * (self.most / self.least) ** rng.random())
        return rng.uniform(self.least, self.most)


RANGES = {
    "retry_first_s": Range(0.1, 0.5, 1.0, "first wait after a throttle; AWS's SDKs: 0.5 to 1, full jitter, doubled"),
    "retry_most_s": Range(5, 20, 120, "longest wait after throttles; AWS's SDKs: 20"),
    "turnaround_s": Range(0.005, 0.03, 0.1, "a poller between two invocations: delete, receive, invoke"),
    "slots_a_throttle": Range(
        0, 0.05, 0.2, "AWS: throttles reduce the mapping's concurrency gradually; not by how much"
    ),
    "slots_an_error": Range(0.2, 1, 5, "AWS: errors reduce it gradually; assumed: a failed invocation takes its slot"),
    "used_by_others": Range(0, 5, 20, "of the account's concurrency"),
    "cold_start_s": Range(0.2, 1, 10, "of a function on its own; Sparklet's: prices.toml, cold_start_s"),
}


def fact(name: str) -> float:
    """The value of a constant."""
    return FACTS[name].value


def usual() -> dict[str, float]:
    """The middle value of each unknown."""
    return {name: each.usual for name, each in RANGES.items()}


def drawn(rng: random.Random) -> dict[str, float]:
    """Each unknown anew, independently of the others."""
    return {name: each.drawn(rng) for name, each in RANGES.items()}
