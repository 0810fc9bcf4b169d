"""Commands that only read: status, watch, runs, results, ddl, explain, logs.

A worker runs one task at a time, and its own JSON log lines name the attempt; the lines between them are the script's,
or its JVM's. So each log line belongs to the attempt that was named last.
"""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from sparklet.app.costs import load_prices
from sparklet.app.explain import explain as explain_failures
from sparklet.app.local_files import stored_uri
from sparklet.app.object_status import ObjectStatus, object_status
from sparklet.app.progress import observe
from sparklet.app.redrive import group_document, group_table
from sparklet.app.stack import Environment, StackSelection, environment
from sparklet.app.start import finish
from sparklet.app.status import look, lost_text, show_summary
from sparklet.cli import options as opt
from sparklet.cli.console import Screen, exit_code
from sparklet.cli.options import Prices
from sparklet.cli.render import object_document, object_table, run_document, runs_table
from sparklet.errors import PlanError
from sparklet.job.event_objects import read_json
from sparklet.metrics import is_metrics_line
from sparklet.ports import WorkerLogs
from sparklet.runs.manifest import results as results_of
from sparklet.runs.verification import verify
from sparklet.tables.ddl import ddl as ddl_of

FOLLOW_POLL_S = 1.0
_OWN = ("time", "level", "message", "attempt")  # what each of a worker's own lines has
_SHOWN_ELSEWHERE = (*_OWN, "run", "shard", "request_id", "record")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_PLATFORM = re.compile(r"(START|END|REPORT) RequestId: (\S+)")


def status(
    run_id: opt.RunId,
    selection: StackSelection,
    object_uri: Annotated[
        str,
        typer.Option(
            "--object",
            metavar="URI|FILE",
            help="Only this input: its address, or the local file that was copied to the bucket.",
        ),
    ] = "",
    shards: Annotated[bool, typer.Option("--shards", help="List every shard too.")] = False,
    compare: Annotated[
        bool, typer.Option("--verify", help="Compare ledger, manifest and output in the bucket: lists all of it.")
    ] = False,
    prices: Prices = None,
) -> None:
    """Show the status of a run, or of one of its input objects.

    Counts, pace and estimated end, cost so far, slow shards, causes of failure, what drives it and what follows.
    """
    screen, figures = Screen(selection.as_json), load_prices(prices)
    with environment(selection, screen, reading=True) as env:
        if object_uri:
            _show_object(screen, run_id, object_status(env.at, run_id, _stored(env, run_id, object_uri)))
            return
        found = env.at.ledger.runs.get(run_id)
        view = look(env, found, figures)
        records = list(env.at.ledger.shards.list(run_id)) if shards else None
        differences = list(verify(env.at, run_id)) if compare else None
        show_summary(env, screen, found, view.found.summary, records, view, differences)
    raise typer.Exit(exit_code(view.found.summary.state))


def watch(run_id: opt.RunId, selection: StackSelection, prices: Prices = None) -> None:
    """Watch a run until it ends and download its output; `sparklet resume RUN` plans the rest of it, too.

    A terminal shows cost so far, slow shards and causes below the counts; `sparklet status RUN` shows them once.
    """
    screen, figures = Screen(selection.as_json), load_prices(prices)
    with environment(selection, screen) as env:
        finish(env, run_id, screen, figures)


def runs(selection: StackSelection) -> None:
    """List all runs, newest first."""
    screen = Screen(selection.as_json)
    with environment(selection, screen, reading=True) as env:
        found = list(env.at.ledger.runs.list())
    if selection.as_json:
        screen.document([run_document(each) for each in found])
    elif found:
        screen.out.print(runs_table(found))
    else:
        screen.say("no runs yet; sparklet run SCRIPT --input … --output … starts one")


def results(run_id: opt.RunId, selection: StackSelection) -> None:
    """Show the script's answer for each shard (job.answer), in order; --json: one line for each."""
    screen = Screen(selection.as_json)
    with environment(selection, screen, reading=True) as env:
        table, count = Table("shard", "answer"), 0
        for line in results_of(env.at, env.at.ledger.runs.get(run_id)):
            count += 1
            if selection.as_json:
                sys.stdout.write(line.decode() + "\n")
            else:
                answer = json.loads(line)
                table.add_row(str(answer["shard"]), escape(json.dumps(answer["answer"], ensure_ascii=False)))
    if not count:
        screen.say(f"no shard of {run_id} has given an answer; a script gives one with job.answer(value)")
    elif not selection.as_json:
        screen.out.print(table)


def ddl(
    run_id: opt.RunId,
    selection: StackSelection,
    name: Annotated[
        str, typer.Option("--name", metavar="DATABASE.TABLE", help="What Athena shall call the table.")
    ] = "",
) -> None:
    """Print what makes Athena read the tables and the output of a run that has ended."""
    screen = Screen(selection.as_json)
    with environment(selection, screen, reading=True) as env:
        run = env.at.ledger.runs.get(run_id)
        found = ddl_of(env.at, run, name)
    if selection.as_json:
        screen.document(found)
    for each in found if not selection.as_json else ():
        sys.stdout.write(f"-- {each['of']}: {each['note'] or 'for Athena'}\n")
        sys.stdout.writelines(f"{statement};\n" for statement in each["statements"])
    raise typer.Exit(exit_code(run.state))


def explain(run_id: opt.RunId, selection: StackSelection) -> None:
    """Group a run's failures by cause: an example, the likely reason, what to do, and the command to type."""
    screen = Screen(selection.as_json)
    with environment(selection, screen, reading=True) as env:
        run = env.at.ledger.runs.get(run_id)
        found = observe(run, env.at.ledger.shards.list(run_id), env.at.clock.now_s())
        groups = explain_failures(env.at, run, found.failures)
        if selection.as_json:
            screen.document([group_document(env, run_id, group) for group in groups])
            return
        for group in groups:
            screen.out.print(group_table(env, run_id, group))
        for number, since in found.lost:
            screen.say(lost_text(number, since))
    if not groups:
        screen.say(f"no shard of {run_id} has failed" + ("" if run.state.ended else " so far"))


def logs(
    run_id: opt.RunId,
    selection: StackSelection,
    shard: Annotated[int | None, typer.Argument(metavar="SHARD", min=0, help="Only this shard.")] = None,
    attempt: Annotated[
        str, typer.Option("--attempt", metavar="ID", help="Only attempts whose id begins with this.")
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until the run has ended.")] = False,
) -> None:
    """Show the logs of workers and script, with shard and attempt; --json: one object for each unchanged line."""
    screen = Screen(selection.as_json)
    with environment(selection, screen, reading=True) as env:
        run = env.at.ledger.runs.get(run_id)
        if shard is not None:
            env.at.ledger.shards.get(run_id, shard)
        reader = LogReader(env.logs, run_id, shard, attempt, run.created_s)
        try:
            shown = _show_lines(env, reader, selection.as_json, follow)
        except BrokenPipeError:  # `| head` has ended; write nothing more, not even at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
    if not shown:
        named = run_id if shard is None else f"shard {shard} of {run_id}"
        screen.warn(f"nothing was written for {named} yet, or its logs are no longer kept")


def _stored(env: Environment, run_id: str, given: str) -> str:
    """The address of an input that is named by it, or by the local file that was copied there."""
    if "://" in given:
        return given
    return stored_uri(Path(given).resolve(), env.local_paths(run_id).inputs) or given


def _show_object(screen: Screen, run_id: str, found: ObjectStatus) -> None:
    if not found.shards and not found.left_out:
        why = "it did not exist when the run was planned, or a pattern left it out"
        raise PlanError(f"{found.uri} is in no shard of {run_id}; {why}")
    if screen.as_json:
        screen.document(object_document(found))
    elif found.shards:
        screen.out.print(object_table(found))
    else:
        reasons = "; ".join(dict.fromkeys(found.left_out))
        screen.out.print(f"{found.uri} was left out of {run_id}: {reasons}", markup=False)


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a worker's log."""

    stream: str
    run: str
    shard: int
    attempt: str
    text: str
    own: Mapping[str, Any] | None = None  # the fields of a worker's own line; None: a line of the script or JVM

    def document(self) -> dict[str, Any]:
        """For --json, with the line unchanged."""
        return {"run": self.run, "shard": self.shard, "attempt": self.attempt, "stream": self.stream, "line": self.text}

    def readable(self) -> str:
        """For people: a worker's line short, any other without control characters."""
        if self.own is None:
            return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", self.text)
        time = str(self.own["time"])[11:23]
        more = " ".join(f"{name}={value}" for name, value in self.own.items() if name not in _SHOWN_ELSEWHERE)
        line = f"{time} {self.own['level']:<7} {self.own['message']}" + (f" ({more})" if more else "")
        return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", line)


@dataclass
class Attribution:
    """Assigns the lines of one stream to attempts."""

    stream: str
    _run: str = ""
    _shard: Any = None
    _attempt: str = ""
    _request: str = ""

    def take(self, text: str) -> LogLine | None:
        """The line with its attempt; None if it belongs to no shard."""
        if is_metrics_line(text):
            return None
        own = _own_fields(text)
        if own is not None:
            self._run, self._shard = str(own.get("run", "")), own.get("shard")
            self._attempt, self._request = str(own["attempt"]), str(own.get("request_id", ""))
        elif (platform := _PLATFORM.match(text)) and platform[2] != self._request:
            self._run = ""  # the next invocation has begun
        if not self._run or type(self._shard) is not int:
            return None
        return LogLine(self.stream, self._run, self._shard, self._attempt, text, own)


@dataclass
class LogReader:
    """Reads a run's lines from all its streams, each from its last position."""

    logs: WorkerLogs
    run_id: str
    shard: int | None = None
    attempt: str = ""  # the beginning of its id
    since_s: float = 0.0
    _positions: dict[str, str] = field(default_factory=dict)
    _attributions: dict[str, Attribution] = field(default_factory=dict)

    def lines(self) -> Iterator[LogLine]:
        """The lines since the last call, stream by stream."""
        for stream, since_s in self.logs.streams(self.run_id, self.shard, self.since_s).items():
            attribution = self._attributions.setdefault(stream, Attribution(stream))
            while True:
                before = self._positions.get(stream, "")
                texts, self._positions[stream] = self.logs.read(stream, before, since_s)
                found = filter(None, map(attribution.take, texts))
                yield from (line for line in found if self._wanted(line))
                if not texts and self._positions[stream] == before:
                    break

    def _wanted(self, line: LogLine) -> bool:
        return line.run == self.run_id and self.shard in (None, line.shard) and line.attempt.startswith(self.attempt)


def _own_fields(text: str) -> Mapping[str, Any] | None:
    fields = read_json(text) if text.startswith("{") else None
    return fields if isinstance(fields, dict) and all(isinstance(fields.get(name), str) for name in _OWN) else None


def _show_lines(env: Environment, reader: LogReader, as_json: bool, follow: bool) -> int:
    """Print the lines, with ``follow`` until the run has ended; how many."""
    shown, last = 0, None
    while True:
        ended = not follow or env.at.ledger.runs.get(reader.run_id).state.ended
        for line in reader.lines():
            sys.stdout.write(json.dumps(line.document()) + "\n" if as_json else _text(line, last))
            shown, last = shown + 1, line
        sys.stdout.flush()
        if ended:
            return shown
        env.check()
        env.at.clock.sleep(FOLLOW_POLL_S)


def _text(line: LogLine, last: LogLine | None) -> str:
    """A line for people, below its attempt's name if that changes."""
    head = ""
    if last is None or (last.stream, last.shard, last.attempt) != (line.stream, line.shard, line.attempt):
        head = f"{'' if last is None else chr(10)}── shard {line.shard}, attempt {line.attempt} ({line.stream})\n"
    return f"{head}{line.readable()}\n"
