"""Check script: judges a run by Deequ's checks on what it wrote as Parquet, and fails it if one of them fails.

Deequ's jar must be there: the image has it with ``deequ`` in ``EXTRAS``, and ``sparklet run`` brings it. Parameters, of
the run itself:

- ``required``: columns, comma-separated, that have a value in every row;
- ``unique``: columns, comma-separated, of which each has no value twice;
- ``satisfies``: conditions in SQL, separated by semicolons, that every row meets. ::

    sparklet run clean.py --check examples/check_with_deequ.py --param unique=id --param 'satisfies=price >= 0' …
"""

from typing import Any

from pyspark.sql import DataFrame

from sparklet.job import Job, expect


def main() -> None:
    """Do the job."""
    job = Job.from_args()
    spark = job.spark()
    jvm: Any = spark._jvm
    deequ = jvm.com.amazon.deequ
    rows = spark.read.parquet(job.figures(spark)["output"])
    suite = deequ.VerificationSuite().onData(rows._jdf).addCheck(asked(job, jvm))
    results = deequ.VerificationResult.checkResultsAsDataFrame(
        spark._jsparkSession, suite.run(), jvm.PythonUtils.toSeq([])
    )
    failed = DataFrame(results, spark).where("constraint_status != 'Success'").collect()
    expect(not failed, "; ".join(f"{each.constraint}: {each.constraint_message}" for each in failed))


def asked(job: Job, jvm: Any) -> Any:
    """All that the parameters ask for, as one of Deequ's checks."""
    checks, nothing = jvm.com.amazon.deequ.checks, jvm.scala.Option.empty()
    check = checks.Check(checks.CheckLevel.Error(), "the output", jvm.PythonUtils.toSeq([]))
    for column in listed(job, "required", ","):
        check = check.isComplete(column, nothing, nothing)
    for column in listed(job, "unique", ","):
        check = check.isUnique(column, nothing, nothing)
    for condition in listed(job, "satisfies", ";"):
        is_one = checks.Check.IsOne()  # the share of rows
        check = check.satisfies(condition, condition, is_one, nothing, jvm.PythonUtils.toList([]), nothing)
    return check


def listed(job: Job, name: str, separator: str) -> list[str]:
    """What a parameter lists."""
    return [each.strip() for each in str(job.params.get(name, "")).split(separator) if each.strip()]


if __name__ == "__main__":
    main()
