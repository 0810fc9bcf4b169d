"""What runs took, read, wrote and cost, and how each compares with the last ones of its name.

All of it comes from the ledger's runs and from the manifests of those that have ended, one read each: no shard is read.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

from sparklet.app.costs import Prices
from sparklet.app.documents import run_document
from sparklet.app.local_files import THREADS
from sparklet.app.stack import OpenStack
from sparklet.app.status import costs_so_far
from sparklet.errors import ObjectForbiddenError
from sparklet.model import Run
from sparklet.model.options import MIB
from sparklet.runs.manifest import own_manifest
from sparklet.runs.summary import work_of

MAX_READ = 100  # runs whose manifests are read, the newest
LAST = 5  # runs of its name that a run is compared with
CHANGED = 1.5  # times as much, or as little, is told
MANY_FILES, SMALL_BYTES = 100, 4 * MIB  # which opening one costs Spark: spark.sql.files.openCostInBytes
COMPARED = {"duration_s": "time", "rows": "rows", "cost_usd": "cost"}
UNKNOWN: dict[str, Any] = dict.fromkeys(("duration_s", "rows", "output_bytes", "failed", "cost_usd", "small_files"))
Known = dict[tuple[str, int], dict[str, Any]]  # what an ended run's manifest tells, by run and generation


def run_history(stack: OpenStack, runs: Sequence[Run], prices: Prices, figures_by_run: Known) -> list[dict[str, Any]]:
    """Documents of runs, newest first; figures of ended runs are read once and kept in ``figures_by_run``.

    ``trend`` holds the ratios to the medians of the last runs, and ``marks`` the noteworthy ones in words. All figures
    are None for a run without a manifest: it is open, or its files are deleted.
    """
    new = [run for run in runs[:MAX_READ] if run.state.ended and (run.run_id, run.generation) not in figures_by_run]
    with ThreadPoolExecutor(THREADS) as pool:
        new_figures = pool.map(lambda run: _figures_of(stack, run, prices), new)
        figures_by_run.update(
            {(run.run_id, run.generation): figures for run, figures in zip(new, new_figures, strict=True)}
        )
    documents = [run_document(run) | figures_by_run.get((run.run_id, run.generation), UNKNOWN) for run in runs]
    last: defaultdict[str, deque[dict[str, Any]]] = defaultdict(lambda: deque(maxlen=LAST))
    for document in reversed(documents):
        of_name = last[document["name"]]
        document["trend"] = trend = _trend(document, of_name)
        document["marks"] = [
            *(f"{name} ×{_ratio_text(trend[field])}" for field, name in COMPARED.items() if _is_other(trend[field])),
            *(["small files"] if document["small_files"] else []),
        ]
        if document["duration_s"] is not None:
            of_name.append(document)
    return documents


def _figures_of(stack: OpenStack, run: Run, prices: Prices) -> dict[str, Any]:
    try:
        manifest = own_manifest(stack.deployment, run)
    except ObjectForbiddenError:  # as S3 says of what is gone to those who may not list
        manifest = None
    if not manifest:
        return UNKNOWN
    ended, failed = manifest["run"], manifest["run"]["counts"]["failed"]
    # A manifest has no number of files; with an output for each input it is at least that of inputs.
    has_each = run.options.output_per and not failed
    files, written = ended["objects"] if has_each else ended["output_shards"], ended["output_bytes"]
    work = work_of(ended)
    return {
        "duration_s": ended["duration_s"],
        "rows": ended["rows"],
        "output_bytes": written,
        "failed": failed,
        "cost_usd": round(sum(costs_so_far(work, run, stack.size, prices).values()), 6),
        "small_files": bool(written) and files >= MANY_FILES and written < files * SMALL_BYTES,
    }


def _trend(document: Mapping[str, Any], last: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The number of runs compared with, and each figure's ratio to their median; None if one is 0 or unknown."""
    trend: dict[str, Any] = {"runs": len(list(last))}
    for name in COMPARED:
        before = [run[name] for run in last if run[name] is not None]
        usual = median(before) if before else 0
        trend[name] = round(document[name] / usual, 3) if usual and document[name] is not None else None
    return trend


def _is_other(ratio: float | None) -> bool:
    return ratio is not None and not 1 / CHANGED < ratio < CHANGED


def _ratio_text(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"
