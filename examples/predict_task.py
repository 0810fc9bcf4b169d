"""Predict with the model of ``train_and_predict.py`` as a task of the asynchronous API (docs/guide/api.md). ::

    python examples/train_and_predict.py s3://BUCKET/output/models/iris.pickle
    aws s3 cp examples/predict_task.py s3://BUCKET/scripts/
    curl -H "x-api-key: $KEY" -H 'Content-Type: application/json' -X PUT "$URL/tasks/flowers-7" -d '{
      "sparklet": {"script": "s3://BUCKET/scripts/predict_task.py"}, "model": "s3://BUCKET/output/models/iris.pickle",
      "sha256": "…", "flowers": [[5.1, 3.5, 1.4, 0.2]]}'

The worker's image needs scikit-learn. The task's answer is ``{"kinds": [0]}``. No Spark session is started.
"""

import hashlib
import pickle

import boto3

from sparklet.job import Job

job = Job.from_args()
bucket, _, key = job.event["model"].removeprefix("s3://").partition("/")
body = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
if hashlib.sha256(body).hexdigest() != job.event["sha256"]:  # whoever writes the object could run code here
    raise SystemExit(f"{job.event['model']} is not the model that was trained")
model = pickle.loads(body)  # noqa: S301 - its digest was checked
job.answer({"kinds": model.predict(job.event["flowers"]).tolist()})
