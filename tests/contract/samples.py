"""Sample runs and shards for the ledger's suite."""

from sparklet.model import (
    Claim,
    ClaimStatus,
    Dispatch,
    Failure,
    NextRun,
    PartRecord,
    Position,
    Run,
    RunOptions,
    ScriptRef,
    ShardRecord,
    ShardRef,
)
from sparklet.ports import Ledger

LEASE_S = 100.0
MAX_ATTEMPTS = 3
BROKEN = Failure("AnalysisException", "no such column: 'größe'", retryable=False)
FLAKY = Failure("GatewayLostError", "the JVM went away")


def script(name: str = "job") -> ScriptRef:
    return ScriptRef(f"s3://b/runs/{name}.py", "0" * 64, f"s3://mine/{name}.py", ("s3://b/runs/a.zip",))


def run(run_id: str, created_s: float = 1_700_000_000.25) -> Run:
    return Run(
        run_id=run_id,
        inputs=("s3://in/a/", "s3://in/ü b+%/"),
        output_uri="s3://out/x",
        scripts=(script(),),
        args=("--day", "2013-01-01"),
        params={"n": 1, "deep": {"list": [1, 2.5, None, "é"]}},
        options=RunOptions(include=("*.csv",), exclude=("_*", "tmp/*"), tolerated_failure_percentage=2.5),
        dispatch=Dispatch.MAP,
        check=script("check"),
        next=NextRun(script("next"), "s3://out/y/"),
        parent="another",
        created_s=created_s,
    )


def part(index: int, first_shard: int, shard_count: int) -> PartRecord:
    return PartRecord(
        index=index,
        part=f"part-{index:06d}.jsonl",
        first_shard=first_shard,
        shard_count=shard_count,
        object_count=2 * shard_count,
        size_bytes=10 * shard_count,
        position=Position(1, f"a/ü {index}#?%.csv", 3, "etag-of-what-is-cut"),
    )


def shard(run_id: str, number: int) -> ShardRecord:
    return ShardRecord(
        run_id=run_id,
        number=number,
        part="part-000000.jsonl",
        offset=100 * number,
        length=100,
        object_count=2,
        size_bytes=5 * 1024**4,
    )


def ref(run_id: str, number: int = 0, generation: int = 0) -> ShardRef:
    return ShardRef(run_id, number, generation, "part-000000.jsonl", 100 * number, 100)


def planned(ledger: Ledger, run_id: str, shard_count: int = 1) -> None:
    """Enter a run whose shards are all PENDING and whose plan is sealed."""
    ledger.runs.create(run(run_id))
    if shard_count:
        ledger.runs.add_part(run_id, part(0, 0, shard_count))
    ledger.shards.add(shard(run_id, number) for number in range(shard_count))
    ledger.runs.seal_plan(run_id, shard_count, 2 * shard_count, 10 * shard_count)


def claim(ledger: Ledger, run_id: str, attempt_id: str, generation: int = 0) -> Claim[ShardRecord]:
    return ledger.attempts.claim(
        ref(run_id, 0, generation), attempt_id, LEASE_S, MAX_ATTEMPTS, "2026/11/20/[$LATEST]abc"
    )


def use_up(ledger: Ledger, run_id: str) -> None:
    """Claim and release the shard until no attempt is left."""
    for number in range(MAX_ATTEMPTS):
        assert claim(ledger, run_id, f"used-{number}").status is ClaimStatus.GRANTED
        ledger.attempts.release(run_id, 0, f"used-{number}", FLAKY)
