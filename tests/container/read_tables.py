"""Read tables back with Spark, and answer with the rows of each."""

from sparklet.job import Job


def main() -> None:
    """Do the job. The parameters are the tables by their formats; Iceberg's catalog is in ``warehouse``."""
    job = Job.from_args()
    spark = job.spark()
    rows = {}
    for format_ in {"delta", "hudi"} & job.params.keys():
        table = spark.read.format(format_).load(job.params[format_])
        rows[format_] = sorted([row.id, row.name, row.born] for row in table.select("id", "name", "born").collect())
    table = spark.table(f"iceberg.{job.params['iceberg']}")
    rows["iceberg"] = sorted([row.id, row.name, row.born] for row in table.select("id", "name", "born").collect())
    job.answer(rows)


if __name__ == "__main__":
    main()
