"""`sparklet results` shows what the script answered for each shard."""

import json

from tests.unit.cli.conftest import RUN, Terminal
from tests.unit.runs.test_results import work


def test_results_are_a_table_or_a_line_each(terminal: Terminal) -> None:
    terminal.world.run(3)
    work(terminal.world)
    terminal.world.check()

    table, raw = terminal.types("results", RUN), terminal.types("results", RUN, "--json")

    assert (table.code, raw.code) == (0, 0), table.err + raw.err
    assert '{"n": 2}' in table.out
    assert [json.loads(line)["shard"] for line in raw.out.splitlines()] == [0, 1, 2]


def test_a_run_without_answers_says_how_a_script_gives_one(terminal: Terminal) -> None:
    terminal.world.run(1)

    told, raw = terminal.types("results", RUN), terminal.types("results", RUN, "--json")

    assert told.code == 0 and "job.answer(" in told.out
    assert raw.out == "" and "job.answer(" in raw.err
