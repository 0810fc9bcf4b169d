"""The answers of a run's shards (``job.answer``), and the file of them that the run's end leaves.

An attempt writes its answer under its own name, below ``runs/<run_id>/answers/``, before the ledger hears of its
success. Only the attempt whose output is the shard's counts, so what a retry or a zombie wrote is never read.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sparklet.errors import ObjectNotFoundError
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.log import log
from sparklet.fanout.scratch import scratch_error
from sparklet.model import ANSWERS, Run, ShardState
from sparklet.s3_uri import split_uri

RESULTS = "results.jsonl"
MAX_RESULTS_BYTES = 128 * 1024 * 1024  # of the file, which a function's /tmp must hold
MAX_COLLECTING_S = 120.0  # the end of a run does not wait longer for it


def results(at: Deployment, run: Run) -> Iterator[bytes]:
    """The answers of the shards that have SUCCEEDED, in order, each ``{"shard": 7, "answer": …}`` as JSON.

    They come from the file once the run has ended, else from the shards as they stand now.
    """
    if run.state.ended:
        try:
            yield from at.store.get(at.run_uri(run.run_id, RESULTS)).splitlines()
            return
        except ObjectNotFoundError:
            pass  # there are no answers, or too many for one file
    yield from _answers(at, run.run_id)


def write_results(at: Deployment, run_id: str) -> dict[str, Any] | None:
    """Write ``results.jsonl`` as it is now; what a manifest says of it, None if there are no answers.

    The file holds every answer, or it is not there: of too many, the manifest names the folder that holds them.
    """
    uri, until_s, count = at.run_uri(run_id, RESULTS), at.clock.now_s() + MAX_COLLECTING_S, 0
    with TemporaryDirectory(prefix="sparklet-results-") as folder:
        path = Path(folder, RESULTS)
        try:
            with path.open("wb") as file:
                for answer in _answers(at, run_id):
                    count += 1
                    file.write(answer + b"\n")
                    if file.tell() > MAX_RESULTS_BYTES or at.clock.now_s() > until_s:
                        log("WARN", "answers are too many for one file; sparklet results reads them", run_id)
                        at.store.delete(uri)
                        return {"Folder": split_uri(at.run_uri(run_id, ANSWERS))[1]}
        except OSError as error:
            raise scratch_error("the answers of shards", error) from error
        if not count:
            return None
        size_bytes = path.stat().st_size
        at.store.upload(path, uri)
    return {"Key": split_uri(uri)[1], "Size": size_bytes, "Answers": count}


def _answers(at: Deployment, run_id: str) -> Iterator[bytes]:
    return at.store.get_all(_uris(at, run_id))


def _uris(at: Deployment, run_id: str) -> Iterator[str]:
    """The answers that count, by the ledger; it is read only if there are any."""
    listed = (info.uri for info in at.store.list(at.run_uri(run_id, ANSWERS)))  # in order of the shards
    found = next(listed, "")
    for record in at.ledger.shards(run_id, ShardState.SUCCEEDED) if found else ():
        uri = at.run_uri(run_id, record.answer_file)
        while found and found < uri:
            found = next(listed, "")
        if found == uri:
            yield uri
