"""The tables of docs/scaling.md from what ``make scale`` wrote.

python -m benchmarks.scale.table build/scale.json
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Pass = Mapping[str, Any]


def main() -> None:
    """Print them."""
    document = json.loads(Path(sys.argv[1]).read_text())
    machine = document["machine"]
    print(
        f"{document['measured']}, commit {document['commit'] or '?'}, {machine['cores']} cores ({machine['cpu']}), "
        f"load {machine['load_1m']} at the end, Python {document['python']}, "
        f"ministack {document['versions'].get('ministack', '?')}.\n"
    )
    passes = document["passes"]
    _print(["", *(f"{each['pass']}, {each['world']['shards']:,}" for each in passes)], _rows(passes))
    for each in passes:
        if "stages" in each["watch"]:
            _print(_STAGE_HEAD, _stages(each))


def _print(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print()


def _rows(passes: Sequence[Pass]) -> Iterable[Sequence[object]]:
    yield "result", *(f"`{each['line']}`" for each in passes)
    for step in ("plan", "work", "late messages", "manifests", "account"):
        yield f"{step}, s", *(each["seconds"][step] for each in passes)
    yield "planned, worked on, shards/s", *(f"{each['planned_per_s']}, {each['worked_per_s']}" for each in passes)
    yield "executed; again", *(f"{each['executions']:,}; {each['repeated']}" for each in passes)
    yield "faults", *(_faults(each) for each in passes)
    yield "checks (waves); leases expired; dead letters", *(_watched(each) for each in passes)
    for name, step in (("planner", "plan"), ("checker and its manifests", "watch"), ("manifests alone", "manifests")):
        yield f"{name}: peak memory, MB (before it began)", *(_memory(each[step]) for each in passes)
        yield f"{name}: processor time a shard, ms", *(_cpu_ms(each, step) for each in passes)


def _faults(each: Pass) -> str:
    return ", ".join(f"{count} {name}" for name, count in each["faults"].items()) or "none"


def _watched(each: Pass) -> str:
    watched = each["watch"]
    waves = f" ({watched['waves']})" if "waves" in watched else ""
    return f"{watched['checks']}{waves}; {watched.get('lapsed', '–')}; {watched.get('letters', '–')}"


def _memory(step: Mapping[str, Any]) -> str:
    return f"{step['peak_rss_mb']:.0f} ({step['before_mb']:.0f})"


def _cpu_ms(each: Pass, step: str) -> str:
    return f"{each[step]['cpu_s'] * 1000 / each['world']['shards']:.2f}"


_STAGE_HEAD = ("a check when", "done", "PENDING", "RUNNING", "requests", "items looked at", "s")


def _stages(each: Pass) -> Iterable[Sequence[object]]:
    shards = each["world"]["shards"]
    for stage, check in each["watch"]["stages"].items():
        done = (check["succeeded"] + check["failed"]) / shards
        requests, items = check["requests_in_all"], f"{check['items_read']:,}"
        name = f"{each['pass']}, {shards:,}: {stage}"
        yield name, f"{done:.0%}", f"{check['pending']:,}", check["running"], requests, items, check["check_s"]


if __name__ == "__main__":
    main()
