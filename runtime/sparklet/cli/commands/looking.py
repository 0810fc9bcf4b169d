"""Commands that read: status, watch, runs, results, ddl, explain, logs, and doctor, which may delete snapshots."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sparklet.app.costs import load_prices
from sparklet.app.doctor import Finding, delete_snapshots, examine, examine_image, examine_stack, fetch_now
from sparklet.app.documents import ObjectStatus, group_document, object_document, object_status, shard_document
from sparklet.app.history import run_history
from sparklet.app.local_files import local_inputs, stored_uri
from sparklet.app.logs import INVOCATION, LogLine, LogReader
from sparklet.app.opening import ddl as ddl_of
from sparklet.app.stack import OpenStack, open_stack
from sparklet.app.status import explain_run, view_run
from sparklet.cli import options as opt
from sparklet.cli.console import Screen, confirm, exit_code, finish
from sparklet.cli.exit_codes import ALL_WELL, USAGE
from sparklet.cli.render import group_table, lost_text, object_table, runs_table, shards_table, summary_table
from sparklet.errors import PlanError
from sparklet.model.redaction import printable
from sparklet.runs.manifest import verify
from sparklet.runs.summary import drift_of
from sparklet.runs.summary import results as results_of

FOLLOW_POLL_S = 1.0


def status(
    run_id: opt.RunId,
    selection: opt.StackOptions,
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
        bool, typer.Option("--verify", help="Compare ledger, manifest and output in the bucket, which is listed whole.")
    ] = False,
) -> None:
    """Show the status of a run, or of one of its input objects.

    Counts, pace and estimated end, cost so far, slow shards, causes of failure, what drives it and what follows.
    """
    screen, prices = Screen(selection.as_json), load_prices()
    # A comparison lists the whole output, of which an ended stack's files show only plain names.
    with open_stack(selection, screen, reading=compare, looking=not compare) as stack:
        if object_uri:
            _show_object(
                screen,
                stack,
                run_id,
                object_status(stack.deployment, run_id, _stored_address(stack, run_id, object_uri)),
            )
            return
        view = view_run(stack, stack.deployment.ledger.runs.get(run_id), prices)
        records = list(stack.deployment.ledger.shards.list(run_id)) if shards else None
        differences = list(verify(stack.deployment, run_id)) if compare else None
        if screen.as_json:
            document = view.document(stack)
            if differences is not None:
                document["differences"] = [asdict(difference) for difference in differences]
            if records is not None:
                document["shard_list"] = [shard_document(record) for record in records]
            screen.document(document)
        else:
            screen.out.print(summary_table(stack, view.run, view.found.summary, view))
            if records is not None:
                screen.out.print(shards_table(records))
            if differences == []:
                screen.out.print("verified: ledger, manifest and output agree")
            for difference in differences or ():
                screen.warn(f"{difference.kind}: {difference.found}")
    raise typer.Exit(exit_code(view.found.summary.state))


def watch(run_id: opt.RunId, selection: opt.StackOptions, report: opt.Report = True) -> None:
    """Watch a run until it ends and download its output; `sparklet resume RUN` plans the rest of it, too.

    A terminal shows cost so far and slow shards below the counts; `sparklet status RUN` shows them once.
    """
    screen, prices = Screen(selection.as_json), load_prices()
    with open_stack(selection, screen) as stack:
        finish(stack, run_id, screen, prices, report=report)


def runs(selection: opt.StackOptions) -> None:
    """List all runs, newest first: what the newest 100 took, read, wrote and cost, and how many shards failed.

    Trend: time, rows and cost, where half as much again as in the last five runs of the same name, or a third less; and
    whether a run wrote 100 files or more, on average below 4 MiB. A run that is open has dashes.
    """
    screen, prices = Screen(selection.as_json), load_prices()
    with open_stack(selection, screen, looking=True) as stack:
        documents = run_history(stack, list(stack.deployment.ledger.runs.list()), prices, {})
    no_runs_text = "no runs yet; sparklet run SCRIPT --input … --output … starts one"
    screen.result(documents, runs_table(documents, screen.out.width) if documents else no_runs_text)


def results(run_id: opt.RunId, selection: opt.StackOptions) -> None:
    """Show the script's answer for each shard (job.answer), in order; --json: one line for each.

    Of a run with --output-per input also rows, bytes and files of each input's output.
    """
    screen = Screen(selection.as_json)
    with open_stack(selection, screen, looking=True) as stack:
        table, count = Table("shard", "answer"), 0
        for line in results_of(stack.deployment, stack.deployment.ledger.runs.get(run_id)):
            count += 1
            if selection.as_json:
                # Written anew, in ASCII: a script's answer must not control the terminal.
                sys.stdout.write(json.dumps(json.loads(line)) + "\n")
            else:
                shard, answer = (answer := json.loads(line)).pop("shard"), answer.get("answer", answer)
                table.add_row(str(shard), escape(json.dumps(answer, ensure_ascii=False)))
    if not count:
        screen.say(f"no shard of {run_id} has given an answer; a script gives one with job.answer(value)")
    elif not selection.as_json:
        screen.out.print(table)


def ddl(
    run_id: opt.RunId,
    selection: opt.StackOptions,
    name: Annotated[str, typer.Option("--name", metavar="DATABASE.TABLE", help="The table's name in Athena.")] = "",
) -> None:
    """Print what makes Athena read the tables and the output of a run that has ended."""
    screen = Screen(selection.as_json)
    with open_stack(selection, screen, reading=True) as stack:
        run = stack.deployment.ledger.runs.get(run_id)
        tables = ddl_of(stack.deployment, run, name)
    if selection.as_json:
        screen.document(tables)
    for table in tables if not selection.as_json else ():
        sys.stdout.write(printable(f"-- {table['of']}: {table['note'] or 'for Athena'}\n"))
        sys.stdout.writelines(printable(f"{statement};\n") for statement in table["statements"])
    raise typer.Exit(exit_code(run.state))


def explain(run_id: opt.RunId, selection: opt.StackOptions) -> None:
    """Group a run's failures by cause: an example, whether data or script is at fault, what to do, what to type."""
    screen = Screen(selection.as_json)
    with open_stack(selection, screen, looking=True) as stack:
        run = stack.deployment.ledger.runs.get(run_id)
        groups, observation = explain_run(stack, run)
        if selection.as_json:
            screen.document([group_document(stack, group) for group in groups])
            return
        for group in groups:
            screen.out.print(group_table(stack, group))
        for number, since in observation.lost:
            screen.say(lost_text(number, since))
        if drift := drift_of(stack.deployment, run).text if run.state.ended else "":
            screen.say(drift)
    if not groups:
        screen.say(f"no shard of {run_id} has failed" + ("" if run.state.ended else " so far"))


def logs(
    run_id: opt.RunId,
    selection: opt.StackOptions,
    shard: Annotated[int | None, typer.Argument(metavar="SHARD", min=0, help="Only this shard.")] = None,
    attempt: Annotated[
        str, typer.Option("--attempt", metavar="ID", help="Only attempts whose id begins with this.")
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until the run has ended.")] = False,
) -> None:
    """Show the logs of workers and script, with shard and attempt; --json: one object for each unchanged line.

    Instead of RUN it may be the name of an invocation, which `sparklet invoke` says.
    """
    screen = Screen(selection.as_json)
    with open_stack(selection, screen, reading=follow, looking=not follow) as stack:
        is_invocation = run_id.startswith(INVOCATION)
        since_s = 0.0 if is_invocation else stack.deployment.ledger.runs.get(run_id).created_s
        if shard is not None:
            stack.deployment.ledger.shards.get(run_id, shard)
        reader = LogReader(stack.logs, run_id, shard, attempt, since_s)
        try:
            line_count = _show_lines(stack, reader, selection.as_json, follow and not is_invocation)
        except BrokenPipeError:  # `| head` has ended; write nothing more, not even at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
    if not line_count:
        subject = run_id if shard is None else f"shard {shard} of {run_id}"
        screen.warn(f"nothing was written for {subject} yet, or its logs are no longer kept")


def doctor(
    selection: opt.StackOptions,
    delete: Annotated[
        bool, typer.Option("--delete-snapshots", help="Delete the worker's unused versions with snapshots; asks first.")
    ] = False,
    image: Annotated[
        str, typer.Option("--image", metavar="URI", help="Check instead whether Lambda takes this image in ECR.")
    ] = "",
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Fetch now what the first run would; afterwards all works offline.")
    ] = False,
    yes: opt.Yes = False,
) -> None:
    """Check this machine; with --stack the settings of a deployed stack, or whether the account has room for it."""
    screen = Screen(selection.as_json)
    if fetch:
        fetch_now(screen.say)
    if delete:
        delete_snapshots(selection.stack, lambda question: confirm(screen, question, yes=yes))
    if image:
        findings = [examine_image(image)]
    else:
        findings = examine_stack(selection.stack) if selection.stack else examine(selection.state)
    screen.result([finding.document() for finding in findings], _findings_table(findings))
    raise typer.Exit(ALL_WELL if all(finding.good for finding in findings) else USAGE)


def _stored_address(stack: OpenStack, run_id: str, name: str) -> str:
    """Return the address of an input, given by the address itself or by the local file that was copied to it."""
    if "://" in name:
        return name
    return stored_uri(Path(name).resolve(), local_inputs(stack, run_id)) or name


def _show_object(screen: Screen, stack: OpenStack, run_id: str, input_status: ObjectStatus) -> None:
    if not input_status.shards and not input_status.left_out:
        why = "it did not exist when the run was planned, or a pattern left it out"
        raise PlanError(f"{input_status.uri} is in no shard of {run_id}; {why}")
    left_out_text = f"{input_status.uri} was left out of {run_id}: {'; '.join(dict.fromkeys(input_status.left_out))}"
    table = (
        object_table(stack, stack.deployment.ledger.runs.get(run_id), input_status)
        if input_status.shards
        else left_out_text
    )
    screen.result(object_document(input_status), table)


def _show_lines(stack: OpenStack, reader: LogReader, as_json: bool, follow: bool) -> int:
    """Print the lines, with ``follow`` until the run has ended; return the number of lines."""
    line_count, last_line = 0, None
    while True:
        # Checked before the lines are read, so that the last reading gets all lines of an ended run.
        is_last_reading = not follow or stack.deployment.ledger.runs.get(reader.run_id).state.ended
        for line in reader.lines():
            sys.stdout.write(json.dumps(line.document()) + "\n" if as_json else printable(_text(line, last_line)))
            line_count, last_line = line_count + 1, line
        sys.stdout.flush()
        if is_last_reading:
            return line_count
        stack.check()
        stack.deployment.clock.sleep(FOLLOW_POLL_S)


def _text(line: LogLine, last_line: LogLine | None) -> str:
    """Return the line as people read it, below a heading if the line before was from another attempt."""
    heading = ""
    if last_line is None or (last_line.stream, last_line.shard, last_line.attempt) != (
        line.stream,
        line.shard,
        line.attempt,
    ):
        heading = (
            f"{'' if last_line is None else chr(10)}── shard {line.shard}, attempt {line.attempt} ({line.stream})\n"
        )
    return f"{heading}{line.readable()}\n"


def _findings_table(findings: list[Finding]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for finding in findings:
        mark = "[green]ok[/green]" if finding.good else f"[red]{finding.bad_word}[/red]"
        remedy = "" if finding.good or not finding.remedy else f" [dim]→ {escape(finding.remedy)}[/dim]"
        grid.add_row(mark, finding.check, escape(finding.found) + remedy)
    return grid
