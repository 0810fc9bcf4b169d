"""How much less than a spark-submit for every event does the worker need in the real image, with a function's limits?

Both are functions of the image that ``make image`` built, behind the emulator in a locked-down container: Sparklet's
worker, and ``plain_function``, which starts a spark-submit for each event. CSV from S3 to Parquet on S3, in a stand-in.
Each turn: a fresh container of each, its first event (cold), then further ones (warm). CPU time and peak memory
are the container's, by its control group; memory has the page cache and /tmp in it.

    python -m benchmarks.image [--rounds 5] [--invocations 10]
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from benchmarks.comparison import SPARKLET, Case, Run, document, options, publish
from benchmarks.facts import ROOT
from benchmarks.process_tree import end_on_sigterm
from benchmarks.workload import JOBS, ROWS, check_groups, sales
from tests.container.account import Account, new_account
from tests.container.built_image import BuiltImage, built_image
from tests.container.cell import Cell, new_cell
from tests.container.container import HANDLER, Conditions, Container, remove_orphans, running
from tests.stand_ins.ministack import ministack

RIVAL = "plain"
TIMEOUT_S = 300
SIZES = {
    "0.58 vCPU, 1,024 MB": (0.58, 1024),
    "1 vCPU, 1,769 MB": (1.0, 1769),
    "1.7 vCPUs, 3,008 MB": (1.7, 3008),
}
"""Functions, with the vCPUs that Lambda gives for their memory: one for 1,769 MB."""
INSIDE = "/opt/bench"
HANDLERS = {SPARKLET: HANDLER, RIVAL: "benchmarks.plain_function.lambda_handler"}


@dataclass
class Place:
    """The image, and what there is of AWS."""

    image: BuiltImage
    cell: Cell
    account: Account
    script_uri: str
    _number: Iterator[int] = field(default_factory=count)

    def function(self, side: str, size: str) -> Conditions:
        """The limits of a function of this size."""
        cpus, memory_mb = SIZES[size]
        own = {"SCRIPT_LOCATION": self.script_uri, "PYTHONPATH": f"/opt/sparklet/python:{INSIDE}"}
        mounts = {ROOT / "benchmarks" / "plain_function.py": f"{INSIDE}/benchmarks/plain_function.py"}
        env = {**self.account.env, **own} if side == RIVAL else {**self.account.env, "SCRIPT_LOCATION": self.script_uri}
        return Conditions(memory_mb, TIMEOUT_S, cpus, env=env, mounts=mounts if side == RIVAL else {})

    def invoke(self, container: Container) -> Run:
        """One event; its output is checked and deleted."""
        output = self.account.uri(f"output/{next(self._number)}")
        event = {"input": self._s3a("input/sales.csv"), "output": output.replace("s3:", "s3a:", 1)}
        before_s = container.cpu_s()
        began_s = time.monotonic()
        answer = container.invoke(event)
        wall_s = time.monotonic() - began_s
        cpu_s = container.cpu_s() - before_s
        if "SUCCEEDED" not in answer.text:
            raise SystemExit(f"the function failed: {answer.text}\n{container.logs()[-3000:]}")
        with tempfile.TemporaryDirectory() as folder:
            check_groups(self.account.download(output, Path(folder)))
        return Run(wall_s, cpu_s, container.peak_memory_bytes() / 2**20)

    def _s3a(self, key: str) -> str:
        return self.account.uri(key).replace("s3:", "s3a:", 1)


@contextmanager
def place() -> Iterator[Place]:
    """The image in a network of its own, with script and data in the stand-in."""
    end_on_sigterm()
    image = built_image()
    remove_orphans(image)
    with (
        new_cell() as cell,
        tempfile.TemporaryDirectory() as folder,
        cell.entered(),
        ministack(Path(folder)) as endpoint,
        new_account(endpoint, TIMEOUT_S) as account,
    ):
        account.put("input/sales.csv", sales())
        script_uri = account.put("scripts/csv_to_parquet.py", (JOBS / "csv_to_parquet.py").read_bytes())
        yield Place(image, cell, account, script_uri)


def measure(at: Place, size: str, cold: Case, warm: Case, invocations: int) -> None:
    """A fresh container of each side; the rival's second event stands for all further ones."""
    for side, further in ((SPARKLET, invocations), (RIVAL, 1)):
        with running(at.image, at.cell, at.function(side, size), HANDLERS[side]) as container:
            cold.add(side, at.invoke(container))
            warm.add(side, *(at.invoke(container) for _ in range(further)))


def main() -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--invocations", type=int, default=10, help="warm ones a turn")
    given = parser.parse_args()
    cases = {size: (Case(f"cold, {size}", [RIVAL]), Case(f"warm, {size}", [RIVAL])) for size in SIZES}
    with place() as at:
        for _ in range(given.rounds):
            for size, (cold, warm) in cases.items():
                measure(at, size, cold, warm, given.invocations)
        parameters = {
            "rows": ROWS,
            "image": at.image.document["id"][:12],
            "rival": "a function that starts Java with SparkSubmit, -Xmx1g, for each event",
            "memory": "the control group's peak: page cache and /tmp are in it",
        }
        question = "How much less than a spark-submit for every event does the worker need in the real image?"
        publish(document("image", question, parameters, [case for pair in cases.values() for case in pair]))


if __name__ == "__main__":
    main()
