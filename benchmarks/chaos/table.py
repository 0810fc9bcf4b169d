"""The table of what was tried, and the last line: ``python -m benchmarks.chaos.table RESULTS.jsonl``."""

import json
import sys
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmarks.chaos.plans import FORMATS, KILLS, KINDS, WAYS

Results = Sequence[Mapping[str, Any]]
SUMS = ("lost", "duplicated", "partial", "unaccounted")
BASELINE = "plain"


def main() -> None:
    """Print both."""
    results = [json.loads(each) for each in Path(sys.argv[1]).read_text().splitlines()]
    print(table(results))
    print(line(results))


def line(results: Results) -> str:
    """The sums over all trials but the baseline's, unless that alone was tried."""
    ours = _ours(results) or results
    return " ".join([f"trials={len(ours)}", *(f"{name}={sum(each[name] for each in ours)}" for name in SUMS)])


def table(results: Results) -> str:
    """A row for each kind of fault: of ours, and of the baseline."""
    head = "| fault | trials | struck | rows lost | doubled | partial reads | unaccounted | seeds that went wrong |"
    rows = [head, "|" + "---|" * head.count(" | ") + "---|"]
    for name, some in (("staged and direct", _ours(results)), (f"{BASELINE}, the baseline", _baseline(results))):
        rows.append(f"| **{name}** | | | | | | | |")
        rows += [_row(kind, [each for each in some if each["kind"] == kind]) for kind in KINDS]
        rows.append(_row("*all kills*", [each for each in some if each["kind"] in KILLS]))
        rows += [_row(f"*{name}, all*", [each for each in some if name in each.values()]) for name in (*FORMATS, *WAYS)]
        for commit in _commits(some):  # what one state of the code did says nothing of another
            rows.append(_row(f"*commit {commit}*", [each for each in some if each["commit"] == commit]))
    return "\n".join(row for row in rows if row)


def _commits(results: Results) -> list[str]:
    """In the order in which they were tried."""
    return list(dict.fromkeys(each["commit"] for each in sorted(results, key=itemgetter("measured"))))


def _ours(results: Results) -> Results:
    return [result for result in results if result["way"] != BASELINE]


def _baseline(results: Results) -> Results:
    return [result for result in results if result["way"] == BASELINE]


def _row(name: str, results: Results) -> str:
    if not results:
        return ""
    struck = sum(len(result["struck"]) for result in results)
    sums = [str(sum(result[key] for result in results)) for key in SUMS]
    return "| " + " | ".join([name, str(len(results)), str(struck), *sums, _ranges(results)]) + " |"


def _ranges(results: Results) -> str:
    wrong = sorted(result["seed"] for result in results if any(result[name] for name in SUMS))
    return ", ".join(map(str, wrong[:12])) + (" …" if len(wrong) > 12 else "") or "–"


if __name__ == "__main__":
    main()
