"""Write rows of CSV files to a Hudi table with Hudi's defaults; print the count of rows that the metadata table has."""

from sparklet.job import Job


def main() -> None:
    job = Job.from_args()
    spark = job.spark()
    rows = spark.read.csv(job.input_list(), header=True)
    options = {"hoodie.table.name": "t", "hoodie.datasource.write.recordkey.field": "id"}
    options["hoodie.table.timeline.timezone"] = "UTC"  # as in the examples; it cannot be changed later
    options["hoodie.datasource.write.precombine.field"] = "id"
    rows.write.format("hudi").options(**options).mode("append").save(job.output)
    print(spark.read.format("hudi").option("hoodie.metadata.enable", "true").load(job.output).count())


if __name__ == "__main__":
    main()
