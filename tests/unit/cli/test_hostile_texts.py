"""Control characters in data never reach the terminal; JSON documents stay valid."""

import json
import os
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

import sparklet
from sparklet import client
from sparklet.cli.console import Screen
from sparklet.cli.console import Terminal as Printer
from sparklet.model import Failure, RunOptions, ShardResult
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from tests.unit.cli.conftest import RUN, Terminal
from tests.world import SCRIPT, SOURCE

OSC = "\x1b]0;title\x07"
ALL = [chr(n) for n in (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))]
HOSTILE = f"{OSC}\x1b[2J\x1b[35;8mhidden\x9b2J\x7f\r\N{RIGHT-TO-LEFT OVERRIDE}evil\x08:bomb: [red]"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
STYLES = re.compile(  # of Rich: colours, the live display, a report's link
    r"\x1b\[(?:[\d;]*m|\?25[lh]|2K|1A)|\r(?=\x1b\[2K)|\x1b\]8;(?:id=\d+;file://[!-~]+|;)\x1b\\"
)


def failed_run(terminal: Terminal) -> None:
    """Make a run whose objects, errors and logs have control characters; its second shard has succeeded."""
    world = terminal.world
    for n in range(2):
        world.store.put(f"{SOURCE}{n}{HOSTILE}.csv", b"x")
    plan(world.deployment, new_run(world.deployment, world.request(options=RunOptions(max_objects=1))).run_id)
    failure = Failure(f"Error{OSC}", f"cannot read {HOSTILE}\nand so on", retryable=False)
    world.work(lambda shard: ShardResult(rows=1) if shard else failure)
    world.check()
    own = {"time": "2026-11-20T08:30:00.000Z", "level": "INFO", "message": HOSTILE, "attempt": f"a{OSC}", "run": RUN}
    terminal.logs.lines = [json.dumps(own | {"shard": 0}), f"hello {HOSTILE}"]


COMMANDS = [
    ["status", RUN],
    ["status", RUN, "--shards"],
    ["status", RUN, "--object", f"{SOURCE}0{HOSTILE}.csv"],
    ["status", f"no-run{HOSTILE}"],
    ["explain", RUN],
    ["logs", RUN],
    ["watch", RUN, "--no-report"],
    ["runs"],
    ["ddl", RUN],
    ["results", RUN],
    ["redrive", RUN, "--cause", HOSTILE],
    ["plan", SCRIPT, "--input", SOURCE, "--dry-run", "--explain"],
    ["run", SCRIPT, "--input", SOURCE, "--output", "s3://data/new/", "-p", HOSTILE],
    ["clean", "--run", RUN, "--dry-run"],
    [f"no-command{HOSTILE}"],
    ["status", RUN, f"--no-option{HOSTILE}"],
    ["runs", "--debug", f"--stack={HOSTILE}", "--state-dir", "x"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:20].encode("unicode_escape").decode())
@pytest.mark.parametrize("colours", [False, True], ids=["piped", "colours"])
def test_no_command_shows_a_control_character_of_data(
    terminal: Terminal, words: list[str], colours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed_run(terminal)
    if colours:
        monkeypatch.setenv("FORCE_COLOR", "1")

    told = terminal.types(*words)

    shown = told.out + told.err
    assert shown
    assert "\x1b[35;8m" not in shown
    assert not OBEYED.search(STYLES.sub("", shown))


@pytest.mark.parametrize("words", [words for words in COMMANDS[:8] if words[0] != "status" or words[1] == RUN])
def test_a_document_of_hostile_data_is_json_in_ascii(terminal: Terminal, words: list[str]) -> None:
    failed_run(terminal)

    told = terminal.types(*words, "--json")

    assert told.out.isascii()
    assert not OBEYED.search(told.out)
    documents = [json.loads(each) for each in (told.out.splitlines() if words[0] == "logs" else [told.out])]
    if words[0] == "explain":
        assert documents[0][0]["message"] == f"cannot read {HOSTILE}\nand so on", "the document has it all"


def test_answers_of_scripts_stay_json_without_control_characters(terminal: Terminal) -> None:
    terminal.world.run(1)
    answer = {"title": f"{HOSTILE} naïve \x7f \x9b"}
    terminal.world.work(lambda _: ShardResult(rows=1, answer=(answer,)))
    body = json.dumps({"shard": 0, "answer": answer}, ensure_ascii=False).encode()
    (record,) = terminal.world.ledger.shards.list(RUN)
    terminal.world.store.put(terminal.world.deployment.run_uri(RUN, record.answer_file), body)

    as_json, for_people = terminal.types("results", RUN, "--json"), terminal.types("results", RUN)

    assert as_json.document["answer"] == answer
    assert as_json.out.isascii()
    assert not OBEYED.search(as_json.out + for_people.out)


def test_replaced_characters_do_not_cut_a_table_cell() -> None:
    """A replaced character takes one column; the cell gets wider, and no letter is cut off."""
    out = StringIO()
    table = Table("name", "state", show_edge=False)
    table.add_row("a\x1b\x1b\x1bz", Text("\x1b\x9b1mok!"))
    Printer(file=out, width=80).print(table)
    assert set("azok!") <= set(out.getvalue().partition("state")[2])
    assert out.getvalue().count("\N{REPLACEMENT CHARACTER}") == 5


def test_every_control_character_but_newline_and_tab_is_replaced() -> None:
    out = StringIO()
    Printer(file=out, width=300).print("".join(ALL), markup=False)
    assert not OBEYED.search(out.getvalue())
    assert "\n" in out.getvalue()


def test_richs_own_colours_and_live_display_still_work() -> None:
    out = StringIO()
    screen = Screen(err=Printer(file=out, width=80, force_terminal=True, color_system="standard"))
    screen.warn(f"look {OSC}")
    assert "\x1b[33mwarning:\x1b[0m" in out.getvalue()
    assert isinstance(screen.err, Console)
    with screen.err.status("working"):
        pass
    assert "\x1b[2K" in out.getvalue(), "Rich moves the cursor itself"
    assert OSC not in out.getvalue()


def test_a_python_programs_progress_is_filtered_too(capsys: pytest.CaptureFixture[str]) -> None:
    client._Reporter(quiet=False).warn(HOSTILE)
    assert not OBEYED.search(capsys.readouterr().err)


def test_an_invalid_character_in_an_argument_does_not_crash(terminal: Terminal) -> None:
    assert terminal.types("status", "run-\udcff").code == 1


def test_names_are_utf8_in_every_locale(tmp_path: Path) -> None:
    (tmp_path / "täglich").mkdir()
    (tmp_path / "täglich" / "ä.csv").write_text("x")
    (tmp_path / "jöb.py").write_text("")
    command = [sys.executable, "-c", "from sparklet.cli import main; main()", "plan", "jöb.py", "-i", "täglich"]
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # a locale without UTF-8
    done = subprocess.run([*command, "--dry-run"], capture_output=True, cwd=tmp_path, env=env, check=False)

    assert done.stderr == b"" and "from täglich/ä.csv on" in done.stdout.decode()


def test_a_bugs_traceback_is_filtered_too(tmp_path: Path) -> None:
    """This is so in the command's own process; a caller of ``main`` gets the exception."""
    code = (
        "import sys; from sparklet.cli import app\n"
        "def bug(*_, **__): raise KeyError('\\x9b2J') from ValueError('\\x1b]0;x\\x07')\n"
        "app.app = bug; sys.argv = ['sparklet', 'runs']\n"
        "app.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "KeyError" in done.stderr
    assert not OBEYED.search(done.stderr)


def test_all_output_goes_through_the_filter() -> None:
    """Every line of the command line's code that prints uses the filter, or writes JSON in ASCII."""
    root = Path(sparklet.__file__).parent
    writes = re.compile(r"\bprint\(|echo\(|std(?:out|err)\.write|(?<!\w)Console\(")
    files = [*root.joinpath("cli").rglob("*.py"), *root.joinpath("app").glob("*.py"), root / "client.py"]
    lines = [line.strip() for path in files for line in path.read_text().splitlines() if writes.search(line)]
    by_screen = re.compile(r"(?:screen|self|console)\.(?:out|err|as_json|console|_live)|class Terminal|REFUSAL = ")
    filtered = re.compile(r"^return f'python -c |printable\(|json\.dumps|typer\.echo\(f\"sparklet \{__version__\}\"\)")
    assert [line for line in lines if not by_screen.search(line) and not filtered.search(line)] == []
