"""A stream of the stand-in's Kinesis, and its records as Lambda delivers them."""

import base64
from collections.abc import Sequence
from typing import Any

import boto3


class Stream:
    """A stream with one shard.

    Parameters
    ----------
    endpoint
        Of a stand-in for AWS.
    """

    def __init__(self, endpoint: str, name: str = "readings") -> None:
        self._kinesis = boto3.client(
            "kinesis",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        self._kinesis.create_stream(StreamName=name, ShardCount=1)
        self._kinesis.get_waiter("stream_exists").wait(StreamName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 20})
        self._name = name
        described = self._kinesis.describe_stream(StreamName=name)["StreamDescription"]
        self._arn, self._shard = described["StreamARN"], described["Shards"][0]["ShardId"]

    def put(self, records: Sequence[tuple[str, bytes]]) -> None:
        """Put records: partition key and data."""
        entries: list[Any] = [{"PartitionKey": key, "Data": data} for key, data in records]
        answer = self._kinesis.put_records(StreamName=self._name, Records=entries)
        assert answer.get("FailedRecordCount", 0) == 0, answer

    def event(self) -> dict[str, Any]:
        """Everything in the stream as one event, as Lambda's documentation shows it."""
        iterator = self._kinesis.get_shard_iterator(
            StreamName=self._name, ShardId=self._shard, ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        found = self._kinesis.get_records(ShardIterator=iterator, Limit=1000)["Records"]
        return {"Records": [self._delivered(record) for record in found]}

    def _delivered(self, record: Any) -> dict[str, Any]:
        return {
            "kinesis": {
                "kinesisSchemaVersion": "1.0",
                "partitionKey": record["PartitionKey"],
                "sequenceNumber": record["SequenceNumber"],
                "data": base64.b64encode(record["Data"]).decode(),
                "approximateArrivalTimestamp": round(record["ApproximateArrivalTimestamp"].timestamp(), 3),
            },
            "eventSource": "aws:kinesis",
            "eventVersion": "1.0",
            "eventID": f"{self._shard}:{record['SequenceNumber']}",
            "eventName": "aws:kinesis:record",
            "invokeIdentityArn": "arn:aws:iam::123456789012:role/worker",
            "awsRegion": "us-east-1",
            "eventSourceARN": self._arn,
        }
