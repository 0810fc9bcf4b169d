"""The tables of docs/reliability.md, docs/scaling.md and of decisions, from benchmarks/results/reliability.

Each stands between two marks of its name. A campaign's command writes its results there if ``--out`` says so:

    python -m benchmarks.chaos                                 chaos.jsonl, a trial a line
    python -m benchmarks.chaos.price, .committers              price.json, committers.json
    python -m benchmarks.jdbc_kills, benchmarks.stream_soak    jdbc_kills.jsonl, stream_soak.json
    python -m benchmarks.scale                                 scale.jsonl, a run of its passes a line
    python -m benchmarks.event_log                             event_log.json, printed
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.chaos.plans import ENGINES, FORMATS, ISOLATED, KILLS, NETWORK, PER_INPUT, RIVALLED, WAYS
from benchmarks.chaos.table import BASELINE, SUMS, line
from benchmarks.facts import ROOT
from benchmarks.readme import figure, marked, spread

FOLDER = ROOT / "benchmarks" / "results" / "reliability"
GROUPS: Sequence[Sequence[str]] = (
    *(("kill at a step", "kill at a request", "kill at a time"), ("kill the committer", "kill the checker")),
    *(
        ("twice at once", "twice, later"),
        ("zombie", "zombie committer"),
        RIVALLED,
        ENGINES,
        (ISOLATED, PER_INPUT),
        NETWORK,
    ),
    *(FORMATS, WAYS[:2]),
)
"""Of kinds of faults, formats, ways: a row each."""
Rows = Sequence[Mapping[str, Any]]


def with_tables(page: str) -> str:
    """The page with what stands between its marks written anew; it need not have the marks of every campaign.

    Raises
    ------
    FileNotFoundError
        If a campaign has no result.
    ValueError
        If a mark has no other one.
    """
    for name, written in TABLES.items():
        if f"<!-- {name}:" in page:
            page = marked(page, name, written())
    return page


def _chaos() -> str:
    results = _lines("chaos")
    ours = [each for each in results if each["way"] != BASELINE]
    baseline = [each for each in results if each["way"] == BASELINE]
    struck = sum(len(each["struck"]) for each in ours)
    kills = sum(len(each["struck"]) for each in ours if each["kind"] in KILLS)
    told = f"{_when(results)}, {struck:,} strikes, {kills:,} of them kills:\n\n`{line(results)}`"
    head = "| fault | trials | struck | wrong |\n|---|---|---|---|"
    rows = [_sums({name: [each for each in ours if name in each.values()] for name in group}) for group in GROUPS]
    return "\n".join([told, "", head, *rows, _sums({"**the baseline**": baseline})])


def _sums(found: Mapping[str, Rows]) -> str:
    """A row for some kinds of faults, formats or ways, each with its trials."""
    trials, struck = Counter[str](), Counter[str]()
    wrong = Counter[str]()
    for name, results in found.items():
        trials[name], struck[name] = len(results), sum(len(each["struck"]) for each in results)
        wrong += Counter({key: sum(each[key] for each in results) for key in SUMS})
    cells = [found, map(str, trials.values()), map(str, struck.values())]
    faults = ", ".join(f"{count} {key}" for key, count in wrong.items()) or "0"
    return f"| {' | '.join('; '.join(each) for each in cells)} | {faults} |"


def _price() -> str:
    document = _document("price")
    found = _grouped(document["figures"], "format", "way", "shards")
    sizes = sorted({shards for _, _, shards in found})
    rows = [f"| | | {' | '.join(f'shards: {size:,}' for size in sizes)} |", f"|{'---|' * (len(sizes) + 2)}"]
    for format_, way in dict.fromkeys((format_, way) for format_, way, _ in found):
        cells = [_cost(found[format_, way, size]) for size in sizes]
        rows.append(f"| {format_} | {way} | {' | '.join(cells)} |")
    return "\n".join([f"{_when([document])}, seconds and requests, those of the commit run in brackets:", "", *rows])


def _cost(runs: Rows) -> str:
    if not runs:
        return "–"
    commit = _middle(runs, "requests_of_commit")
    lost = sum(run["lost"] for run in runs)
    cell = f"{spread(runs, 'seconds')} s, {_middle(runs, 'requests_in_all')}" + (
        f" [{commit}]" if commit != "0" else ""
    )
    return cell + (f", **{lost} rows lost**" if lost else "")


def _committers() -> str:
    document = _document("committers")
    found = _grouped(document["figures"], "format", "committers")
    rows = ["| | committers | commits | gave up | conflicts | requests | slowest commit, s |", f"|{'---|' * 7}"]
    for (format_, committers), runs in found.items():
        counts = [_middle(runs, name) for name in ("commits", "gave_up", "conflicts", "requests")]
        rows.append(f"| {format_} | {committers} | {' | '.join(counts)} | {spread(runs, 'slowest_commit_s')} |")
    return "\n".join([f"{_when([document])}, medians of five rounds:", "", *rows])


def _jdbc() -> str:
    results = _lines("jdbc_kills")
    return f"{_when(results)}:\n\n```\n{jdbc_line(results)}\n```"


def jdbc_line(results: Rows) -> str:
    """The results of ``benchmarks.jdbc_kills`` in a line."""
    struck: Counter[str] = sum((Counter(result["faults"]) for result in results), Counter())
    counts = {"trials": sum(result["trials"] for result in results), **dict(sorted(struck.items()))}
    counts |= {name: sum(result[name] for result in results) for name in ("lost", "duplicated", "wrong")}
    words = [f"{name.replace(' ', '_')}={count}" for name, count in counts.items()]
    return " ".join(words)


def _soak() -> str:
    document = _document("stream_soak")
    rows = ["| format | batches | records | killed | stopped | lost | doubled |", f"|{'---|' * 7}"]
    names = ("format", "batches", "records", "kills", "stops", "lost", "duplicated")
    rows += [f"| {' | '.join(str(each[name]) for name in names)} |" for each in document["results"]]
    return "\n".join([f"{_when([document])}:", "", *rows])


def _scale() -> str:
    results = _lines("scale")
    found = defaultdict(list)
    for each in (each for result in results for each in result["passes"]):
        found[f"{each['pass']}, {each['world']['shards']:,}"].append(_flat(each))
    rows = {
        "runs; executions; of these again": ("runs", "executions", "repeated"),
        "lost; duplicated; else wrong": ("lost", "duplicated", "wrong"),
        "planned, shards/s": "planned_per_s",
        "worked on, shards/s": "worked_per_s",
        "planner: processor time a shard, ms": "plan_ms",
        "manifests: processor time a shard, ms": "manifests_ms",
        "planner: peak memory, MB": "plan_mb",
        "checker: peak memory, MB": "watch_mb",
    }
    told = [f"| | {' | '.join(found)} |", f"|{'---|' * (len(found) + 1)}"]
    for name, what in rows.items():
        cells = [spread(runs, what) if isinstance(what, str) else _totals(runs, what) for runs in found.values()]
        told.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([f"{_when(results)}, totals, or medians and their range:", "", *told])


def _flat(passed: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a pass of ``benchmarks.scale``."""
    words = dict(word.split("=") for word in passed["line"].split())
    shards = int(words["shards"])
    figures = {"runs": 1, **{name: int(words[name]) for name in ("lost", "duplicated")}}
    figures["wrong"] = sum(problem.startswith("wrong") for problem in passed["problems"])
    figures |= {name: passed[name] for name in ("executions", "repeated", "planned_per_s", "worked_per_s")}
    figures |= {f"{step}_ms": 1000 * passed[step]["cpu_s"] / shards for step in ("plan", "manifests")}
    return figures | {f"{step}_mb": passed[step]["peak_rss_mb"] for step in ("plan", "watch")}


def _totals(runs: Rows, names: Sequence[str]) -> str:
    return "; ".join(f"{sum(run[name] for run in runs):,}" for name in names)


def _event_log() -> str:
    document = _document("event_log")
    [case] = document["cases"]
    rows = ["| | jobs | s | CPU s |", f"|{'---|' * 4}"]
    for side, name in (("sparklet", "without a log"), ("listener", "with a listener"), ("own context", "own context")):
        runs = case[side]["runs"]
        rows.append(f"| {name} | {len(runs)} | {spread(runs, 'wall_s')} | {spread(runs, 'cpu_s')} |")
    return "\n".join([f"{_when([document['facts']])}, medians and their range:", "", *rows])


TABLES: Mapping[str, Callable[[], str]] = {
    "chaos": _chaos,
    "price": _price,
    "committers": _committers,
    "jdbc": _jdbc,
    "soak": _soak,
    "scale": _scale,
    "event_log": _event_log,
}


def _when(results: Rows) -> str:
    days = sorted({str(each["measured"])[:10] for each in results})
    commits = dict.fromkeys(str(each["commit"]) for each in results)
    return f"{' to '.join(dict.fromkeys((days[0], days[-1])))}, commit {', '.join(commits)}"


def _grouped(rows: Rows, *names: str) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        found[tuple(row[name] for name in names)].append(row)
    return found


def _middle(runs: Rows, name: str) -> str:
    values = sorted(run[name] for run in runs)
    return figure(values[len(values) // 2])


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(each) for each in (FOLDER / f"{name}.jsonl").read_text().splitlines()]


def _document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found
