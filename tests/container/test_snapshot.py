"""The image under SnapStart: Lambda's own runtime client, a stand-in for the runtime API, a freeze of the container."""

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


def test_the_image_is_primed_and_thawed(image: BuiltImage, cell: Cell, observed: list[str]) -> None:
    with cell.entered(), lambda_environment(OBJECTS) as around:
        own = {"SPARKLET_SCRIPT_PREFIXES": "s3://bucket/", "SCRIPT_LOCATION": "s3://bucket/job.py"}
        conditions = Conditions(memory_mb=3008, env={**around.variables(), **own})
        with without_emulator(image, cell, conditions) as container:
            assert around.snapshot.wait(deadline_s()), container.said()
            primed_s = time.time()
            assert around.asked == set()
            with container.frozen():
                end_s = time.monotonic() + FROZEN_S
                eventually(lambda: time.monotonic() > end_s, "the freeze is over")
                around.key = "TODAY"
            around.restored.set()

            answer = around.invoke({}).get("answer")

            said = container.said()
            assert answer, said
            assert (answer["rows"], answer["keys"]) == (2, ["TODAY", "TODAY"])
            assert answer["jvm_started_s"] < primed_s
            assert around.asked == {("boto3", "TODAY"), ("S3A", "TODAY")}
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    [primed] = [line for line in lines if line["message"] == "primed"]
    assert primed["jvm_kept"], said
    observed.append(f"priming in the image took {primed['duration_s']} s: {', '.join(primed['parts'])}")
