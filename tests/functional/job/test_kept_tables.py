"""A kept JVM's caches of tables do not hide a table's present state, or another task's credentials, from a task."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from tests.functional.job.conftest import FORMATS
from tests.functional.job.readers import delta, hudi, iceberg
from tests.functional.job.refusing_s3 import refusing_s3
from tests.functional.worker.conftest import Bench

pytestmark = [pytest.mark.nightly, pytest.mark.spark, pytest.mark.slow]

APPEND, KNOCK = (Path(__file__).with_name(name).read_text() for name in ("append_and_read.py", "knock.py"))
READERS = {"delta": (delta, "delta"), "iceberg": (iceberg, "lake/tags"), "hudi": (hudi, "hudi")}
NAMED = ["--param", f"formats={','.join(FORMATS)}"]


def test_a_task_sees_new_tables_despite_the_jvms_cache(warm: Bench, tmp_path: Path) -> None:
    lake, one, two = tmp_path / "lake", tmp_path / "one", tmp_path / "two"

    def seen_after(tag: str) -> dict[str, str]:
        """Run a task that appends one row to each table; return the tags that it and other readers then read."""
        tags = warm.run(APPEND, ["--output", str(lake), "--param", f"tag={tag}", *NAMED]).printed()
        readers = {name: READERS[name] for name in FORMATS}.items()
        assert tags == {name: "".join(tag for (tag,) in read(lake / path, "tag")) for name, (read, path) in readers}
        return dict(tags)

    def put(state: Path) -> None:
        shutil.rmtree(lake)
        shutil.copytree(state, lake)

    assert seen_after("a") == dict.fromkeys(FORMATS, "a")
    shutil.copytree(lake, one)
    assert seen_after("b") == dict.fromkeys(FORMATS, "ab")
    shutil.copytree(lake, two)
    put(one)  # fewer commits than the JVM has seen, as after a table was dropped and created again
    assert seen_after("c") == dict.fromkeys(FORMATS, "ac")
    put(two)  # as many commits as the JVM has seen, but of another writer
    write_deltalake(str(lake / "delta"), pa.table({"tag": ["d"]}), mode="append")
    assert seen_after("e") == {**dict.fromkeys(FORMATS, "abe"), "delta": "abde"}


def test_table_requests_use_the_tasks_own_credentials(warm: Bench) -> None:
    with refusing_s3() as (endpoint, signers):
        for key in ("FIRST", "SECOND"):
            signers.clear()
            ran = warm.run(KNOCK, ["--output", "s3a://bucket", "--param", f"key={key}", *NAMED, endpoint])
            assert ran.printed() == FORMATS
            assert set(signers) == {key}
