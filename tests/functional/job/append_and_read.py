"""Append one row to a table of each format that ``formats`` names, then print the rows of each table."""

import json

from sparklet.job import Job

job = Job.from_args()
spark, formats = job.spark(), job.params["formats"].split(",")
row = spark.createDataFrame([(job.params["tag"],)], "tag string")
row.write.format("delta").mode("append").save(f"{job.output}/delta")
if spark.catalog.tableExists("iceberg.lake.tags"):
    row.writeTo("iceberg.lake.tags").append()
else:
    row.writeTo("iceberg.lake.tags").create()
options = {"hoodie.table.name": "tags", "hoodie.datasource.write.recordkey.field": "tag"}
if "hudi" in formats:
    row.write.format("hudi").options(**options).mode("append").save(f"{job.output}/hudi")
tables = {
    "delta": lambda: spark.read.format("delta").load(f"{job.output}/delta"),
    "iceberg": lambda: spark.table("iceberg.lake.tags"),
    "hudi": lambda: spark.read.format("hudi").load(f"{job.output}/hudi"),
}
found = {name: tables[name]().select("tag").collect() for name in formats}
print(json.dumps({name: "".join(sorted(row.tag for row in rows)) for name, rows in found.items()}))
