"""Sample events of each source, as AWS documents them; each function names the page. Callers may change the result."""

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus

from tests.aggregated import AWS_MADE


def sqs(message_id: str, body: str, group: str = "", *, fifo: bool = True) -> dict[str, Any]:
    """A message; https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html (standard and FIFO)."""
    record: dict[str, Any] = {
        "messageId": message_id,
        "receiptHandle": f"receipt-{message_id}",
        "body": body,
        "attributes": {
            "ApproximateReceiveCount": "3",
            "SentTimestamp": "1545082649183",
            "SenderId": "AIDAIENQZJOLO23YVJ4VO",
            "ApproximateFirstReceiveTimestamp": "1545082649185",
        },
        "messageAttributes": {},
        "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:my-queue",
        "awsRegion": "us-east-2",
    }
    if group:
        record["attributes"]["MessageGroupId"] = group
        if fifo:
            record["eventSourceARN"] += ".fifo"
            record["attributes"] |= {"SequenceNumber": "18849496460467696128", "MessageDeduplicationId": "1"}
    return record


def kinesis(number: str, data: str = "SGVsbG8sIHRoaXMgaXMgYSB0ZXN0Lg==") -> dict[str, Any]:
    """A record; https://docs.aws.amazon.com/lambda/latest/dg/with-kinesis.html."""
    return {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": "1",
            "sequenceNumber": number,
            "data": data,
            "approximateArrivalTimestamp": 1545084650.987,
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": f"shardId-000000000006:{number}",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": "arn:aws:iam::123456789012:role/lambda-role",
        "awsRegion": "us-east-2",
        "eventSourceARN": "arn:aws:kinesis:us-east-2:123456789012:stream/lambda-stream",
    }


def window(*records: dict[str, Any], state: Any, final: bool = False, service: str = "kinesis") -> dict[str, Any]:
    """A batch of a tumbling window; https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-windows.html."""
    return {
        "Records": list(records),
        "window": {"start": "2020-12-09T07:04:00Z", "end": "2020-12-09T07:06:00Z"},
        "state": state,
        "shardId": "shardId-000000000006",
        "eventSourceARN": f"arn:aws:{service}:us-east-1:123456789012:stream/lambda-stream",
        "isFinalInvokeForWindow": final,
        "isWindowTerminatedEarly": False,
    }


def aggregated() -> str:
    """The data of one Kinesis record that aggregates three records, as AWS's library writes it."""
    return base64.b64encode(AWS_MADE).decode()


def dynamodb(number: str) -> dict[str, Any]:
    """A change; https://docs.aws.amazon.com/lambda/latest/dg/with-ddb.html."""
    return {
        "eventID": "1",
        "eventVersion": "1.0",
        "dynamodb": {
            "Keys": {"Id": {"N": "101"}},
            "NewImage": {"Message": {"S": "New item!"}, "Id": {"N": "101"}},
            "StreamViewType": "NEW_AND_OLD_IMAGES",
            "SequenceNumber": number,
            "SizeBytes": 26,
        },
        "awsRegion": "us-west-2",
        "eventName": "INSERT",
        "eventSourceARN": "arn:aws:dynamodb:us-west-2:123456789012:table/t/stream/2015-06-27T00:48:05.899",
        "eventSource": "aws:dynamodb",
    }


def kafka(offsets: Mapping[str, list[int]], source: str = "aws:kafka") -> dict[str, Any]:
    """A batch; https://docs.aws.amazon.com/lambda/latest/dg/with-msk.html and with-kafka.html."""
    event: dict[str, Any] = {
        "eventSource": source,
        "bootstrapServers": "b-2.demo-cluster-1.a1bcde.c1.kafka.us-east-1.amazonaws.com:9092",
        "records": {name: [_kafka_record(name, offset) for offset in numbers] for name, numbers in offsets.items()},
    }
    if source == "aws:kafka":
        event["eventSourceArn"] = "arn:aws:kafka:us-east-1:123456789012:cluster/vpc-2priv-2pub/751d2973-2"
    return event


def _kafka_record(name: str, offset: int) -> dict[str, Any]:
    topic, _, partition = name.rpartition("-")
    return {
        "topic": topic,
        "partition": int(partition),
        "offset": offset,
        "timestamp": 1545084650987,
        "timestampType": "CREATE_TIME",
        "key": "abcDEFghiJKLmnoPQRstuVWXyz1234==",
        "value": "SGVsbG8sIHRoaXMgaXMgYSB0ZXN0Lg==",
        "headers": [{"headerKey": [104, 101, 97, 100, 101, 114, 86, 97, 108, 117, 101]}],
    }


def s3(key: str = "HappyFace.jpg", bucket: str = "my-bucket", name: str = "ObjectCreated:Put") -> dict[str, Any]:
    """A notification; the key is URL-encoded, as S3 writes it.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
    """
    record = {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "us-west-2",
        "eventTime": "1970-01-01T00:00:00.000Z",
        "eventName": name,
        "userIdentity": {"principalId": "AIDAJDPLRKLG7UEXAMPLE"},
        "requestParameters": {"sourceIPAddress": "127.0.0.1"},
        "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "testConfigRule",
            "bucket": {
                "name": bucket,
                "ownerIdentity": {"principalId": "A3NL1KOZZKExample"},
                "arn": f"arn:aws:s3:::{bucket}",
            },
            "object": {
                "key": quote_plus(key, safe="/"),
                "size": 1024,
                "eTag": "d41d8cd98f00b204e9800998ecf8427e",
                "versionId": "096fKKXTRTtl3on89fVO.nfljtsv6qko",
                "sequencer": "0055AED6DCD90281E5",
            },
        },
    }
    return {"Records": [record]}


def s3_test_event() -> dict[str, Any]:
    """The event that S3 sends when a notification is configured, see notification-content-structure.html."""
    return {
        "Service": "Amazon S3",
        "Event": "s3:TestEvent",
        "Time": "2014-10-13T15:57:02.089Z",
        "Bucket": "amzn-s3-demo-bucket",
        "RequestId": "5582815E1AEA5ADF",
        "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR+YstdA6Knx4Ip8EXAMPLE",
    }


def sns(message: str) -> dict[str, Any]:
    """A message; https://docs.aws.amazon.com/lambda/latest/dg/with-sns.html."""
    record = {
        "EventVersion": "1.0",
        "EventSubscriptionArn": "arn:aws:sns:us-east-1:123456789012:sns-lambda:21be56ed-a058",
        "EventSource": "aws:sns",
        "Sns": {
            "SignatureVersion": "1",
            "Timestamp": "2019-01-02T12:45:07.000Z",
            "Signature": "tcc6faL2yUC6dgZdmrwh1Y4cGa/ebXEkAi6RibDsvpi+tE/1+82j",
            "SigningCertURL": "https://sns.us-east-1.amazonaws.com/SimpleNotificationService.pem",
            "MessageId": "95df01b4-ee98-5cb9-9903-4c221d41eb5e",
            "Message": message,
            "MessageAttributes": {"Test": {"Type": "String", "Value": "TestString"}},
            "Type": "Notification",
            "UnsubscribeURL": "https://sns.us-east-1.amazonaws.com/?Action=Unsubscribe",
            "TopicArn": "arn:aws:sns:us-east-1:123456789012:sns-lambda",
            "Subject": "TestInvoke",
        },
    }
    return {"Records": [record]}


def sns_envelope(message: str) -> str:
    """SNS's envelope of a message in a queue; https://docs.aws.amazon.com/sns/latest/dg/sns-sqs-as-subscriber.html."""
    return json.dumps(
        {
            "Type": "Notification",
            "MessageId": "63a3f6b6-d533-4a47-aef9-fcf5cf758c76",
            "TopicArn": "arn:aws:sns:us-west-2:123456789012:MyTopic",
            "Subject": "Testing publish to subscribed queues",
            "Message": message,
            "Timestamp": "2012-03-29T05:12:16.901Z",
            "SignatureVersion": "1",
            "Signature": "EXAMPLEnTrFPa3",
        }
    )


def eventbridge(key: str = "example-key", kind: str = "Object Created", source: str = "aws.s3") -> dict[str, Any]:
    """An event of S3; https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html."""
    return {
        "version": "0",
        "id": "17793124-05d4-b198-2fde-7ededc63b103",
        "detail-type": kind,
        "source": source,
        "account": "111122223333",
        "time": "2021-11-12T00:00:00Z",
        "region": "ca-central-1",
        "resources": ["arn:aws:s3:::my-bucket"],
        "detail": {
            "version": "0",
            "bucket": {"name": "my-bucket"},
            "object": {"key": key, "size": 5, "etag": "b1946ac92492d2347c6235b4d2611184", "sequencer": "617f08299329"},
            "request-id": "N4N7GDK58NMKJ12R",
            "requester": "123456789012",
            "reason": "PutObject",
        },
    }


def scheduled() -> dict[str, Any]:
    """https://docs.aws.amazon.com/lambda/latest/dg/with-eventbridge-scheduler.html."""
    return {
        "version": "0",
        "account": "123456789012",
        "region": "us-east-2",
        "detail": {},
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "time": "2019-03-01T01:23:45Z",
        "id": "cdc73f9d-aea9-11e3-9d5a-835b769c0d9c",
        "resources": ["arn:aws:events:us-east-2:123456789012:rule/my-schedule"],
    }


def rest_request(body: str | None = None, **more: Any) -> dict[str, Any]:
    """Version 1.0; https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html."""
    return {
        "version": "1.0",
        "resource": "/my/path",
        "path": "/my/path",
        "httpMethod": "POST",
        "headers": {"Content-Type": "application/json; charset=utf-8"},
        "multiValueHeaders": {"header1": ["value1"]},
        "queryStringParameters": {"parameter1": "value1"},
        "multiValueQueryStringParameters": {"parameter1": ["value1", "value2"]},
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "id",
            "httpMethod": "POST",
            "requestId": "id=",
            "resourcePath": "/my/path",
            "stage": "$default",
        },
        "pathParameters": None,
        "stageVariables": None,
        "body": body,
        "isBase64Encoded": False,
        **more,
    }


def http_request(body: str | None = None, **more: Any) -> dict[str, Any]:
    """Version 2.0, of HTTP APIs and function URLs; https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html."""
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/my/path",
        "rawQueryString": "parameter1=value1&parameter1=value2&parameter2=value",
        "cookies": ["cookie1", "cookie2"],
        "headers": {"content-type": "application/json", "header2": "value1,value2"},
        "queryStringParameters": {"parameter1": "value1,value2", "parameter2": "value"},
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "<urlid>",
            "domainName": "<url-id>.lambda-url.us-west-2.on.aws",
            "http": {"method": "POST", "path": "/my/path", "protocol": "HTTP/1.1", "sourceIp": "123.123.123.123"},
            "requestId": "request-7",
            "routeKey": "$default",
            "stage": "$default",
        },
        "pathParameters": None,
        "isBase64Encoded": False,
        **more,
    }
    return event if body is None else {**event, "body": body}


def every_source() -> dict[str, Any]:
    """By name, an event of each source, and events of one source within another."""
    in_sqs = {
        "s3 in sqs": json.dumps(s3()),
        "s3 in sns in sqs": sns_envelope(json.dumps(s3())),
        "eventbridge in sqs": json.dumps(eventbridge()),
        "test event in sqs": json.dumps(s3_test_event()),
        "test event in sns in sqs": sns_envelope(json.dumps(s3_test_event())),
        "shard": json.dumps(
            {"run_id": "flights-1", "shard": 7, "generation": 0, "part": "part-0.jsonl", "offset": 0, "length": 80}
        ),
    }
    return {
        "sqs": {"Records": [sqs("a", "Test message."), sqs("b", "{}")]},
        "sqs fifo": {"Records": [sqs(i, "{}", group) for i, group in (("a", "g1"), ("b", "g2"), ("c", "g1"))]},
        **{name: {"Records": [sqs("a", body), sqs("b", "other")]} for name, body in in_sqs.items()},
        "kinesis": {"Records": [kinesis("49590338271490256608"), kinesis("49590338271490256609")]},
        "kinesis aggregated": {"Records": [kinesis("11", aggregated())]},
        "kinesis window": window(kinesis("49590338271490256608"), state={"1": 282, "2": 715}),
        "kinesis end of window": window(state={"1": 282}, final=True),
        "dynamodb": {"Records": [dynamodb("111"), dynamodb("222")]},
        "dynamodb window": window(dynamodb("111"), state={}, service="dynamodb"),
        "msk": kafka({"mytopic-0": [15, 16], "mytopic-1": [3]}),
        "kafka": kafka({"mytopic-0": [15]}, "SelfManagedKafka"),
        "s3": s3(),
        "s3 test event": s3_test_event(),
        "sns": sns("Hello from SNS!"),
        "s3 in sns": sns(json.dumps(s3())),
        "test event in sns": sns(json.dumps(s3_test_event())),
        "eventbridge s3": eventbridge(),
        "eventbridge schedule": scheduled(),
        "eventbridge custom": {**eventbridge(kind="order placed", source="com.example.shop"), "detail": {"order": 7}},
        "rest api": rest_request('{"a": 1}'),
        "http api": http_request('{"a": 1}'),
        "function url": http_request("aGVsbG8=", headers={"content-type": "text/plain"}, isBase64Encoded=True),
        "direct": {"input_path": "s3://b/in/", "anything": [1, None, "x"]},
        "step functions": {"Comment": "a task's input", "orders": [{"id": 1}]},
    }
