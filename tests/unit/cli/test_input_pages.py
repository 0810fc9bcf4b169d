"""The state of each input of a run, in pages, as ``sparklet.client`` returns it."""

import json
from pathlib import Path
from typing import Any

import pytest

from sparklet import Stack
from sparklet.model import Failure, RunOptions, ShardRecord, ShardResult, ShardState
from sparklet.model.shards import APART
from tests.unit.cli.conftest import BROKEN, RUN, Terminal
from tests.world import SCRIPT


def pages(size: int = 1000) -> list[list[dict[str, Any]]]:
    with Stack(quiet=True) as stack:
        return list(stack.find(RUN).inputs(size))


def test_each_input_has_the_state_and_error_of_its_shard(terminal: Terminal) -> None:
    uris = terminal.world.put(5)
    terminal.world.plan()  # two inputs a shard

    def do(number: int) -> ShardResult | Failure:
        return BROKEN if number == 1 else ShardResult(rows=7, output_bytes=10)

    waiting = pages()[0]
    terminal.world.work(do)
    (page,) = pages()

    assert [each["state"] for each in waiting] == ["PENDING"] * 5 and not any(each["outputs"] for each in waiting)
    assert [each["input"] for each in page] == uris
    assert [each["state"] for each in page] == ["SUCCEEDED"] * 2 + ["FAILED"] * 2 + ["SUCCEEDED"]
    assert [each["rows"] for each in page] == [None] * 4 + [7]  # a shard's rows are known for its only input alone
    assert [each["error_message"] for each in page] == [None] * 2 + ["column 3 is bad"] * 2 + [None]
    own = terminal.world.ledger.runs.get(RUN).shard_output
    assert [each["outputs"] for each in page] == [[own(0)]] * 2 + [[]] * 2 + [[own(2)]]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6])
def test_pages_have_all_inputs_once_in_order(terminal: Terminal, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparklet.app.input_pages.SHARDS_AT_ONCE", 2)
    uris = terminal.world.put(5)
    terminal.world.plan(options=RunOptions(max_objects=1), part_shards=2)

    found = pages(size)

    assert [each["input"] for page in found for each in page] == uris
    assert {len(page) for page in found[:-1]} <= {size} and 0 < len(found[-1]) <= size


def test_a_page_size_of_0_is_refused(terminal: Terminal) -> None:
    terminal.world.run(1)

    with pytest.raises(ValueError, match="at least one input, not 0"):
        pages(0)


def test_with_an_output_for_each_input_each_input_has_its_own(terminal: Terminal) -> None:
    world, base = terminal.world, "s3://data/out/"
    uris = world.put(4)
    run = world.plan(options=RunOptions(max_objects=2, output_per="input"))

    def stored_line(record: ShardRecord, number: int) -> str:
        outputs = [f"{base}{number}.parquet"]
        return json.dumps({"shard": record.number, "input": uris[number], "outputs": outputs, "rows": number})

    world.work(lambda number: BROKEN if number else ShardResult(rows=1, output_bytes=10))
    done = next(each for each in world.shards() if each.state is ShardState.SUCCEEDED)
    body = "\n".join(["{}", stored_line(done, 0), stored_line(done, 1)]).encode()
    world.store.put(world.deployment.run_uri(run.run_id, done.inputs_file), body)

    (page,) = pages()

    assert [each["outputs"] for each in page] == [[f"{base}0.parquet"], [f"{base}1.parquet"], [], []]
    assert [(each["input"], each["rows"]) for each in page] == list(zip(uris, [0, 1, None, None], strict=True))
    assert [each["error_class"] for each in page] == [None, None, "ValueError", "ValueError"]


def test_local_files_and_items_are_shown_as_they_were_given(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("1\n")
    (tmp_path / "job.py").write_text("print('job')\n")
    terminal.do = lambda _: ShardResult(rows=1, output_bytes=3)
    with Stack(quiet=True) as stack:
        local = stack.run(tmp_path / "job.py", tmp_path / "in", tmp_path / "out", run_id=RUN)
        local.result()
        items = stack.run(SCRIPT, output="s3://out/items/", items=[{"city": "Rome"}, 7], run_id="items")

        ((file,),) = local.inputs()
        (values,) = items.inputs()

    assert file["input"] == str(tmp_path / "in" / "a.csv")
    assert file["outputs"] == [
        terminal.world.ledger.runs.get(RUN)
        .shard_output(0)
        .replace(f"s3://sparklet/output/{RUN}", str(tmp_path / "out"))
    ]
    assert [each["input"] for each in values] == [{"city": "Rome"}, 7]


def test_inputs_of_a_split_shard_are_shown_with_its_pieces(terminal: Terminal) -> None:
    uris = terminal.world.put(2)
    terminal.world.plan(options=RunOptions(max_objects=2, isolate=True))
    attempt_id, record = terminal.world.take()
    terminal.world.ledger.attempts.release(RUN, record.number, attempt_id, BROKEN, "", APART)
    terminal.world.check()

    (page,) = pages()

    assert sorted((each["input"], each["shard"]) for each in page) == list(zip(uris, (1, 2), strict=True))
