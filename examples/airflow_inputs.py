"""A run in Airflow 3, with a mapped task for each of its inputs. ::

    airflow dags test daily_sales 2026-11-20

The run packs its files as ever, in one task. The mapped ones do no work: each shows what became of one file, so that a
file that failed is a red task with the cause in its log. Airflow maps a list of up to 1,024 (``max_map_length`` of
``[core]``); of more inputs return the pages, ``list(run.inputs(1000))``, and map these.
"""

from typing import Any

import pendulum
from airflow.exceptions import AirflowFailException
from airflow.sdk import dag, get_current_context, task


@dag(schedule="@daily", start_date=pendulum.datetime(2026, 11, 1), catchup=False)
def daily_sales() -> None:
    """Clean a day's files."""

    @task(retries=2)  # a retry continues the same run
    def clean(day: str) -> list[dict[str, Any]]:
        import sparklet  # not whenever Airflow reads the file

        run = sparklet.run(
            "s3://jobs/clean.py",
            input=f"s3://raw/{day}/",
            output=f"s3://clean/{day}/",
            stack="sparklet",
            run_id=f"sales-{day}",
            output_per="input",
            isolate=True,
            tolerate="100%",  # a bad file fails its own task below, not this one
        )
        run.result()
        return [each for page in run.inputs() for each in page]

    @task(map_index_template="{{ file }}")
    def file(became: dict[str, Any]) -> list[str]:
        get_current_context()["file"] = became["input"]
        if became["state"] == "FAILED":
            raise AirflowFailException(f"{became['error_class']}: {became['error_message']}")
        print(f"{became['rows']} rows")
        outputs: list[str] = became["outputs"]
        return outputs

    file.expand(became=clean("{{ ds }}"))


daily_sales()
