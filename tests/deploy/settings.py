"""Settings of parameters that change which calls are made, or with which key: the parameters of each template."""

from tests.deploy.simulation import Setting
from tests.stand_ins.engines import ACCOUNT, EXAMPLES, OF_REGION

STACK_KEY, DATA_KEY, TOPIC_KEY, STREAM_KEY = (
    f"arn:aws:kms:{OF_REGION}:key/{each}" for each in ("stack", "data", "topic", "stream")
)
ROLE = "arn:aws:iam::444455556666:role/theirs"
DATA = {
    "ReadObjectArns": "arn:aws:s3:::raw/in/*,arn:aws:s3:::raw/in",
    "WriteObjectArns": "arn:aws:s3:::clean/out/*",
    "ListBucketArns": "arn:aws:s3:::raw,arn:aws:s3:::clean",
}
KEYED = {**DATA, "DataKeyArns": DATA_KEY}
NOTICES = {
    "NoticeTopicArn": f"arn:aws:sns:{OF_REGION}:notices",
    "NoticeBusArn": f"arn:aws:events:{OF_REGION}:event-bus/notices",
}
LAKE = {"GlueDatabaseArns": f"arn:aws:glue:{OF_REGION}:database/lake"}
FARGATE = EXAMPLES["fargate"].parameters
TASKS = {
    "ImageUri": f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/sparklet:1",
    "RepositoryArn": f"arn:aws:ecr:{OF_REGION}:repository/sparklet",
}
PLATFORMS = {name: example.parameters for name, example in EXAMPLES.items() if name != "fargate"}
ENGINES = {name: text for parameters in PLATFORMS.values() for name, text in parameters.items()}
CLUSTER = {"KafkaClusterArn": f"arn:aws:kafka:{OF_REGION}:cluster/events/1-2", "FunctionTimeoutS": "840"}
SECRET = {
    "KafkaSecretArn": f"arn:aws:secretsmanager:{OF_REGION}:secret:AmazonMSK_1",
    "KafkaSecretKeyArn": STREAM_KEY,
}
SERVICES = ("sqs", "sns", "lambda", "events")
RECEIVERS = {"sqs": "ended", "sns": "ended", "lambda": "function:ended", "events": "event-bus/ended"}
DESTINATIONS = {  # each service is once the destination on success, and once on failure
    f"{first} and {second}": {
        "OnSuccessArn": f"arn:aws:{first}:{OF_REGION}:{RECEIVERS[first]}",
        "OnFailureArn": f"arn:aws:{second}:{OF_REGION}:{RECEIVERS[second]}",
    }
    for first, second in zip(SERVICES, reversed(SERVICES), strict=True)
}
JOB = {"Script": "s3://bucket/scripts/job.py", "Output": "s3://bucket/output/{run_id}/"}
SCHEDULED = {**JOB, "ScheduleExpression": "rate(1 day)", "Inputs": "s3://bucket/input/"}
OF_OBJECTS = {**JOB, "SourceBucket": "arrivals", "SourcePrefix": "in/"}
NETWORK = {"SubnetIds": "subnet-1", "SecurityGroupIds": "sg-1"}
IMAGE = {"ImageUri": TASKS["ImageUri"]}


def _main(**parameters: str) -> Setting:
    return {"template.yaml": parameters}


SETTINGS: dict[str, Setting] = {
    "the defaults": _main(),
    "a key for the stack": _main(KmsKeyArn=STACK_KEY),
    "an existing bucket": _main(ExistingBucketName="ours"),
    "an existing bucket, a key": _main(ExistingBucketName="ours", KmsKeyArn=STACK_KEY),
    "data elsewhere": _main(**DATA),
    "data under a key": _main(**KEYED),
    "writes by AES256": _main(**DATA, WriteEncryption="AES256"),
    "writes by the stack's key": _main(**DATA, KmsKeyArn=STACK_KEY, WriteEncryption=STACK_KEY),
    "writes by a data key": _main(**KEYED, WriteEncryption=DATA_KEY),
    "writes by a data key, and a stack's": _main(**KEYED, WriteEncryption=DATA_KEY, KmsKeyArn=STACK_KEY),
    "inputs by a role": _main(InputRoleArns=ROLE),
    "notices": _main(**NOTICES),
    "notices under a key": _main(**NOTICES, NoticeTopicKeyArn=TOPIC_KEY),
    "a network": _main(**NETWORK),
    "Iceberg's tables in Glue": _main(**DATA, **LAKE, IcebergCatalogType="glue", IcebergWarehouse="s3://clean/out"),
    "tables of Glue": _main(**DATA, ReadGlueDatabaseArns=f"arn:aws:glue:{OF_REGION}:database/sales"),
    "the large function": _main(LargeFunction="yes"),
    "Fargate": _main(**FARGATE) | {"fargate.yaml": TASKS},
    "Fargate with data and keys": _main(**FARGATE, KmsKeyArn=STACK_KEY)
    | {"fargate.yaml": {**TASKS, **KEYED, "KmsKeyArn": STACK_KEY, "InputRoleArns": ROLE}},
    "Spark Connect, a secret": _main(**FARGATE, SparkRemote="sc://host:1")
    | {"fargate.yaml": {**TASKS, "RemoteTokenArn": f"arn:aws:secretsmanager:{OF_REGION}:secret:token"}},
    "Spark Connect, a parameter": _main(**FARGATE, SparkRemote="sc://host:1")
    | {"fargate.yaml": {**TASKS, "RemoteTokenArn": f"arn:aws:ssm:{OF_REGION}:parameter/token"}},
    **{name: _main(**parameters) for name, parameters in PLATFORMS.items()},
    "every engine, with keys": _main(
        **ENGINES, **FARGATE, LargeFunction="yes", KmsKeyArn=STACK_KEY, WriteEncryption=STACK_KEY, InputRoleArns=ROLE
    ),
    "engines that write by a data key": _main(**ENGINES, **KEYED, WriteEncryption=DATA_KEY),
    "the API": _main() | {"api.yaml": {}},
    **{f"the API, {services}": _main() | {"api.yaml": arns} for services, arns in DESTINATIONS.items()},
    "the API, a key": _main(KmsKeyArn=STACK_KEY) | {"api.yaml": {"KmsKeyArn": STACK_KEY}},
    "a stream": _main() | {"streams.yaml": {"StreamArn": f"arn:aws:kinesis:{OF_REGION}:stream/events"}},
    "a stream under a key": _main()
    | {"streams.yaml": {"StreamArn": f"arn:aws:kinesis:{OF_REGION}:stream/events", "StreamKeyArn": STREAM_KEY}},
    "Kafka by IAM": _main(FunctionTimeoutS="840") | {"streams.yaml": CLUSTER},
    "Kafka by a secret, with pollers": _main() | {"streams.yaml": {**CLUSTER, **SECRET, "KafkaPollers": "2"}},
    "functions": _main() | {"functions.yaml": IMAGE},
    "functions in a network": _main() | {"functions.yaml": {**IMAGE, **NETWORK}},
    "functions with a key": _main(KmsKeyArn=STACK_KEY)
    | {"functions.yaml": {**IMAGE, "KmsKeyArn": STACK_KEY, "WriteEncryption": STACK_KEY}},
    "functions in what there is": _main(KmsKeyArn=STACK_KEY)
    | {
        "functions.yaml": {
            **IMAGE,
            "KmsKeyArn": STACK_KEY,
            "ExistingBucketName": "ours",
            "ExistingLedgerTable": "Ledger",
        }
    },
    "a schedule": _main() | {"schedule.yaml": SCHEDULED},
    "a run for each object": _main() | {"schedule.yaml": OF_OBJECTS},
    "an image from GitHub": _main() | {"image-builder.yaml": {"GitHubUrl": "https://github.com/a/b.git"}},
    "an image built in a network": _main()
    | {"image-builder.yaml": {"GitHubUrl": "https://github.com/a/b.git", "VpcId": "vpc-1", **NETWORK}},
    "an image from a plain bucket": _main()
    | {"image-builder.yaml": {"SourceBucket": "sources", "BuildWhenDeployed": "false"}},
    "an image from a bucket": _main()
    | {
        "image-builder.yaml": {
            "SourceBucket": "sources",
            "SourceKmsKeyArn": DATA_KEY,
            "BaseImage": "base:1",
            "ExistingRepositoryName": "ours",
        }
    },
}
