"""What a small function has no memory for ends well with --too-large engine: in a large function, or in a process."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import SCRIPTS, User, every_row, rows_of, shared_stack

pytestmark = [pytest.mark.nightly, pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of these tests' stack."""
    with shared_stack(tmp_path_factory.mktemp("a home") / "state dir", memory_mb=1536) as folder:
        yield folder


@pytest.mark.parametrize("engine", ["process", "lambda-large"])
def test_what_lacks_memory_ends_well_where_there_is_more(sharing: User, engine: str) -> None:
    """The second of two shards; a process is the local stack's default."""
    chosen = ("--engine", engine) if engine == "lambda-large" else ()
    more = ("--too-large", "engine", *chosen, "--memory", "1536", "--param", "large=001.csv")
    arguments = sharing.run_arguments(sharing.inputs(2), *more, run_id=engine)
    arguments[1] = str(SCRIPTS / "hold_much.py")

    done = sharing.types(*arguments)

    assert done.code == 0, done.err
    assert rows_of(sharing.home / "out") == every_row(2)
    [other, large] = sharing.shards(engine)
    assert (other["engine"], large["engine"]) == (None, engine)
    if engine == "lambda-large":
        assert large["attempts"] == 1
        [log] = (sharing.state / "log").glob("large-worker-*.log")  # called once, asynchronously, by Lambda's stand-in
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        assert any(line.get("run") == engine and line.get("shard") == 1 for line in lines)
