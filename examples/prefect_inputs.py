"""A run in Prefect, with a table of its inputs as artifacts, one a page. ::

python examples/prefect_inputs.py 2026-11-20
"""

import sys

from prefect import flow, task
from prefect.artifacts import create_table_artifact

import sparklet


@task(retries=2)  # a retry continues the same run
def clean(day: str) -> int:
    """Clean a day's files and show what each became; how many rows there are."""
    run = sparklet.run(
        "s3://jobs/clean.py",
        input=f"s3://raw/{day}/",
        output=f"s3://clean/{day}/",
        stack="sparklet",
        run_id=f"sales-{day}",
        output_per="input",
        isolate=True,
        tolerate="100%",
    )
    rows: int = run.result()["rows"]
    columns = ("input", "state", "rows", "outputs", "error_message")
    for number, page in enumerate(run.inputs(500)):
        table = [{name: each[name] for name in columns} for each in page]
        create_table_artifact(table, key=f"sales-{day}-{number}", description=f"what the files of {day} became")
    return rows


@flow
def daily_sales(day: str) -> int:
    """The day's flow."""
    return clean(day)


if __name__ == "__main__":
    daily_sales(sys.argv[1])
