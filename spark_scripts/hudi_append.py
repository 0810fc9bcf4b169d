"""Put the rows of CSV files into the Hudi table at the output. Needs Hudi's jar.

The parameter ``key`` names the column that tells rows apart (default ``id``). A row whose key is
there already replaces it, so another attempt at a shard adds nothing. ::

    python spark_scripts/hudi_append.py --input in.csv --output table --param key=id

A run gives every shard an output of its own, so each shard has a table of its own here:
one table that several shards commit to comes later.
"""

from sparklet.job import Job


def main() -> None:
    """Do the job."""
    job = Job.from_args()
    spark = job.spark()
    rows = spark.read.csv(job.input_list(), header=True)
    key = job.params.get("key", "id")
    options = {
        "hoodie.table.name": "rows",
        "hoodie.table.timeline.timezone": "UTC",  # commits are in order wherever their writers are
        "hoodie.datasource.write.operation": "upsert",
        "hoodie.datasource.write.recordkey.field": key,
        "hoodie.datasource.write.precombine.field": key,
        "hoodie.datasource.write.keygenerator.class": "org.apache.hudi.keygen.NonpartitionedKeyGenerator",
    }
    rows.write.format("hudi").options(**options).mode("append").save(job.output)
    job.report(rows=rows.count(), outputs=[job.output])


if __name__ == "__main__":
    main()
