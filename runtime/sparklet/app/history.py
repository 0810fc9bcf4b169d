"""Shows how long runs took, what they read, wrote and cost, and compares each with the last runs of the same name.

All figures come from the ledger's runs and the manifests of ended runs, one read for each manifest; no shard is read.
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

MAX_READ = 100  # the manifests of this many runs, the newest ones, are read
LAST = 5  # a run is compared with up to this many earlier runs of the same name
UNUSUAL_FACTOR = 1.5  # a figure is marked if it is this many times larger, or smaller, than usual
# Small files are marked from this number on, if their mean is below what opening one costs Spark
# (spark.sql.files.openCostInBytes).
MANY_FILES, SMALL_BYTES = 100, 4 * MIB
COMPARED = {"duration_s": "time", "rows": "rows", "cost_usd": "cost"}
UNKNOWN: dict[str, Any] = dict.fromkeys(("duration_s", "rows", "output_bytes", "failed", "cost_usd", "small_files"))
FiguresByRun = dict[tuple[str, int], dict[str, Any]]  # figures from manifests of ended runs, by run and generation


def run_history(
    stack: OpenStack, runs: Sequence[Run], prices: Prices, figures_by_run: FiguresByRun
) -> list[dict[str, Any]]:
    """Return documents of runs, newest first; figures of ended runs are read once and kept in ``figures_by_run``.

    ``trend`` holds the ratios to the medians of the last runs, and ``marks`` the unusual ratios in words. All figures
    are None for a run without a manifest (the run is open, or its files are deleted), and for a run after the newest
    ``MAX_READ``, whose manifest is not read.
    """
    unread_runs = [
        run for run in runs[:MAX_READ] if run.state.ended and (run.run_id, run.generation) not in figures_by_run
    ]
    with ThreadPoolExecutor(THREADS) as pool:
        figures_read = pool.map(lambda run: _figures_of(stack, run, prices), unread_runs)
        figures_by_run.update(
            {(run.run_id, run.generation): figures for run, figures in zip(unread_runs, figures_read, strict=True)}
        )
    documents = [run_document(run) | figures_by_run.get((run.run_id, run.generation), UNKNOWN) for run in runs]
    last_by_name: defaultdict[str, deque[dict[str, Any]]] = defaultdict(lambda: deque(maxlen=LAST))
    for document in reversed(documents):  # the oldest first
        last_runs = last_by_name[document["name"]]
        document["trend"] = trend = _trend(document, last_runs)
        document["marks"] = [
            *(f"{name} ×{_ratio_text(trend[field])}" for field, name in COMPARED.items() if _is_unusual(trend[field])),
            *(["small files"] if document["small_files"] else []),
        ]
        if document["duration_s"] is not None:
            last_runs.append(document)
    return documents


def _figures_of(stack: OpenStack, run: Run, prices: Prices) -> dict[str, Any]:
    try:
        manifest = own_manifest(stack.deployment, run)
    # S3 denies access to an object that does not exist if the caller has no permission to list the bucket.
    except ObjectForbiddenError:
        manifest = None
    if not manifest:
        return UNKNOWN
    run_figures, failed_count = manifest["run"], manifest["run"]["counts"]["failed"]
    # A manifest does not count files: there is at least one for each input with --output-per, else for each shard.
    files = run_figures["objects"] if run.options.output_per and not failed_count else run_figures["output_shards"]
    output_bytes, work = run_figures["output_bytes"], work_of(run_figures)
    return {
        "duration_s": run_figures["duration_s"],
        "rows": run_figures["rows"],
        "output_bytes": output_bytes,
        "failed": failed_count,
        "cost_usd": round(sum(costs_so_far(work, run, stack.size, prices).values()), 6),
        "small_files": bool(output_bytes) and files >= MANY_FILES and output_bytes < files * SMALL_BYTES,
    }


def _trend(document: Mapping[str, Any], last_runs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how many runs this one is compared with, and for each figure its ratio to their median.

    A ratio is None if the figure is unknown, or the median is 0 or unknown.
    """
    trend: dict[str, Any] = {"runs": len(list(last_runs))}
    for name in COMPARED:
        earlier_values = [run[name] for run in last_runs if run[name] is not None]
        usual_value = median(earlier_values) if earlier_values else 0
        trend[name] = round(document[name] / usual_value, 3) if usual_value and document[name] is not None else None
    return trend


def _is_unusual(ratio: float | None) -> bool:
    return ratio is not None and not 1 / UNUSUAL_FACTOR < ratio < UNUSUAL_FACTOR


def _ratio_text(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"
