"""What each role's code asks AWS for, on what, and in which settings: read by ``docs.rights`` and the simulation.

A ``service.method`` is a call of ours, as ``AwsClients`` has it; a ``service:Action`` is made by AWS with the role, or
authorized beside a call. ``tests/deploy/test_simulated_rights.py`` evaluates every role's policies against them, for
each setting; ``test_least_privilege.py`` compares them with what the functions asked the stand-in for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain

import botocore.session
from botocore import xform_name

from sparklet.aws.clients import SERVICES
from sparklet.engines import Asked
from sparklet.engines.create import KINDS

PREFIXES = {  # of IAM, where they are not called like the clients
    "emr": "elasticmapreduce",
    "emr_serverless": "emr-serverless",
    "functions": "lambda",
    "secrets": "secretsmanager",
}
AUTHORIZED_AS = {
    "dynamodb.transact_write_items": ("dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:ConditionCheckItem"),
    "functions.invoke": ("lambda:InvokeFunction",),
    "s3.copy": (
        *("s3:GetObject", "s3:GetObjectTagging", "s3:PutObject", "s3:PutObjectTagging", "s3:AbortMultipartUpload"),
    ),
    "s3.copy_object": ("s3:GetObject", "s3:GetObjectTagging", "s3:PutObject", "s3:PutObjectTagging"),
    "s3.delete_objects": ("s3:DeleteObject",),
    "s3.head_bucket": ("s3:ListBucket",),
    "s3.head_object": ("s3:GetObject",),
    "s3.list_objects_v2": ("s3:ListBucket",),
    "s3.upload_file": ("s3:PutObject", "s3:AbortMultipartUpload"),
    "sqs.send_message_batch": ("sqs:SendMessage",),
}


@cache
def actions_of(call: str) -> tuple[str, ...]:
    """The actions of IAM that a call is authorized by; one that AWS makes is named by its action."""
    if ":" in call:
        return (call,)
    if call in AUTHORIZED_AS:
        return AUTHORIZED_AS[call]
    name, method = call.split(".")
    operations = botocore.session.get_session().get_service_model(SERVICES.get(name, name)).operation_names
    operation = next(each for each in operations if xform_name(each) == method)
    return (f"{PREFIXES.get(name, name)}:{operation}",)


@dataclass(frozen=True)
class Use:
    """Calls with the resources that they name.

    In ``on``, ``{Name}`` is the ARN of a resource of the template, or of the main stack's; or a parameter, or one of
    the simulation's names. Where a setting has none, the calls are not made there.
    """

    calls: tuple[str, ...]
    on: tuple[str, ...]
    keys: Mapping[str, str] = field(default_factory=dict)  # of conditions
    when: str = ""  # only where this parameter is given, or has this value: NAME, NAME=VALUE


def use(calls: str, *on: str, when: str = "", **keys: str) -> Use:
    """Calls, space-separated; underscores in a key's name stand for colons."""
    return Use(tuple(calls.split()), on, {name.replace("_", ":"): value for name, value in keys.items()}, when)


def listing(bucket: str, *prefixes: str) -> tuple[Use, ...]:
    """Listings of a bucket, each with its prefix."""
    return tuple(use("s3.list_objects_v2", bucket, s3_prefix=prefix) for prefix in prefixes)


def under(bucket: str, *folders: str) -> tuple[str, ...]:
    """Something in each folder of a bucket."""
    return tuple(f"{bucket}/{folder}" for folder in folders)


def log(group: str) -> Use:
    """What Lambda, or another service, writes into a role's log group."""
    return use("logs:CreateLogStream logs:PutLogEvents", f"{{{group}}}")


OWN, OUTPUTS = "{bucket}", ("output/*", "staged/*")
WHOLE_LEDGER = (
    use(
        "dynamodb.get_item dynamodb.batch_get_item dynamodb.put_item dynamodb.query dynamodb.update_item "
        "dynamodb.transact_write_items",
        "{Ledger}",
    ),
    use("dynamodb.query", "{Ledger}/index/open-index"),
)
READS = (*under(OWN, "runs/*", "scripts/*", "input/*", *OUTPUTS),)
FOLDERS = ("input", "input/*", "output", "output/*", "staged", "staged/*")
SHARD = (  # what a worker does, wherever it runs
    use("dynamodb.get_item", "{Ledger}"),
    use("dynamodb.update_item", "{Ledger}", dynamodb_LeadingKeys="nightly#000007"),
    use("s3.get_object s3.head_object", *READS),
    use("s3.head_object", *under(OWN, "input", "output", "staged")),  # S3A asks whether a folder is a file
    use("s3.put_object", *(f"{OWN}/runs/*/{each}/*" for each in ("answers", "events", "schemas", "writes"))),
    use("s3.put_object s3.delete_objects s3.upload_file s3.copy s3.copy_object", *under(OWN, *OUTPUTS)),
    *listing(OWN, *FOLDERS),
    *listing(OWN, "scripts/*"),  # S3 tells a missing script from a forbidden one only to who may list it
)
ELSEWHERE = (
    use("s3.get_object s3:GetObjectVersion", "{ReadObjectArns}"),
    use(
        "s3.get_object s3.put_object s3.delete_objects s3.upload_file s3.copy s3.copy_object",
        "{WriteObjectArns}",
    ),
    Use(("s3:PutObjectAcl",), ("{WriteObjectArns}",), {"s3:x-amz-acl": "bucket-owner-full-control"}),
    use("s3.list_objects_v2", "{ListBucketArns}"),
    use("sts.assume_role", "{InputRoleArns}"),
)
PLANNED = (  # what whoever plans does with data elsewhere
    use("s3.get_object s3.head_object s3:GetObjectVersion", "{ReadObjectArns}"),
    use("s3.head_object s3.delete_objects", "{WriteObjectArns}"),  # a next run reads what one has written
    use("s3.list_objects_v2 s3.head_bucket", "{ListBucketArns}"),
    use("sts.assume_role", "{InputRoleArns}"),
)
READ_GLUE = use(  # each call is authorized on the catalog, the database and the table
    *("glue.get_table glue.get_partitions", "{catalog}", "{ReadGlueDatabaseArns}", "{read_tables}"),
    when="ReadGlueDatabaseArns",
)
FIND_GLUE = use("glue.get_database", "{catalog}", "{ReadGlueDatabaseArns}", when="ReadGlueDatabaseArns")
OWN_GLUE = (
    use("glue.get_database", "{catalog}", "{GlueDatabaseArns}", when="GlueDatabaseArns"),  # PyIceberg, too
    use(
        "glue.get_table glue.create_table glue.update_table glue.batch_create_partition",
        *("{catalog}", "{GlueDatabaseArns}", "{own_tables}"),
        when="GlueDatabaseArns",
    ),
)


def of_engines(*lists: Sequence[Asked]) -> Iterator[Use]:
    """What engines need, as their modules say."""
    for asked in chain(*lists):
        yield Use(tuple(asked.calls.split()), tuple(asked.on), asked.keys, asked.when)


VERSIONS = (*of_engines(*(kind.to_plan for kind in KINDS.values())),)
NOTICES = (use("sns.publish", "{NoticeTopicArn}"), use("events.put_events", "{NoticeBusArn}"))
SETTINGS_OF_WORKERS = use("functions.get_function_configuration", "{WorkerFunctionAliaslive}")
ENGINES = (
    replace(SETTINGS_OF_WORKERS, when="engines"),
    *of_engines(*(kind.to_work for kind in KINDS.values())),
    use("s3.get_object s3.put_object", f"{OWN}/engines/*", when="platforms"),
)
MACHINE_LOGS = (
    use(
        "logs:CreateLogDelivery logs:DeleteLogDelivery logs:DescribeLogGroups logs:DescribeResourcePolicies "
        "logs:GetLogDelivery logs:ListLogDeliveries logs:PutResourcePolicy logs:UpdateLogDelivery "
        "xray:GetSamplingRules xray:GetSamplingTargets xray:PutTelemetryRecords xray:PutTraceSegments",
        "*",
    ),
)
POLLED = "sqs:ReceiveMessage sqs:DeleteMessage sqs:GetQueueAttributes"
CALLS_OF_FUNCTIONS = use("dynamodb.get_item dynamodb.update_item", "{answers}", dynamodb_LeadingKeys="task#1")
NETWORK = use(
    "ec2:AssignPrivateIpAddresses ec2:CreateNetworkInterface ec2:DeleteNetworkInterface "
    "ec2:DescribeNetworkInterfaces ec2:DescribeSubnets ec2:UnassignPrivateIpAddresses",
    "*",
    when="SubnetIds",
)
SENT = (  # by the service that a destination is of
    *(("sqs", "sqs:SendMessage"), ("sns", "sns:Publish"), ("lambda", "lambda:InvokeFunction")),
    ("events", "events:PutEvents"),
)
BUILD_NETWORK = (
    use(
        "ec2:CreateNetworkInterface ec2:DeleteNetworkInterface ec2:DescribeDhcpOptions ec2:DescribeNetworkInterfaces "
        "ec2:DescribeSecurityGroups ec2:DescribeSubnets ec2:DescribeVpcs",
        "*",
        when="VpcId",
    ),
    use("ec2:CreateNetworkInterfacePermission", "{lent_interfaces}", ec2_AuthorizedService="codebuild.amazonaws.com"),
)
ROLES: Mapping[tuple[str, str], tuple[Use, ...]] = {  # template, role (or managed policy)
    ("template.yaml", "WorkerRole"): (
        *(log("WorkerLogs"), use(POLLED, "{Queue}"), use("sqs.change_message_visibility", "{Queue}")),
        *(*SHARD, *ELSEWHERE, *NOTICES, READ_GLUE, FIND_GLUE, *OWN_GLUE, NETWORK),
    ),
    ("template.yaml", "PlannerRole"): (
        *(log("PlannerLogs"), *WHOLE_LEDGER, *PLANNED, READ_GLUE, *VERSIONS, SETTINGS_OF_WORKERS, NETWORK),
        use("sqs.send_message_batch", "{Queue}"),
        use("s3.get_object s3.put_object", f"{OWN}/runs/*"),
        use("s3.delete_objects", f"{OWN}/output/*"),
        use("s3.get_object s3.head_object", *under(OWN, "scripts/*", "input/*", "output/*")),
        use("s3.head_object", *under(OWN, "input", "output")),  # an input that is named without its slash
        *listing(OWN, "input", "input/*", "output", "output/*", "runs/*", "scripts/*"),
    ),
    ("template.yaml", "DlqConsumerRole"): (
        *(log("DlqConsumerLogs"), use(POLLED, "{DeadLetterQueue}"), use("sqs.send_message_batch", "{Queue}")),
        use("dynamodb.get_item dynamodb.update_item", "{Ledger}"),
        *(use("s3.put_object", f"{OWN}/dead-letters/*"), *NOTICES, NETWORK),
    ),
    ("template.yaml", "CheckerRole"): (
        *(log("CheckerLogs"), *WHOLE_LEDGER, *PLANNED, *VERSIONS, *NOTICES, *ENGINES, NETWORK),
        use("sqs.send_message_batch", "{Queue}"),
        use("s3.get_object s3.put_object s3.delete_objects", f"{OWN}/runs/*"),
        use("s3.delete_objects", f"{OWN}/output/*"),
        use("s3.get_object s3.head_object", *under(OWN, "input/*", "output/*")),
        *listing(OWN, "dead-letters/*", "input/*", "output/*", "runs/*"),
    ),
    ("template.yaml", "StepRole"): (
        *(log("StepLogs"), *WHOLE_LEDGER, *VERSIONS, *NOTICES, replace(SETTINGS_OF_WORKERS, when="engines")),
        NETWORK,
        use("sqs.send_message_batch", "{Queue}"),
        use("s3.get_object s3.put_object s3.delete_objects", f"{OWN}/runs/*"),
        use("s3.put_object", f"{OWN}/executions/*"),
        *listing(OWN, "runs/*"),
        use("states.describe_execution", "{executions}:*"),
    ),
    ("template.yaml", "RunMachineRole"): (
        use("lambda:InvokeFunction", *(f"{{{each}FunctionAliaslive}}" for each in ("Planner", "Step", "Worker"))),
        use("s3:GetObject", f"{OWN}/runs/*/index.jsonl"),
        use("s3:GetObject s3:PutObject s3:ListMultipartUploadParts s3:AbortMultipartUpload", f"{OWN}/runs/*/map/*"),
        *(*MACHINE_LOGS, use("states:StartExecution", "{RunMachine}")),
        use(
            "states:DescribeExecution states:StopExecution",
            *("{executions}:*", "{executions}/shards:*"),
        ),
        use("states:RedriveExecution", "{executions}/shards:*"),
    ),
    ("template.yaml", "EngineWorkerPolicy"): (
        *(*SHARD, use("sts.assume_role", "{InputRoleArns}")),
        # EMRFS, before EMR 7.10 and in Glue 5.0, writes such a file beside each folder.
        use("s3:GetObject s3:PutObject s3:DeleteObject", *under(OWN, "output_$folder$", "staged_$folder$")),
        use("s3:GetObject", f"{OWN}/engines/*"),
        use("s3:PutObject", f"{OWN}/engine-logs/*", when="EmrServerlessApplicationId"),
    ),
    ("fargate.yaml", "TaskRole"): (*SHARD, *ELSEWHERE, SETTINGS_OF_WORKERS),
    ("fargate.yaml", "StartRole"): (
        *(log("TaskLogs"), use("ecr:GetAuthorizationToken", "*")),
        use("ecr:BatchGetImage ecr:GetDownloadUrlForLayer", "{RepositoryArn}"),
        use("secretsmanager:GetSecretValue", "{token_secret}"),
        use("ssm:GetParameters", "{token_parameter}"),
    ),
    ("functions.yaml", "WorkerRole"): (
        *(log("WorkerLogs"), use("sqs:SendMessage", "{DeadLetters}"), use("secrets.get_secret_value", "{Secret}")),
        *(CALLS_OF_FUNCTIONS, use("s3.get_object s3.put_object", "{contents}/functions/*"), NETWORK),
    ),
    ("functions.yaml", "FailuresRole"): (
        *(log("FailuresLogs"), use(POLLED, "{DeadLetters}"), CALLS_OF_FUNCTIONS, NETWORK),
    ),
    ("functions.yaml", "CallerPolicy"): (
        use("cloudformation.describe_stacks", "{functions_stack}"),
        use("functions.invoke", *(f"{{{each}WorkerFunctionAliaslive}}" for each in ("Small", "Medium", "Large"))),
        use("dynamodb.batch_get_item", "{answers}", dynamodb_LeadingKeys="task#1"),
        *(use("secrets.get_secret_value", "{Secret}"), use("s3.get_object s3.put_object", "{contents}/functions/*")),
    ),
    ("api.yaml", "ApiRole"): (
        use("sqs:SendMessage", "{TaskQueue}"),
        use("dynamodb:GetItem", "{Ledger}", dynamodb_LeadingKeys="task#1"),
        use("lambda:InvokeFunction", "{WorkerFunctionAliaslive}"),
        use("states:StartExecution", "{RunMachine}"),
        use("states:DescribeExecution", "{executions}:*"),
    ),
    ("api.yaml", "WorkerRole"): (
        use(f"{POLLED} sqs.change_message_visibility sqs.get_queue_url", "{TaskQueue}"),
        *(use(action, f"{{{to}_{service}}}") for service, action in SENT for to in ("OnSuccessArn", "OnFailureArn")),
    ),
    ("api.yaml", "DlqConsumerRole"): (use(POLLED, "{TaskDeadLetters}"),),
    ("schedule.yaml", "ScheduleRole"): (
        use("states:StartExecution", "{RunMachine}"),
        use("sqs:SendMessage", "{DeadLetters}"),
    ),
    ("schedule.yaml", "ObjectRole"): (use("states:StartExecution", "{RunMachine}"),),
    ("streams.yaml", "WorkerRole"): (
        use(
            "kinesis:DescribeStream kinesis:DescribeStreamSummary kinesis:GetRecords kinesis:GetShardIterator "
            "kinesis:ListShards",
            "{StreamArn}",
        ),
        use("sqs:SendMessage", "{DeadLetterQueue}", when="gives_up"),
        use("kafka:DescribeClusterV2 kafka:GetBootstrapBrokers", "{KafkaClusterArn}"),
        use(
            "ec2:CreateNetworkInterface ec2:DeleteNetworkInterface ec2:DescribeNetworkInterfaces "
            "ec2:DescribeSecurityGroups ec2:DescribeSubnets ec2:DescribeVpcs",
            "*",
            when="KafkaClusterArn",
        ),
        use("secretsmanager:GetSecretValue", "{KafkaSecretArn}"),
        use("kafka-cluster:Connect kafka-cluster:DescribeClusterDynamicConfiguration", "{kafka_by_iam}"),
        use("kafka-cluster:DescribeTopic kafka-cluster:ReadData", "{kafka_topic}"),
        use("kafka-cluster:AlterGroup kafka-cluster:DescribeGroup", "{kafka_group}"),
    ),
    ("image-builder.yaml", "BuildRole"): (
        *(log("BuildLogs"), use("ecr:GetAuthorizationToken", "*")),
        use(
            "ecr:BatchCheckLayerAvailability ecr:BatchGetImage ecr:CompleteLayerUpload ecr:InitiateLayerUpload "
            "ecr:PutImage ecr:UploadLayerPart",
            "{repository}",
        ),
        use("ecr:BatchGetImage ecr:GetDownloadUrlForLayer", "{registry}base", when="BaseImage"),
        use("s3:GetObject s3:GetObjectVersion", "{source}"),
        use("s3:GetBucketLocation", "{SourceBucket}"),
        *BUILD_NETWORK,
    ),
    ("image-builder.yaml", "StartRole"): (use("codebuild:StartBuild", "{Build}"),),
}
