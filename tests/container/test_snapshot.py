"""The image under SnapStart: Lambda's own runtime client, a stand-in for the runtime API, a freeze of the container."""

import json
import time

from tests.container.built_image import BuiltImage
from tests.container.cell import Cell
from tests.container.container import Conditions, without_emulator
from tests.functional.worker.test_rehearsal import JOB
from tests.stand_ins.lambda_environment import lambda_environment

INIT_LIMIT_S = 130
FROZEN_S = 3.0
OBJECTS = {"/bucket/job.py": JOB, "/bucket/rows.csv": b"id\n1\n2\n"}


def test_the_image_rehearses_and_is_thawed(image: BuiltImage, cell: Cell, observed: list[str]) -> None:
    with cell.entered(), lambda_environment(OBJECTS) as around:
        own = {"SPARKLET_SCRIPT_PREFIXES": "s3://bucket/", "SCRIPT_LOCATION": "s3://bucket/job.py"}
        conditions = Conditions(memory_mb=3008, env={**around.variables(), **own})
        with without_emulator(image, cell, conditions) as container:
            assert around.snapshot.wait(INIT_LIMIT_S), container.said()
            rehearsed_s = time.time()
            assert around.asked == set()
            with container.frozen():
                time.sleep(FROZEN_S)
                around.key = "TODAY"
            around.restored.set()

            answer = around.invoke({}).get("answer")

            said = container.said()
            assert answer, said
            assert (answer["rows"], answer["keys"]) == (2, ["TODAY", "TODAY"])
            assert answer["jvm_started_s"] < rehearsed_s
            assert around.asked == {("boto3", "TODAY"), ("S3A", "TODAY")}
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    [rehearsed] = [line for line in lines if line["message"] == "rehearsed"]
    assert rehearsed["jvm_kept"], said
    observed.append(f"a rehearsal in the image took {rehearsed['duration_s']} s: {', '.join(rehearsed['parts'])}")
