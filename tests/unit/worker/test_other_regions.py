"""Inputs of another region are fetched for Spark, whose S3A asks one region only."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sparklet.job.outcome import EVENT
from sparklet.model import ShardState
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from tests.unit.worker.conftest import Bench


@pytest.mark.parametrize(("allowed", "abroad"), [(True, True), (True, False), (False, True)])
def test_cross_region_objects_are_fetched_if_allowed(bench: Bench, allowed: bool, abroad: bool) -> None:
    bench.plan()
    bench.store.put("s3://in/0.csv", b"far away\n\n")
    bench.store.regions = {"in": "eu-west-1"} if abroad else {}
    run = bench.ledger.runs.get("run-1")
    bench.ledger.runs.entered["run-1"] = replace(run, options=replace(run.options, other_region=allowed))
    seen: list[bytes | str] = []

    def read(call: ScriptCall, output: Output) -> ScriptResult:
        (uri,) = json.loads(call.env[EVENT])["inputs"]
        seen.append(Path(uri.removeprefix("file://")).read_bytes() if uri.startswith("file://") else uri)
        return ScriptResult(0)

    bench.runner.behaviour = read
    bench.deliver()

    assert bench.ledger.shards.get("run-1", 0).state is ShardState.SUCCEEDED
    assert seen == [b"far away\n\n" if allowed and abroad else "s3://in/0.csv"]
