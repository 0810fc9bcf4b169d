"""The table of what was tried, and the last line: ``python -m benchmarks.chaos.table RESULTS.jsonl``."""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.chaos.plans import FORMATS, KINDS

Results = Sequence[dict[str, Any]]
SUMS = ("lost", "duplicated", "partial", "unaccounted")
CONTROL = "plain"


def main() -> None:
    """Print both."""
    results = [json.loads(each) for each in Path(sys.argv[1]).read_text().splitlines()]
    print(table(results))
    print(line(results))


def line(results: Results) -> str:
    """The sums over all trials but the control's."""
    ours = [result for result in results if result["way"] != CONTROL]
    return " ".join([f"trials={len(ours)}", *(f"{name}={sum(each[name] for each in ours)}" for name in SUMS)])


def table(results: Results) -> str:
    """A row for each kind of fault: of ours, and of the control."""
    head = "| fault | trials | struck | rows lost | doubled | partial reads | unaccounted | seeds that went wrong |"
    rows = [head, "|" + "---|" * head.count(" | ") + "---|"]
    for name, some in (("staged and direct", _ours(results)), (f"{CONTROL}, the control", _control(results))):
        rows.append(f"| **{name}** | | | | | | | |")
        rows += [_row(kind, [each for each in some if each["kind"] == kind]) for kind in KINDS if _has(some, kind)]
        for format_ in FORMATS:
            if of_format := [each for each in some if each["format"] == format_]:
                rows.append(_row(f"*{format_}, all*", of_format))
    return "\n".join(rows)


def _ours(results: Results) -> Results:
    return [result for result in results if result["way"] != CONTROL]


def _control(results: Results) -> Results:
    return [result for result in results if result["way"] == CONTROL]


def _has(results: Results, kind: str) -> bool:
    return any(result["kind"] == kind for result in results)


def _row(name: str, results: Results) -> str:
    struck = sum(_faults(result) for result in results)
    sums = [str(sum(result[key] for result in results)) for key in SUMS]
    return "| " + " | ".join([name, str(len(results)), str(struck), *sums, _ranges(results)]) + " |"


def _faults(result: dict[str, Any]) -> int:
    """How often a fault really struck: a network has several in a trial, and each message is delivered twice."""
    return len(result["struck"])


def _ranges(results: Results) -> str:
    wrong = sorted(result["seed"] for result in results if any(result[name] for name in SUMS))
    return ", ".join(map(str, wrong[:12])) + (" …" if len(wrong) > 12 else "") or "–"


def seeds_of(results: Results) -> Iterator[str]:
    """The seeds of each kind."""
    found: dict[str, list[int]] = defaultdict(list)
    for result in results:
        found[result["kind"]].append(result["seed"])
    for kind, seeds in found.items():
        yield f"{kind}: {', '.join(map(str, sorted(seeds)))}"


if __name__ == "__main__":
    main()
