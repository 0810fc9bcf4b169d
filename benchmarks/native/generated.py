"""The script of the generated suite: what each construct stages, and as its answer the errors.

Constructs that make a column share a folder with others; one that fails is left out of it, and the others are staged.
"""

import re

from constructs import AT_ONCE, columns, frames, writers  # type: ignore[import-not-found]

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
values = job.input_list()[0]
half = values.rpartition("/")[2].removesuffix(".parquet")
files = {name.removesuffix(f"_{half}"): uri for name, uri in job.params.items() if name.endswith(f"_{half}")}
spark.read.parquet(values).createOrReplaceTempView("v")
errors = {}


def told(error: Exception) -> str:
    """The error's first words, and its last cause, without what no two runs have in common."""
    first, *lines = str(error).splitlines() or [""]
    causes = [line for line in lines if line.startswith("Caused by")]
    text = f"{type(error).__name__}: {causes[-1] if causes else first}"
    return re.sub(r"s3a?://\S+|\bo?\d[\d.]*|\b[0-9a-f]{8,}\S*", "#", text)[:200]


def stage(query: str, named: list[tuple[str, str]], name: str) -> bool:
    """Stage columns in one folder; False if one of them fails."""
    try:
        chosen = ", ".join(f"{text} AS `{column}`" for column, text in named)
        spark.sql(query.format(chosen)).write.mode("overwrite").parquet(f"{job.output}/{name}")
    except Exception as error:  # noqa: BLE001 - a result
        errors[name] = told(error)
        return False
    errors.pop(name, None)
    return True


def fails(query: str, column: str, text: str) -> bool:
    """Whether a column cannot be staged on its own."""
    try:
        chosen = spark.sql(query.format(f"{text} AS `{column}`"))
        chosen.write.mode("overwrite").parquet(f"{job.output}/_tried")  # nothing reads a folder of such a name
    except Exception as error:  # noqa: BLE001 - a result
        errors[column] = told(error)
        return True
    return False


for number, (query, named) in enumerate(columns().items()):
    for first in range(0, len(named), AT_ONCE):
        some, name = named[first : first + AT_ONCE], f"columns_{number}_{first}"
        if not stage(query, some, name):
            stage(query, [each for each in some if not fails(query, *each)], name)
for name, _, make in frames():
    try:
        make(spark, values, files).write.mode("overwrite").parquet(f"{job.output}/{name}")
    except Exception as error:  # noqa: BLE001 - a result
        errors[name] = told(error)
for name, form, options in writers():
    try:
        frame = spark.table("v").select(
            *(["s"] if form == "text" else ["id", "i", "d", "n", "s", "b", "da", "ts", "g"])
        )
        by = options.get("partitionBy", ())
        options = {key: each for key, each in options.items() if key != "partitionBy"}
        frame.write.mode("overwrite").format(form).options(**options).partitionBy(*by).save(f"{job.output}/{name}")
    except Exception as error:  # noqa: BLE001 - a result
        errors[name] = told(error)
job.answer(errors)
