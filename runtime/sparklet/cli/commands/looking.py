"""Commands that only look: status, watch, runs, results, explain, logs."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sparklet.cli import options as opt
from sparklet.cli.console import Screen
from sparklet.cli.environment import Environment, environment
from sparklet.cli.exits import exit_code
from sparklet.cli.explaining import group_document, group_table
from sparklet.cli.log_lines import LogLine, LogReader
from sparklet.cli.operating import look, lost_text
from sparklet.cli.orchestration_options import Prices
from sparklet.cli.render import fate_document, fate_table, run_document, runs_table
from sparklet.cli.showing import finish, show_summary
from sparklet.cli.transfer import LocalPaths, stored_uri
from sparklet.errors import PlanError
from sparklet.fanout.checking.differences import verify
from sparklet.fanout.checking.results import results as results_of
from sparklet.fanout.choosing.prices import load_prices
from sparklet.fanout.reporting.explain import explain as causes_of
from sparklet.fanout.reporting.fate import ObjectFate, object_fate
from sparklet.fanout.reporting.observed import observe

FOLLOW_POLL_S = 1.0


def status(
    run_id: opt.RunId,
    where: opt.Where,
    object_uri: Annotated[
        str,
        typer.Option(
            "--object",
            metavar="URI|FILE",
            help="Tell the fate of this input: its address, or the local file that was put into the bucket.",
            show_default=False,
        ),
    ] = "",
    shards: Annotated[bool, typer.Option("--shards", help="List every shard too.")] = False,
    compare: Annotated[
        bool, typer.Option("--verify", help="Compare ledger, manifest and output too: lists the whole output.")
    ] = False,
    prices: Prices = None,
) -> None:
    """Say where a run stands, or one of its input objects.

    Counts, pace and estimated end, cost so far, slow shards, causes of failure, what drives it and what follows.
    """
    screen, figures = where.screen(), load_prices(prices)
    with environment(where.choice(reading=True), screen) as env:
        if object_uri:
            _show_fate(screen, run_id, object_fate(env.at, run_id, _stored(env, run_id, object_uri)))
            return
        found = env.at.ledger.get_run(run_id)
        view = look(env, found, figures)
        records = list(env.at.ledger.shards(run_id)) if shards else None
        differences = tuple(verify(env.at, run_id)) if compare else None
        show_summary(env, screen, run_id, view.summary, records, view, differences)
    raise typer.Exit(exit_code(view.summary.state))


def watch(run_id: opt.RunId, where: opt.Where, prices: Prices = None) -> None:
    """Watch a run to its end and bring its output home; `sparklet resume RUN` plans the rest of it, too.

    A terminal shows cost so far, slow shards and causes below the counts; `sparklet status RUN` shows them once.
    """
    screen, figures = where.screen(), load_prices(prices)
    with environment(where.choice(), screen) as env:
        finish(env, run_id, screen, figures)


def runs(where: opt.Where) -> None:
    """List all runs, newest first."""
    screen = where.screen()
    with environment(where.choice(reading=True), screen) as env:
        found = list(env.at.ledger.list_runs())
    if where.as_json:
        screen.document([run_document(each) for each in found])
    elif found:
        screen.out.print(runs_table(found))
    else:
        screen.say("no runs yet; sparklet run SCRIPT --input … --output … starts one")


def results(run_id: opt.RunId, where: opt.Where) -> None:
    """Show what the script answered for each shard (job.answer), in order; --json: a line each."""
    screen = where.screen()
    with environment(where.choice(reading=True), screen) as env:
        table, count = Table("shard", "answer"), 0
        for line in results_of(env.at, env.at.ledger.get_run(run_id)):
            count += 1
            if where.as_json:
                sys.stdout.write(line.decode() + "\n")
            else:
                answer = json.loads(line)
                table.add_row(str(answer["shard"]), escape(json.dumps(answer["answer"], ensure_ascii=False)))
    if not count:
        screen.say(f"no shard of {run_id} has given an answer; a script gives one with job.answer(value)")
    elif not where.as_json:
        screen.out.print(table)


def explain(run_id: opt.RunId, where: opt.Where) -> None:
    """Group a run's failures by cause: an example, the likely reason, what to do, and the command to type."""
    screen = where.screen()
    with environment(where.choice(reading=True), screen) as env:
        run = env.at.ledger.get_run(run_id)
        groups = causes_of(env.at, run)
        if where.as_json:
            screen.document([group_document(env, run_id, group) for group in groups])
            return
        for group in groups:
            screen.out.print(group_table(env, run_id, group))
        if not run.state.ended:
            for number, since in observe(run, env.at.ledger.shards(run_id), env.at.clock.now_s()).lost:
                screen.say(lost_text(number, since))
    if not groups:
        screen.say(f"no shard of {run_id} has failed" + ("" if run.state.ended else " so far"))


def logs(
    run_id: opt.RunId,
    where: opt.Where,
    shard: Annotated[
        int | None, typer.Argument(metavar="SHARD", min=0, help="Only this shard.", show_default=False)
    ] = None,
    attempt: Annotated[
        str,
        typer.Option("--attempt", metavar="ID", help="Only attempts whose id begins so.", show_default=False),
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
) -> None:
    """Show what the workers and the script wrote, each line with its shard and attempt; --json: a line each, raw."""
    screen = where.screen()
    with environment(where.choice(reading=True), screen) as env:
        run = env.at.ledger.get_run(run_id)
        if shard is not None:
            env.at.ledger.get_shard(run_id, shard)
        reader = LogReader(env.logs, run_id, shard, attempt, run.created_s)
        try:
            shown = _show_lines(env, reader, where.as_json, follow)
        except BrokenPipeError:  # `| head` has seen enough; nothing more may be written, not even at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
    if not shown:
        screen.warn(f"nothing was written for {_named(run_id, shard)} yet, or its logs are no longer kept")


def _show_lines(env: Environment, reader: LogReader, as_json: bool, follow: bool) -> int:
    """Write the lines there are; with ``follow`` until the run has ended. How many."""
    shown, last = 0, None
    while True:
        ended = not follow or env.at.ledger.get_run(reader.run_id).state.ended
        for line in reader.lines():
            sys.stdout.write(json.dumps(line.document()) + "\n" if as_json else _text(line, last))
            shown, last = shown + 1, line
        sys.stdout.flush()
        if ended:
            return shown
        env.check()
        time.sleep(FOLLOW_POLL_S)


def _text(line: LogLine, last: LogLine | None) -> str:
    """A line for people, below its attempt's name where that changes."""
    head = ""
    if last is None or (last.stream, last.shard, last.attempt) != (line.stream, line.shard, line.attempt):
        head = f"{'' if last is None else chr(10)}── shard {line.shard}, attempt {line.attempt} ({line.stream})\n"
    return f"{head}{line.readable()}\n"


def _named(run_id: str, shard: int | None) -> str:
    return run_id if shard is None else f"shard {shard} of {run_id}"


def _stored(env: Environment, run_id: str, given: str) -> str:
    """The address of an input that a user names by it, or by the local file it was made from."""
    if "://" in given or not env.local:
        return given
    return stored_uri(Path(given).resolve(), LocalPaths.load(env.paths_dir, run_id).inputs) or given


def _show_fate(screen: Screen, run_id: str, fate: ObjectFate) -> None:
    if not fate.shards and not fate.left_out:
        why = "it was not there when the run was planned, or a pattern left it out"
        raise PlanError(f"{fate.uri} is in no shard of {run_id}; {why}")
    if screen.as_json:
        screen.document(fate_document(fate))
    elif fate.shards:
        screen.out.print(fate_table(fate))
    else:
        screen.out.print(
            f"{fate.uri} was left out of {run_id}: {'; '.join(dict.fromkeys(fate.left_out))}", markup=False
        )
