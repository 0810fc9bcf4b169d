"""One schema a run, through the command line: inferred once, the same in every shard, and strict."""

import duckdb
import pytest

from tests.end_to_end.conftest import User

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

READS = """from sparklet.job import Job

job = Job.from_args()
rows = job.read_csv(job.spark(), sep=";")
rows.write.parquet(job.output)
job.report(rows=rows.count())
"""


def script(user: User, text: str) -> str:
    path = user.home / "reads.py"
    path.write_text(text)
    return str(path)


def inputs(user: User, *texts: str) -> str:
    """A folder of CSV files; the second has no amount, which a guess takes for a text."""
    folder = user.home / "in"
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / f"{number}.csv").write_text(text)
    return str(folder)


def run(user: User, text: str, folder: str, *more: str) -> list[str]:
    where = ["--input", folder, "--output", str(user.home / "out"), "--run-id", "typed", "--max-objects", "1"]
    return ["run", script(user, text), *where, "--workers", "1", "--json", *more]


def test_shards_share_the_schema_that_a_first_task_infers(user: User) -> None:
    folder = inputs(user, "id;amount\n1;2.5\n", "id;amount\n2;\n", "id;amount\n3;4\n")

    done = user.types(*run(user, READS, folder, "--schema", "infer"))

    assert done.code == 0, done.err
    files = f"{user.home}/out/shard=*/*.parquet"
    types = duckdb.sql(
        f"SELECT DISTINCT name, type FROM parquet_schema('{files}') WHERE type IS NOT NULL ORDER BY name"
    )
    assert types.fetchall() == [("amount", "DOUBLE"), ("id", "INT64")]
    assert duckdb.sql(f"SELECT id, amount FROM '{files}' ORDER BY id").fetchall() == [(1, 2.5), (2, None), (3, 4.0)]


def test_a_schema_comes_from_a_file_and_a_misfit_is_loud(user: User) -> None:
    folder = inputs(user, "id;amount\n1;2.5\n", "amount;id\n7;2\n")
    (user.home / "columns.sql").write_text("id BIGINT,\n  amount DOUBLE\n")

    done = user.types(*run(user, READS, folder, "--schema", "columns.sql", "--max-attempts", "1", "--keep"))
    explained = user.types("explain", "typed", "--json").document

    assert done.code == 2 and done.document["shards"]["succeeded"] == 1, done.err
    assert explained[0]["example_object"].endswith("1.csv"), explained
