"""The image under SnapStart: Lambda's own runtime client, a stand-in for the runtime API, and a frozen container."""

import json
import time

from tests.container.built_image import BuiltImage
from tests.container.cell import Cell
from tests.container.container import Conditions, without_emulator
from tests.functional.worker.test_priming import JOB
from tests.stand_ins.lambda_environment import lambda_environment
from tests.waiting import deadline_s, eventually

FROZEN_S = 3.0
OBJECTS = {"/bucket/job.py": JOB, "/bucket/rows.csv": b"id\n1\n2\n"}


def test_the_image_is_primed_and_works_after_a_restore(image: BuiltImage, cell: Cell, observed: list[str]) -> None:
    with cell.entered(), lambda_environment(OBJECTS) as lambda_:
        own = {"SPARKLET_SCRIPT_PREFIXES": "s3://bucket/", "SCRIPT_LOCATION": "s3://bucket/job.py"}
        conditions = Conditions(memory_mb=3008, env={**lambda_.variables(), **own})
        with without_emulator(image, cell, conditions) as container:
            assert lambda_.snapshot.wait(deadline_s()), container.logs()
            primed_s = time.time()
            assert lambda_.asked == set()
            with container.frozen():
                end_s = time.monotonic() + FROZEN_S
                eventually(lambda: time.monotonic() > end_s, "the freeze is over")
                lambda_.key = "TODAY"
            lambda_.restored.set()

            answer = lambda_.invoke({}).get("answer")

            logs = container.logs()
            assert answer, logs
            assert (answer["rows"], answer["keys"]) == (2, ["TODAY", "TODAY"])
            assert answer["jvm_started_s"] < primed_s
            assert lambda_.asked == {("boto3", "TODAY"), ("S3A", "TODAY")}
    lines = [json.loads(line) for line in logs.splitlines() if line.startswith("{")]
    [primed] = [line for line in lines if line["message"] == "primed"]
    assert primed["jvm_kept"], logs
    observed.append(f"priming in the image took {primed['duration_s']} s: {', '.join(primed['parts'])}")
