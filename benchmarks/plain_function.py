"""The rival's Lambda function: what spark-on-aws-lambda's does, in our words. It runs inside the image.

Each event: fetch the script, start ``spark-submit`` with it, wait. Java is started without the launcher, and nothing is
set but where S3 is. Only what the image has is imported.
"""

import json
import os
import subprocess
from typing import Any

import boto3

from sparklet.spark.spark_options import OPENED_PACKAGES, SUBMIT

SCRIPT = "/tmp/spark_script.py"
CLASS_PATH = "/opt/spark/jars/*:/opt/sparklet/jars/*"


def lambda_handler(event: dict[str, Any], context: object) -> dict[str, str]:
    """Submit the script that the environment names."""
    bucket, _, key = os.environ["SCRIPT_LOCATION"].removeprefix("s3://").partition("/")
    boto3.client("s3").download_file(bucket, key, SCRIPT)
    conf = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.hadoop.fs.s3a.endpoint": os.environ["AWS_ENDPOINT_URL"],
        "spark.hadoop.fs.s3a.path.style.access": "true",
    }
    command = [
        *("java", "-cp", CLASS_PATH, "-Xmx1g"),
        *(f"--add-opens={package}=ALL-UNNAMED" for package in OPENED_PACKAGES),
        *(SUBMIT, *(word for key, value in conf.items() for word in ("--conf", f"{key}={value}"))),
        *(SCRIPT, "--event", json.dumps(event)),
    ]
    subprocess.run(command, check=True, env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"})
    return {"state": "SUCCEEDED"}
