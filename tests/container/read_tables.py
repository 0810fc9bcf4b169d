"""Read tables back with Spark: how many rows each has, and what they add up to."""

from sparklet.job import Job


def main() -> None:
    """Do the job; the parameters are tables by format, Iceberg's catalog lies in ``warehouse``."""
    job = Job.from_args()
    spark = job.spark()
    found = {}
    for kind in {"delta", "hudi"} & job.params.keys():
        table = spark.read.format(kind).load(job.params[kind])
        found[kind] = sorted([row.id, row.name, row.born] for row in table.select("id", "name", "born").collect())
    table = spark.table(f"iceberg.{job.params['iceberg']}")
    found["iceberg"] = sorted([row.id, row.name, row.born] for row in table.select("id", "name", "born").collect())
    job.answer(found)


if __name__ == "__main__":
    main()
