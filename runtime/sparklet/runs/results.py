"""The answers of shards: as they are while a run is open, and the file of all of them that its end writes.

An attempt writes its answer (``job.answer``) under its own name, below ``runs/<run_id>/answers/``, before it reports
success to the ledger. Only the answer of the attempt that succeeded is read, never that of a retry or a zombie.
"""

from collections.abc import Iterator
from math import inf
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sparklet.errors import ObjectNotFoundError
from sparklet.log import Log
from sparklet.model import ANSWERS, Run, split_uri
from sparklet.planning.commit_files import kept_files
from sparklet.ports.deployment import Deployment, scratch

RESULTS = "results.jsonl"
MAX_RESULTS_BYTES = 128 * 1024 * 1024  # of the file, which must fit into a function's /tmp
MAX_COLLECTING_S = 120.0  # then the run ends without the file


def results(deployment: Deployment, run: Run) -> Iterator[bytes]:
    """The answers of SUCCEEDED shards in order, each ``{"shard": 7, "answer": …}`` as JSON.

    Then, of a run with an output for each input, what became of each: ``{"shard": 7, "input": …, "rows": …, …}``.
    """
    if run.state.ended:
        try:
            yield from deployment.store.get(deployment.run_uri(run.run_id, RESULTS)).splitlines()
            return
        except ObjectNotFoundError:
            pass  # there are no answers, or too many for one file
    yield from _answers(deployment, run)


def write_results(deployment: Deployment, run: Run, uri: str, max_bytes: float = inf) -> dict[str, Any] | None:
    """Write all answers into a file; its entry in the manifest, the answers' folder if they are too many.

    So are they if one has more than ``max_bytes``.
    """
    until_s, count = deployment.clock.now_s() + MAX_COLLECTING_S, 0
    with TemporaryDirectory(prefix="sparklet-results-") as folder:
        path = Path(folder, RESULTS)
        with scratch("the answers of shards"), path.open("wb") as file:
            for answer in _answers(deployment, run):
                count += 1
                file.write(answer + b"\n")
                if len(answer) > max_bytes or file.tell() > MAX_RESULTS_BYTES or deployment.clock.now_s() > until_s:
                    Log().warning("answers are too many or too large; sparklet results reads them", subject=run.run_id)
                    # A file of an earlier end would pass for this one's, and lacks answers.
                    deployment.store.delete_all([uri], uri)
                    return {"Folder": split_uri(deployment.run_uri(run.run_id, ANSWERS))[1]}
        if not count:
            deployment.store.delete_all([uri], uri)  # a run of this id in another ledger may have had answers
            return None
        size_bytes = path.stat().st_size
        deployment.store.upload(path, uri)
    return {"Key": split_uri(uri)[1], "Size": size_bytes, "Answers": count}


def _answers(deployment: Deployment, run: Run) -> Iterator[bytes]:
    def bodies(name: str) -> Iterator[bytes]:
        return deployment.store.get_all(uri for _, uri in kept_files(deployment, run.run_id, ANSWERS, attrgetter(name)))

    yield from bodies("answer_file")
    for body in bodies("inputs_file") if run.options.output_per else ():
        yield from body.splitlines()[1:]  # the first says where files are, see ``worker.origins``
