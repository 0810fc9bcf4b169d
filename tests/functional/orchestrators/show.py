"""Run an example in its orchestrator, over a deployment in memory; print what the orchestrator has of each input.

Call it as ``show.py airflow|dagster|prefect`` in the environment of ``make orchestrators-venv``; the output is JSON.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sparklet import client
from sparklet.app.costs import WorkerSize
from sparklet.app.stack import OpenStack
from sparklet.model import Failure, ShardResult
from sparklet.model.shards import APART
from tests.stand_ins.memory import Machine, MemoryCompute, MemoryOrchestrator
from tests.world import World

DAY = "2026-11-20"
BAD = Failure("ValueError", "column 3 is bad", retryable=False)

world = World()
world.store.put("s3://jobs/clean.py", b"print('clean')\n")
bad = world.put(4, folder=f"s3://raw/{DAY}/")[2]


def work(duration_s: float) -> None:
    """Do the workers' part while a command waits: they split a shard into its inputs, of which one fails."""
    world.clock.advance(duration_s)
    attempts = world.ledger.attempts
    while message := world.receive():
        attempt_id, claim = world.claim(message)
        record = claim.record
        mine = record.run_id, record.number, attempt_id
        uri = next(shard.objects[0].uri for shard in world.planned(record.run_id) if shard.number == record.number)
        if record.object_count > 1:
            attempts.release(*mine, BAD, "", APART)
        elif uri == bad:
            attempts.fail(*mine, BAD)
        else:
            outcome = {"shard": record.number, "input": uri, "outputs": [f"{uri}.parquet"], "rows": 7}
            file = world.deployment.run_uri(record.run_id, record.inputs_file)
            world.store.put(file, b"{}\n" + json.dumps(outcome).encode())
            attempts.succeed(*mine, ShardResult(rows=7, output_bytes=10))
        world.queue.delete(message.receipt)


@contextmanager
def opened(*_: Any, **__: Any) -> Iterator[OpenStack]:
    machines: dict[str, Machine | None] = {}
    orchestrator = MemoryOrchestrator(machines, world.clock)
    yield OpenStack(world.deployment, MemoryCompute({}), "worker", None, WorkerSize(), orchestrator, "sparklet")  # type: ignore[arg-type]


def airflow() -> dict[str, Any]:
    """The state and the returned value of each mapped task, by its input."""
    import pendulum

    from examples.airflow_inputs import daily_sales

    run = daily_sales().test(logical_date=pendulum.parse(DAY))
    tasks = [each for each in run.get_task_instances() if each.task_id == "file"]
    return {each.rendered_map_index: [each.state, each.xcom_pull("file", map_indexes=each.map_index)] for each in tasks}


def dagster() -> dict[str, Any]:
    """The event and the metadata of each partition of the files' asset."""
    import dagster as dg

    from examples.dagster_inputs import defs

    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize([defs.get_assets_def("sales")], instance=instance)
        assert instance.get_dynamic_partitions("sales_files")
        key = dg.AssetKey("sales_file")
        events = [event for event in done.all_events if event.asset_key == key]
        found = {}
        for event in events:
            data = event.event_specific_data
            of = getattr(data, "materialization", None) or data.asset_observation
            found[event.partition] = [event.event_type_value, {n: v.value for n, v in of.metadata.items()}]
        assert set(instance.get_materialized_partitions(key)) == {file for file in found if file != bad}
        return found


def prefect() -> dict[str, Any]:
    """The rows of the artifact's table, by their inputs."""
    from prefect.artifacts import Artifact
    from prefect.testing.utilities import prefect_test_harness

    from examples.prefect_inputs import daily_sales

    with prefect_test_harness():
        assert daily_sales(DAY) == 21
        artifact = Artifact.get(f"sales-{DAY}-0")
        return {each["input"]: each for each in json.loads(artifact.data)}


world.clock.sleep = work  # type: ignore[method-assign]
client.open_stack = opened  # type: ignore[attr-defined]
shown = {"airflow": airflow, "dagster": dagster, "prefect": prefect}[sys.argv[1]]()
print(f"\n{json.dumps(shown)}")
