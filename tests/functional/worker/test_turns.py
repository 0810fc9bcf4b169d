"""Turns of one process on real Spark: what one turn does and says is its own."""

import json
import time
import uuid
from pathlib import Path

import pytest

from sparklet.errors import DeadlineExceededError
from sparklet.worker.guards import TaskDir
from sparklet.worker.runner import ScriptCall, ScriptResult
from sparklet.worker.turns import Turns
from tests.functional.worker.conftest import Bench

pytestmark = [pytest.mark.spark, pytest.mark.slow]

SCRIPT = """# sparklet: batch=together
import os, sys, time, traceback
from sparklet.job import Job

for job in Job.each():
    spark = job.spark(conf={"spark.sql.catalog.mine.warehouse": job.output})
    where = spark.conf.get("spark.sql.catalog.mine.warehouse")
    print(where, spark.sparkContext.applicationId, os.getpid(), spark.range(3).count(), flush=True)
    job.report()
    what = job.params.get("what")
    if what == "complain":
        try:
            spark.table("of_nobody")
        except Exception:
            traceback.print_exc()
    if what == "exit":
        os._exit(7)
    if what == "hang":
        time.sleep(600)
"""


def test_each_turn_has_its_own_deadline_cause_and_tables(warm: Bench, tmp_path: Path) -> None:
    warm.settle()
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    said: list[str] = []
    turns = Turns(warm.runner, end_s=time.time() + 300)

    def turn(number: int, what: str, limit_s: float = 120) -> ScriptResult:
        event = {"output_path": f"/nowhere/{number}", "params": {"what": what}}
        turns.behind = 5 - number
        with TaskDir(warm.scratch, uuid.uuid4().hex[:12]) as folder:
            outcome = {"SPARKLET_OUTCOME_FILE": str(folder / "outcome.json")}
            args = ("--event", json.dumps(event))
            call = ScriptCall(script, args, folder, time.time() + limit_s, outcome, turns="these")
            return turns.run(call, lambda stream, line: said.append(line.decode()) if stream == "stdout" else None)

    assert [turn(0, "").exit_code, turn(1, "complain").exit_code] == [0, 0]
    died = turn(2, "exit")
    assert turn(3, "").exit_code == 0
    with pytest.raises(DeadlineExceededError, match=r"at line \d+ of job.py"):
        turn(4, "hang", warm.deadline_s)
    assert turn(5, "").exit_code == 0

    assert (died.exit_code, died.cause_class) == (7, "")  # not what the turn before it had to complain of
    outputs, contexts, processes, _ = zip(*(line.split() for line in said), strict=True)
    assert outputs == tuple(f"/nowhere/{number}" for number in range(6))
    assert len(set(processes)) == 3 and len(set(contexts[:3])) == 1
