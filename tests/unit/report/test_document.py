"""The content of a run's report, its HTML file, and the place where a command writes it."""

import io
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from sparklet.app.logs import MAX_PRINTED_BYTES
from sparklet.app.report import document
from sparklet.app.report.page import Server, page
from sparklet.app.stack import OpenStack, StackSelection
from sparklet.cli.commands import reporting
from sparklet.cli.console import MAX_PRINTED_LINES, Screen, report_path
from sparklet.cli.console import Terminal as Terminal_
from sparklet.model import Failure, ShardResult
from sparklet.model.redaction import HIDDEN
from sparklet.planning.inputs.selection import is_hidden
from tests.unit.cli.conftest import RUN, CommandResult, Terminal
from tests.world import SCRIPT, SOURCE, Outcome

PLAN = ("-i", SOURCE, "-o", "s3://data/out/", "--max-objects", "1", "--run-id", RUN)
BAD = Failure("ValueError", "malformed line 7 in 00003.csv at line 2 of daily.py", retryable=False)


def outcome(number: int) -> Outcome:
    return BAD if number == 3 else ShardResult(rows=10 * number, output_bytes=5, memory_mb=500 + number)


@pytest.fixture
def failed(terminal: Terminal) -> Terminal:
    """A terminal with a run of five shards, of which one has failed."""
    terminal.world.store.put(SCRIPT, b"one\ntwo\nthree\nfour\nfive\n")
    terminal.do = outcome
    run(terminal, 5, "--tolerate", "1", "--param", "day=1", "--env", "MODE=fast")
    return terminal


def run(terminal: Terminal, objects: int, *given: str) -> CommandResult:
    terminal.world.put(objects)
    return terminal.types("run", SCRIPT, *PLAN, *given)


def report(terminal: Terminal) -> Any:
    return terminal.types("report", RUN, "--json").document


@pytest.fixture
def served_lists(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The documents of two requests for the list of runs; nothing is served."""
    found: list[dict[str, Any]] = []

    class Looked(Server):
        def serve_forever(self, poll_interval: float = 0.5) -> None:
            found.extend(self.reports.read_report("") for _ in range(2))

    monkeypatch.setattr(reporting, "Server", Looked)
    return found


def test_a_report_has_the_status_and_every_shard(failed: Terminal) -> None:
    told = failed.types("report", RUN, "--json")
    status = failed.types("status", RUN, "--json").document

    found = told.document
    assert found["status"] == status
    columns = found["shard_table"]["columns"]
    assert columns["shard"] == [0, 1, 2, 3, 4]
    assert columns["state"] == ["SUCCEEDED"] * 3 + ["FAILED", "SUCCEEDED"]
    assert columns["memory_mb"] == [500, 501, 502, None, 504]
    assert found["run"]["params"] == {"day": "1"}
    assert found["run"]["variables"] == ["MODE"] and "fast" not in told.out
    assert found["worker"]["memory_mb"] == 3008
    assert found["estimate"]["costs_usd"].keys() == status["costs_usd"].keys()
    assert found["estimate"]["origin"].startswith("assumed")  # there is no earlier run to estimate from


def prints(terminal: Terminal, shard: int, attempt: str, *lines: str) -> None:
    own = {"time": "2026-11-20T08:30:00.000Z", "level": "INFO", "message": "script started", "run": RUN}
    terminal.logs.lines += [json.dumps({**own, "shard": shard, "attempt": attempt}), *lines]


def test_the_output_of_scripts_is_shown_and_in_the_report(terminal: Terminal) -> None:
    prints(terminal, 1, "a1", "of another attempt")
    prints(terminal, 1, "a2", "rows 7", "\x1b[31mred")
    prints(terminal, 0, "b1", *["x" * 100] * 300)

    told = run(terminal, 2)

    lines = told.out.splitlines()
    assert "shard 1: rows 7" in lines and "\x1b" not in told.out
    assert len([line for line in lines if line.startswith("shard ")]) == MAX_PRINTED_LINES
    assert f"scripts print more than is shown here: sparklet logs {RUN} --follow" in lines
    found = report(terminal)
    by_shard = dict(zip(found["shard_table"]["columns"]["shard"], found["printed"], strict=True))
    assert by_shard[1].startswith("rows 7\n") and "another attempt" not in by_shard[1]
    assert len(by_shard[0]) == MAX_PRINTED_BYTES


def test_a_report_lists_only_options_that_the_user_gave(terminal: Terminal) -> None:
    """``max_shard_bytes = 1051372202`` is not listed, since the planner sets it."""
    given = ("--max-objects", "1", "--shard-size", "64MiB", "--include", "*.csv", "--include", "a b", "--incremental")

    run(terminal, 1, *given, "--tolerate", "2.5%")

    options = report(terminal)["run"]["options"]
    told = "--shard-size 64MiB --max-objects 1 --include '*.csv' --include 'a b' --incremental --tolerate 2.5%"
    assert sorted(shlex.split(" ".join(options))) == sorted(shlex.split(told))


def test_each_shard_names_its_inputs(terminal: Terminal) -> None:
    run(terminal, 5, "--max-objects", "2")

    names = ["00000.csv\n00001.csv", "00002.csv\n00003.csv", "00004.csv"]
    assert report(terminal)["inputs"] == {"folder": SOURCE, "names": names}


def test_a_report_names_no_inputs_if_there_are_too_many(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "MAX_NAMED", 4)

    run(terminal, 5)

    assert report(terminal)["inputs"]["names"] == []


def test_a_cause_has_its_file_the_scripts_lines_and_the_command(failed: Terminal) -> None:
    (cause,) = report(failed)["causes"]

    assert cause["files"] == [f"{SOURCE}00003.csv"]
    assert cause["script_line"] == 2
    assert cause["script"] == {"first": 1, "lines": ["one", "two", "three", "four"]}
    assert cause["redrive"].startswith(f"sparklet redrive {RUN}")


def test_watch_writes_a_report_at_the_end_of_the_run(failed: Terminal) -> None:
    path = Path.cwd() / "_reports" / f"{RUN}-0.html"

    html = path.read_text()

    assert "00003.csv" in html and html.startswith("<!DOCTYPE html>")
    again = failed.types("watch", RUN)
    assert again.out.endswith(f"report: {path.as_uri()}\n")
    assert failed.types("watch", RUN, "--json").document["report_file"] == str(path)
    assert failed.types("report", RUN).out == f"report: {path.as_uri()}\n"


def test_a_report_is_beside_a_local_output_and_hidden_from_runs(failed: Terminal, tmp_path: Path) -> None:
    ended = replace(failed.world.ledger.runs.get(RUN), local_output=f"file://{tmp_path}/clean/out/")

    (tmp_path / "clean").mkdir()
    path = report_path(ended)

    assert path == tmp_path / "clean" / "_reports" / f"{RUN}-0.html"
    assert is_hidden(f"{path.parent.name}/{path.name}")  # so a later run with -i . does not read the report


def test_a_report_that_cannot_be_written_fails_no_run(failed: Terminal) -> None:
    shutil.rmtree("_reports")
    Path("_reports").touch()

    told = failed.types("watch", RUN)

    assert told.code == 0 and "there is no report" in told.err


def test_in_a_terminal_the_reports_path_is_a_link(tmp_path: Path) -> None:
    """By OSC 8 the link has the whole address even if the line is cut."""
    shown = io.StringIO()
    screen = Screen(out=Terminal_(file=shown, force_terminal=True, width=20))

    screen.link("report", tmp_path / "a b.html")

    uri = (tmp_path / "a b.html").as_uri()
    assert re.search(rf"\x1b\]8;[^;]*;{uri}\x1b\\.*{uri}.*\x1b\]8;;\x1b\\", shown.getvalue())


def test_no_report_is_left_if_none_is_wanted(terminal: Terminal) -> None:
    told = run(terminal, 2, "--no-report")

    assert told.code == 0, told.err
    assert ".html" not in told.out and not Path("_reports").exists()


def test_a_report_is_written_where_the_user_says(failed: Terminal, tmp_path: Path) -> None:
    path = tmp_path / "a report.html"

    told = failed.types("report", RUN, "--output", str(path))

    assert told.code == 0, told.err
    assert path.as_uri() in told.out
    assert RUN in path.read_text()
    refused = failed.types("report", RUN, "--output", str(tmp_path / "nowhere" / "r.html"))
    assert refused.code == 1 and "--output" in refused.err


def test_a_page_reaches_no_other_host_and_runs_no_foreign_script() -> None:
    html = page({"name": "</script><script>alert(1)</script><!--"}, "<b>&")

    assert html.count("<script") == 3 and html.count("</script>") == 3
    policy = html.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0]
    assert "default-src 'none'" in policy and "connect-src 'none'" in policy and "unsafe-eval" not in policy
    hashes = [each for each in policy.split() if each.startswith("'sha256-")]
    assert policy.partition("script-src ")[2].split() == hashes
    document = html.partition('id="report">')[2].partition("</script>")[0]
    assert json.loads(document) == {"name": "</script><script>alert(1)</script><!--"}
    assert "<title>&lt;b&gt;&amp;</title>" in html


def test_a_missing_library_is_named_with_its_remedy(failed: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)

    told = failed.types("report", RUN)

    assert told.code == 1
    assert "pip install 'sparklet[report]'" in told.err
    watched = failed.types("watch", RUN)  # a missing library must not fail a run
    assert watched.code == 0 and "sparklet[report]" in watched.err


def test_secrets_of_parameters_and_arguments_are_in_no_report(terminal: Terminal) -> None:
    terminal.world.store.put(SCRIPT, b"one\nlogin(password='in-the-script', user='me')\n")
    terminal.do = lambda _: BAD
    params = ("--param", "db_token=of-a-param", "--param", "url=jdbc:x://me:of-a-url@h/d")
    run(terminal, 1, "--env", "API_KEY=of-the-env", *params, "--", "--password", "of-an-arg")

    file = terminal.state / "run.html"
    told = [terminal.types(command, RUN, "--json").out for command in ("report", "status", "explain", "results")]
    told += [terminal.types("report", RUN, "--output", str(file)).out, file.read_text(), terminal.types("runs").out]
    kept = [info.uri for info in terminal.world.store.list(f"s3://sparklet/runs/{RUN}/") if "/script/" not in info.uri]
    told += [terminal.world.store.get(uri).decode(errors="replace") for uri in kept]

    assert [text for text in told if "of-a" in text or "of-the" in text or "in-the-script" in text] == []
    shown = json.loads(told[0])["run"]
    assert shown["params"] == {"db_token": HIDDEN, "url": f"jdbc:x://me:{HIDDEN}@h/d"}
    assert shown["args"] == ["--password", HIDDEN]
    assert f"password='{HIDDEN}', user='me'" in json.loads(told[0])["causes"][0]["script"]["lines"][1]
    assert terminal.world.ledger.runs.get(RUN).args == ("--password", "of-an-arg"), "workers need it"


def test_ui_prints_once_that_it_uses_a_running_stack(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, served_lists: list[dict[str, Any]]
) -> None:
    @contextmanager
    def attached(selection: StackSelection, screen: Screen, **how: bool) -> Iterator[OpenStack]:
        screen.say("attached")
        with terminal.environment(selection, screen, **how) as stack:
            yield stack

    monkeypatch.setattr(reporting, "open_stack", attached)

    assert terminal.types("ui").out.count("attached") == 1 and len(served_lists) == 2


def test_the_list_reads_counts_of_an_ended_run_once(
    failed: Terminal, monkeypatch: pytest.MonkeyPatch, served_lists: list[dict[str, Any]]
) -> None:
    glance = Mock(side_effect=failed.world.ledger.shards.glance)
    monkeypatch.setattr(failed.world.ledger.shards, "glance", glance)

    failed.types("ui")

    (first,), (second,) = (each["runs"] for each in served_lists)
    assert first == second and first["took_s"] > 0 and glance.call_count == 1
    assert first["counts"] == {"total": 5, "pending": 0, "running": 0, "succeeded": 4, "failed": 1}
