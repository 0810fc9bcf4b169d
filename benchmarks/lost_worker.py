"""How long does a shard wait whose worker is killed, from SIGKILL to the claim of its next attempt?

A run of the local stack whose one shard sleeps; its worker gets SIGKILL some seconds after the script has begun, and
the command line watches, as a user's would. All is as users have it, the function's timeout of 15 minutes too.

    python -m benchmarks.lost_worker [--rounds 5]
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.comparison import SPARKLET, Case, Run, document, options, publish
from sparklet.local.stack import LocalStack, StackOptions, stop

SCRIPT = """
import pathlib, time
from sparklet.job import Job

job = Job.from_args()
began = pathlib.Path(job.params["began"])
if not began.exists():
    began.touch()
    time.sleep(600)
job.report(rows=1)
"""
PATIENCE_S = 300.0


QUESTION = "How long does a shard wait whose worker is killed, where a command line watches?"


def main() -> None:
    """Kill, wait, print."""
    given = options(__doc__).parse_args()
    case = Case("from SIGKILL to the next claim", [])
    with tempfile.TemporaryDirectory(prefix="lost-worker-") as folder:
        for number in range(given.rounds):
            case.add(SPARKLET, Run(_wait_s(Path(folder), number), 0.0, 0.0))
        stop(Path(folder, "state"))
    publish(document("lost_worker", QUESTION, {}, [case]))


def _wait_s(folder: Path, number: int) -> float:
    began, script, source, state = folder / f"began-{number}", folder / "job.py", folder / "in", folder / "state"
    script.write_text(SCRIPT)
    source.mkdir(exist_ok=True)
    (source / "a.csv").write_text("1\n")
    run_id = f"kill-{number}"
    where = ["-i", str(source), "-o", str(folder / run_id), "--run-id", run_id, "--param", f"began={began}"]
    command = [sys.executable, "-m", "sparklet.cli", "run", str(script), *where, "--workers", "1", "--keep-stack"]
    env = {**os.environ, "SPARKLET_STATE_DIR": str(state)}
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        give_up_s = time.monotonic() + PATIENCE_S
        while not began.exists() and process.poll() is None and time.monotonic() < give_up_s:
            time.sleep(0.05)
        time.sleep(random.uniform(1, 20))
        killed_s = time.time()
        for pid in _workers(state):
            os.kill(pid, signal.SIGKILL)
        _, said = process.communicate(timeout=PATIENCE_S)
    if process.returncode != 0:
        raise SystemExit(f"the run ended with {process.returncode}:\n{said}")
    with LocalStack.attach(StackOptions(state_dir=state, processing=False, keep=True)) as stack:
        record = stack.deployment().ledger.shards.get(run_id, 0)
    if record.attempts != 2:
        raise SystemExit(f"{record.attempts} attempts: no worker was killed in the middle of its shard")
    return record.started_s - killed_s


def _workers(state: Path) -> list[int]:
    """Processes of the worker function that belong to a state folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                command, env = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            except OSError:
                continue
            if b"_worker.py" in command and b"WorkerFunction" in command and os.fsencode(state) in command + env:
                found.append(int(entry.name))
    return found


if __name__ == "__main__":
    main()
