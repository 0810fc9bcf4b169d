"""What does one table for all shards cost? Time and requests of staged, direct and plain writes.

The same trials as the campaign's, in peace: a run of so many shards of a few rows, a few worker processes, every
request counted by the proxy. Retries are the product's (direct) or the queue's (plain); conflicts show as attempts.

    python -m benchmarks.chaos.price [--shards 1 10 30] [--rounds 5] [--out …]
"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.chaos.__main__ import names, stage
from benchmarks.chaos.plans import FORMATS, WAYS, plan
from benchmarks.chaos.world import free_of_aws, say
from benchmarks.comparison import options as rounds_option
from benchmarks.facts import ROOT, facts

SEED = 20_000_000
SIZES = [1, 10, 30]


def main() -> None:
    """Measure, print, write."""
    parser = rounds_option(__doc__)
    parser.add_argument("--shards", type=int, nargs="+", default=SIZES)
    parser.add_argument("--workers", type=int, default=2, help="processes, each does a shard at a time")
    parser.add_argument("--commits", type=int, default=1, help="of each shard that writes plainly")
    parser.add_argument("--formats", type=names(FORMATS), default=FORMATS)
    parser.add_argument("--ways", type=names(WAYS), default=WAYS)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "price.json")
    options = parser.parse_args()
    free_of_aws()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figures: list[dict[str, Any]] = []
    turns = [(each, format_) for each in range(options.rounds) for format_ in options.formats]
    for number, (_, format_) in enumerate(turns):
        with stage(options.workers) as at:
            warm = replace(plan(0), seed=SEED - 1, format=format_, way=options.ways[0], kind="none")
            at.trial(replace(warm, shards=2 * options.workers)).run()
            for place, (way, shards) in enumerate((way, n) for way in options.ways for n in options.shards):
                seed = SEED + 100 * number + place
                mine = replace(plan(0), seed=seed, format=format_, way=way, kind="none", shards=shards)
                trial = at.trial(replace(mine, commits=options.commits))
                figures.append(_figures(trial.run(), trial.strikes.taken, shards))
                say(json.dumps(figures[-1]))
                options.out.write_text(
                    json.dumps({"benchmark": "price", "figures": figures, **facts()}, indent=1) + "\n"
                )


def _figures(result: dict[str, Any], taken: dict[str, list[str]], shards: int) -> dict[str, Any]:
    """One row: seconds, and requests by their kind, of shards and of the commit."""
    of_shards = Counter(_kind(step) for role, steps in taken.items() if role.startswith("shard") for step in steps)
    of_commit = Counter(_kind(step) for role, steps in taken.items() if role.startswith("commit") for step in steps)
    return {
        **{name: result[name] for name in ("format", "way", "lost", "duplicated", "seconds", "invocations")},
        "shards": shards,
        "requests": dict(of_shards + of_commit),
        "requests_in_all": of_shards.total() + of_commit.total(),
        "requests_of_commit": of_commit.total(),
        "problems": result["problems"][:3],
    }


def _kind(step: str) -> str:
    """What a step is billed as."""
    first, _, rest = step.partition(" ")
    if not rest:
        return "ledger" if not first.endswith(("Message", "Visibility")) else "queue"
    return "S3 list, put, copy, post" if first in ("LIST", "PUT", "COPY", "POST") else f"S3 {first.lower()}"


if __name__ == "__main__":
    main()
