"""Where cold and warm starts are compared: the jobs, the function and its rivals, on this machine, each tried once."""

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.comparison import say
from benchmarks.function import MEMORY_MB, Function, function
from benchmarks.process_tree import end_on_sigterm
from benchmarks.rivals import SparkSubmit, parameters, plain, tuned
from benchmarks.workload import ROWS, Job, jobs

RIVALS = ("plain", "tuned")


@dataclass(frozen=True)
class Stage:
    """All that takes part."""

    jobs: list[Job]
    function: Function
    rivals: list[SparkSubmit]
    has_archive: bool

    @property
    def parameters(self) -> dict[str, Any]:
        """What a reader of the figures has to know."""
        return {
            "rows": ROWS,
            "function_memory_mb": MEMORY_MB,
            "class_data_archive": self.has_archive,
            "rivals": parameters(self.rivals),
            "memory": "resident memory of all processes, looked at five times a second; shared pages count in each",
        }


@contextmanager
def stage(names: Collection[str] = (), rivals: Collection[str] = RIVALS) -> Iterator[Stage]:
    """The jobs of these names (none: all), tried once on both sides so that every file is in the page cache.

    Parameters
    ----------
    rivals
        Which take part.
    """
    end_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="sparklet-bench-") as name:
        folder = Path(name)
        chosen = [job for job in jobs(folder / "data") if not names or job.name in names]
        with function(folder, chosen) as worker:
            known = {"plain": plain, "tuned": tuned}
            others = [known[rival](worker.env, folder) for rival in RIVALS if rival in rivals]
            say("every job once, not measured: tables are made, files get into the page cache")
            with worker.environment() as environment:
                for job in chosen:
                    environment.run(job)
                has_archive = environment.uses_archive()
            for rival in others:
                rival.run(chosen[0])
            yield Stage(chosen, worker, others, has_archive)
