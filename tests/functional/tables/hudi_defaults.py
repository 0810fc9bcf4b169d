"""Put rows of CSV files into a Hudi table as Hudi's defaults have it; print how many its metadata table leads to."""

from sparklet.job import Job


def main() -> None:
    job = Job.from_args()
    spark = job.spark()
    rows = spark.read.csv(job.input_list(), header=True)
    options = {"hoodie.table.name": "t", "hoodie.datasource.write.recordkey.field": "id"}
    options["hoodie.table.timeline.timezone"] = "UTC"  # as the examples have it: of a table once and for all
    options["hoodie.datasource.write.precombine.field"] = "id"
    rows.write.format("hudi").options(**options).mode("append").save(job.output)
    print(spark.read.format("hudi").option("hoodie.metadata.enable", "true").load(job.output).count())


if __name__ == "__main__":
    main()
