"""One HTML file with Vega-Lite plots of a simulation; it needs no network."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.palette import COLOURS
from benchmarks.simulate.answers import Answer
from sparklet.app.report.page import vega_lite

Axis = tuple[str, str]
PLOTS = (
    ("shards ended", ("ended",)),
    ("messages", ("waiting", "in_flight")),
    ("at once", ("running", "slots")),
    ("throttled invocations, so far", ("throttles",)),
    ("attempts again, and dead letters, so far", ("retries", "dead")),
)
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>A simulated run</title>
<style>body {{ font: 15px sans-serif; margin: 2em }} td {{ padding-right: 2em }} pre {{ font-size: 14px }}</style>
<script>{bundle}</script></head>
<body><h1>A simulated run</h1><pre>{table}</pre><div id="plots"></div>
<script>vegaEmbed("#plots", {spec}, {{"actions": false}});</script></body></html>
"""


def page(found: Answer, table: str, swept: Sequence[Answer] = ()) -> str:
    """The page of an answer, below its table; with the other answers of a sweep."""
    spec = json.dumps(plots(found, swept)).replace("</", "<\\/")
    text = table.replace("&", "&amp;").replace("<", "&lt;")
    return PAGE.format(bundle=vega_lite(), table=text, spec=spec)


def plots(found: Answer, swept: Sequence[Answer] = ()) -> dict[str, Any]:
    """Pace, queue, concurrency, retries and dead letters over time; cost by part; time and cost of a sweep."""
    samples = [{"minutes": each.at_s / 60, **asdict(each)} for each in found.result.samples]
    drawn = [_over_time(title, names, samples) for title, names in PLOTS]
    costs = [{"part": part, "US dollars": usd} for part, usd in found.costs.items()]
    drawn.append(_plot("cost", costs, "bar", ("US dollars", "quantitative"), ("part", "nominal")))
    ends = [{"at once": a.question.concurrency, "minutes": a.end_s / 60, "US dollars": a.cost} for a in swept]
    for name in ("minutes", "US dollars") if swept else ():
        drawn.append(_plot("sweep", ends, "line", ("at once", "quantitative"), (name, "quantitative")))
        drawn[-1]["encoding"]["x"]["scale"] = {"type": "log"}
    return {"columns": 2, "concat": drawn, "resolve": {"scale": {"color": "independent"}}}


def _over_time(title: str, names: Sequence[str], samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    plot = _plot(title, samples, "line", ("minutes", "quantitative"), ("value", "quantitative"))
    plot["transform"] = [{"fold": list(names), "as": ["what", "value"]}]
    plot["encoding"]["y"]["title"] = None
    colours = [COLOURS["sparklet"], COLOURS["plain"]][: len(names)]
    plot["encoding"]["color"] = {"field": "what", "type": "nominal", "title": None, "scale": {"range": colours}}
    return plot


def _plot(title: str, values: Sequence[dict[str, Any]], mark: str, x: Axis, y: Axis) -> dict[str, Any]:
    axes = {name: {"field": field, "type": kind} for name, (field, kind) in (("x", x), ("y", y))}
    size = {"title": title, "width": 420, "height": 200}
    return {**size, "data": {"values": list(values)}, "mark": mark, "encoding": axes}
