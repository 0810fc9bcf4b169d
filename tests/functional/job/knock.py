"""Read a table of each format with an access key, at an endpoint that refuses; print the formats that failed.

The parameter ``key`` is the access key, ``formats`` names the formats, and the argument is the endpoint.
"""

import json

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from sparklet.job import Job

job = Job.from_args()
own = {"access.key": job.params["key"], "secret.key": "s", "endpoint": job.args[0], "path.style.access": "true"}
conf = {f"spark.hadoop.fs.s3a.{name}": value for name, value in own.items()}
spark = job.spark(conf={**conf, "spark.hadoop.fs.s3a.connection.ssl.enabled": "false"})
reads = {
    "delta": lambda: spark.read.format("delta").load(f"{job.output}/delta"),
    "iceberg": lambda: spark.table("iceberg.lake.tags"),
    "hudi": lambda: spark.read.format("hudi").load(f"{job.output}/hudi"),
}
refused = []
for name in job.params["formats"].split(","):
    try:
        reads[name]()
    except (Py4JJavaError, PySparkException):  # Hudi reports a refusal as "no such table"
        refused.append(name)
print(json.dumps(refused))
