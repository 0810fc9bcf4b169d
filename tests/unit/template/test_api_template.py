"""sam/api.yaml, evaluated as CloudFormation does.

The local stand-in runs neither API Gateway's DynamoDB integration nor conditions in mapping templates, so what they
say is checked here, against what the runtime writes; the rest is driven in tests/functional/api.
"""

import copy
import hashlib
import json
import re
import uuid
from typing import Any
from urllib.parse import parse_qs, quote_plus

import jsonschema
import pytest

from sparklet.aws.dynamodb import key_attributes
from sparklet.aws.services import MAX_INPUT_BYTES
from sparklet.events.sqs import OWN_ID, TASK_ATTRIBUTE
from sparklet.ledger.items import task_key
from tests.unit.template.reading import ROOT, TEMPLATES, of_type, properties

API, MAIN = TEMPLATES["api.yaml"], TEMPLATES["template.yaml"]
METHODS = ("PostTask", "PutTask", "GetTask", "PostInvocation", "PostRun", "GetRun")
COPIED = ("RestApi", "Resource", "Method", "Model", "RequestValidator", "GatewayResponse")
REFERENCES = {
    "body": "$util.urlEncode($input.body)",
    "encoded_id": "$util.urlEncode($input.params('id'))",
    "executions": "${Executions}",
    "ledger": "${Ledger}",
}
POSTED = re.compile(  # the one template with directives
    r"#set\(\$input_text = (?P<escaped>.*)\)\n"
    r"#if\(\$input\.json\('\$'\)\.length\(\) > (?P<most>\d+)\)\n\{\}\n#else\n(?P<request>.*)\n#end"
)
BODY = '{"day": "2013-01-01", "q": "a&b=c+d %"}'


def text_of(method: str) -> str:
    """A method's mapping template."""
    text = properties(API, method)["Integration"]["RequestTemplates"]["application/json"]
    return str(text["Fn::Sub"][0] if isinstance(text, dict) else text)


def request_template(method: str, **replaced: str) -> str:
    """A mapping template whose references are replaced; it must have no directives."""
    text = text_of(method)
    for reference, value in replaced.items():
        text = text.replace(REFERENCES[reference], value)
    assert "$" not in text
    assert not re.search(r"#(set|if|foreach)", text)
    return text


# --- requests to the integrated services ---


@pytest.mark.parametrize(("method", "task_id"), [("PostTask", OWN_ID), ("PutTask", "order-7")])
def test_a_task_is_one_message_marked_with_its_id(method: str, task_id: str) -> None:
    given = {"encoded_id": task_id} if method == "PutTask" else {}
    form = parse_qs(request_template(method, body=quote_plus(BODY), **given), strict_parsing=True)

    assert form == {
        "Action": ["SendMessage"],
        "MessageBody": [BODY],
        "MessageAttribute.1.Name": [TASK_ATTRIBUTE],
        "MessageAttribute.1.Value.DataType": ["String"],
        "MessageAttribute.1.Value.StringValue": [task_id],
    }


def test_a_tasks_state_is_read_where_the_worker_writes_it() -> None:
    request = json.loads(request_template("GetTask", ledger="table", encoded_id="order-7"))

    assert request["Key"] == key_attributes(task_key("order-7"))
    assert (request["TableName"], request["ConsistentRead"]) == ("table", True)
    assert request["ProjectionExpression"] == "document"  # the response uses only this attribute


def test_an_unrecorded_task_is_not_found() -> None:
    answer = properties(API, "GetTask")["Integration"]["IntegrationResponses"][0]["ResponseTemplates"]
    pattern = r"#set\(\$document = (.*?)\)\n#if\(.*?\)\n(.*)\n#else\n(.*)\n#end"
    [(document, found, missing)] = re.findall(pattern, answer["application/json"], re.DOTALL)

    assert (document, found) == ("$input.path('$.Item.document.S')", "$document")
    assert "#set($context.responseOverride.status = 404)" in missing
    assert json.loads(missing.splitlines()[-1])["message"]


def test_an_invocation_is_asynchronous_to_the_published_worker() -> None:
    integration = properties(API, "PostInvocation")["Integration"]

    assert integration["RequestParameters"] == {"integration.request.header.X-Amz-Invocation-Type": "'Event'"}
    uri, names = integration["Uri"]["Fn::Sub"]
    assert uri.endswith(":lambda:path/2015-03-31/functions/${Worker}/invocations")
    assert names["Worker"] == {"Fn::ImportValue": {"Fn::Sub": "${MainStack}-WorkerAliasArn"}}
    config = properties(API, "InvocationConfig")
    assert config["MaximumRetryAttempts"] == {"Ref": "InvocationRetries"}
    assert config["MaximumEventAgeInSeconds"] == {"Ref": "InvocationMaximumAgeS"}
    assert API["Parameters"]["InvocationRetries"]["Default"] == 0
    for when in ("OnSuccess", "OnFailure"):
        arn = {"Destination": {"Ref": f"{when}Arn"}}
        assert config["DestinationConfig"][when] == {"Fn::If": [f"Has{when}", arn, {"Ref": "AWS::NoValue"}]}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("Request must be smaller than 1048576 bytes for the InvokeFunction operation", "413"),
        ("Rate Exceeded.", "429"),
        ("TooManyRequestsException: Concurrent Invocation Rate Exceeded", "429"),
    ],
)
def test_each_refusal_of_lambda_has_its_http_status(error: str, status: str) -> None:
    answers = properties(API, "PostInvocation")["Integration"]["IntegrationResponses"]

    assert [each["StatusCode"] for each in answers if re.fullmatch(each.get("SelectionPattern", " "), error)] == [
        status
    ]
    assert status in [each["StatusCode"] for each in properties(API, "PostInvocation")["MethodResponses"]]
    assert properties(API, "UnansweredInvocation")["StatusCode"] == "503"


def test_a_request_too_large_for_the_machine_gets_status_400() -> None:
    """With the machine's additions, its first state would exceed 256 KiB and fail unrecorded."""
    posted, added = POSTED.fullmatch(text_of("PostRun")), json.dumps({"idempotency_key": str(uuid.uuid4())})
    answers = properties(API, "PostRun")["Integration"]["IntegrationResponses"]

    assert posted and int(posted["most"]) == MAX_INPUT_BYTES < 256 * 1024 - len(added)
    assert {each.get("SelectionPattern"): each["StatusCode"] for each in answers}["400"] == "400"


def test_every_literal_response_is_json() -> None:
    for name in METHODS:
        for answer in properties(API, name)["Integration"]["IntegrationResponses"]:
            text = answer.get("ResponseTemplates", {}).get("application/json", "")
            if "$" not in text:
                assert json.loads(text), name


# --- authorization and request models ---


def test_every_method_needs_authorization() -> None:
    assert set(METHODS) == set(of_type(API, "AWS::ApiGateway::Method"))
    for name in METHODS:
        method = properties(API, name)
        assert method["AuthorizationType"] == {"Fn::If": ["ByKey", "NONE", "AWS_IAM"]}, name
        assert method["ApiKeyRequired"] == {"Fn::If": ["ByKey", True, False]}, name
    assert API["Parameters"]["Access"]["Default"] == "IAM"


@pytest.mark.parametrize(
    ("method", "model"),
    [("PostTask", "TaskModel"), ("PutTask", "TaskModel"), ("PostInvocation", "TaskModel"), ("PostRun", "RunModel")],
)
def test_every_body_is_validated_and_must_be_json(method: str, model: str) -> None:
    written = properties(API, method)

    assert written["RequestModels"] == {"application/json": {"Ref": model}}
    assert written["RequestValidatorId"] == {"Ref": "BodyValidator"}
    assert written["Integration"]["PassthroughBehavior"] == "NEVER"
    assert properties(API, "BodyValidator")["ValidateRequestBody"] is True


def validator_of(model: str) -> Any:
    schema = properties(API, model)["Schema"]
    jsonschema.Draft4Validator.check_schema(schema)
    return jsonschema.Draft4Validator(schema)


GOOD: list[Any] = [
    {},
    {"day": "2013-01-01", "deep": {"Records": []}},
    {"sparklet": {"script": "s3://b/scripts/x.py", "args": ["--x", "1"]}},
    {"sparklet": {}},
]
BAD: list[Any] = [
    *([], "text", 3, None),
    {"sparklet": {"script": "/etc/x.py"}},
    {"sparklet": {"script": "s3://b/x.sh"}},
    {"sparklet": {"args": "--x"}},
    {"sparklet": {"args": [1]}},
    {"sparklet": {"run": "r"}},
    {"sparklet": "x"},
    {"Records": [{"eventSource": "aws:sqs"}]},
    {"httpMethod": "GET", "requestContext": {}},
    {"eventSource": "aws:kafka"},
    {"detail-type": "x", "source": "y", "detail": {}},
    {"run_id": "r", "shard": 0},
    {"sparklet": {"batch": {"job": "s3://b/runs/r/objects.json", "item": "s3://b/x"}}},
]


def test_the_task_model_accepts_only_direct_events() -> None:
    from sparklet.events import Source, parse_event

    validator = validator_of("TaskModel")

    assert [body for body in GOOD if not validator.is_valid(body)] == []
    assert [body for body in BAD if validator.is_valid(body)] == []
    for body in GOOD:
        (task,) = parse_event(body)
        assert (task.source, task.shard) == (Source.DIRECT, None)


# --- runs ---


RUN = {"script": "s3://b/scripts/x.py", "inputs": ["s3://b/raw/"], "output": "s3://b/clean/{run_id}/"}


def test_a_posted_run_starts_the_machine_with_the_request() -> None:
    body = json.dumps(RUN | {"params": {"quote": 'it\'s "so"'}})
    posted = POSTED.fullmatch(text_of("PostRun"))
    assert posted
    assert posted["escaped"] == """$util.escapeJavaScript($input.json('$')).replaceAll("\\\\'", "'")"""
    text = posted["request"].replace("$input_text", json.dumps(body)[1:-1])

    request = json.loads(text.replace("${Machine}", "arn").replace("$context.requestId", "req-1"))

    assert (request["stateMachineArn"], request["name"]) == ("arn", "req-1")
    assert json.loads(request["input"]) == json.loads(body)


def test_the_run_model_accepts_the_planners_requests() -> None:
    from docs.cli_reference import request_schema
    from sparklet.planning.plan_requests import OF_EVENT, run_request

    validator = validator_of("RunModel")
    good: list[Any] = [
        RUN,
        RUN | {"dispatch": "map", "tolerate": "2%", "max_attempts": 2, "params": {"a": 1}, "idempotency_key": "k"},
        {key: value for key, value in RUN.items() if key != "output"} | {"table": "iceberg:db.t", "commit_every": "9m"},
        {**RUN, "inputs": "s3://b/raw/", "next": "s3://b/scripts/y.py", "next_output": "s3://b/next/{run_id}/"},
        {key: value for key, value in RUN.items() if key != "inputs"} | {"lists": [{"source": "s3://b/today.csv"}]},
        RUN | {"inputs": ["glue:sales.orders"], "where": "day > '2026'"},
    ]
    bad: list[Any] = [
        *([], "text", None, {}, {"run_id": "known"}),
        RUN | {"script": "/etc/x.py"},
        RUN | {"inputs": []},
        RUN | {"dispatch": "loop"},
        RUN | {"table": "delta:/data/t"},
        {key: value for key, value in RUN.items() if key != "output"},
        RUN | {"shard": 1},
        RUN | {"of_event": {"event": {}}},
        {key: value for key, value in RUN.items() if key != "inputs"},
    ]

    assert set(validator.schema["properties"]) == set(request_schema()["properties"]) - {OF_EVENT}
    assert [body for body in good if not validator.is_valid(body)] == []
    assert [body for body in bad if validator.is_valid(body)] == []
    for body in good:
        assert run_request(body, "x").script == RUN["script"]


def test_a_run_is_found_by_its_executions_name() -> None:
    request = json.loads(request_template("GetRun", encoded_id="req-1", executions="arn"))

    assert request == {"executionArn": "arn:req-1"}


# --- queues, mappings, roles ---


def test_the_task_queues_visibility_is_six_function_timeouts() -> None:
    queue = properties(API, "TaskQueue")

    assert queue["VisibilityTimeout"] == {"Fn::FindInMap": ["VisibilityS", {"Ref": "FunctionTimeoutS"}, "Queue"]}
    assert API["Mappings"]["VisibilityS"] == MAIN["Mappings"]["VisibilityS"]
    for key in ("AllowedValues", "Default"):
        assert API["Parameters"]["FunctionTimeoutS"][key] == MAIN["Parameters"]["FunctionTimeoutS"][key]
    assert queue["RedrivePolicy"] == {
        "deadLetterTargetArn": {"Fn::GetAtt": ["TaskDeadLetters", "Arn"]},
        "maxReceiveCount": {"Ref": "MaxReceiveCount"},
    }
    assert properties(API, "TaskDeadLetters")["MessageRetentionPeriod"] == 14 * 86_400


def test_both_mappings_report_single_failures() -> None:
    tasks, letters = (properties(API, name) for name in ("TaskMapping", "DeadLetterMapping"))

    assert all(m["FunctionResponseTypes"] == ["ReportBatchItemFailures"] for m in (tasks, letters))
    assert tasks["BatchSize"] == 1
    assert tasks["ScalingConfig"] == {"MaximumConcurrency": {"Ref": "MaximumConcurrency"}}


def test_api_gateways_role_reads_tasks_but_no_runs() -> None:
    (policy,) = properties(API, "ApiRole")["Policies"]
    by_action = {statement["Action"]: statement for statement in policy["PolicyDocument"]["Statement"]}

    assert by_action.keys() == {
        *("sqs:SendMessage", "dynamodb:GetItem", "lambda:InvokeFunction"),
        *("states:StartExecution", "states:DescribeExecution"),
    }
    assert by_action["dynamodb:GetItem"]["Condition"] == {
        "ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["task#*"]}
    }
    executions = by_action.pop("states:DescribeExecution")["Resource"]
    assert executions["Fn::Sub"][0] == "${Executions}:*"  # executions have names
    assert not any("*" in json.dumps(statement["Resource"]) for statement in by_action.values())


def test_imported_values_do_not_depend_on_parameters() -> None:
    """CloudFormation refuses to change values that another stack imports; names, addresses and the bucket are fixed."""
    exported = [output["Value"] for output in MAIN["Outputs"].values() if "Export" in output]

    followed = {*re.findall(r'"Ref": "(\w+)"', json.dumps(exported))} & MAIN["Parameters"].keys()
    assert followed <= {"ExistingBucketName"}


def test_metrics_of_single_methods_are_off_since_they_cost() -> None:
    assert [each["MetricsEnabled"] for each in properties(API, "Stage")["MethodSettings"]] == [False]


def test_the_alarm_for_unsent_notices_matches_the_workers_log() -> None:
    pattern = re.search(r'\$\.message = "([^"]+)"', properties(API, "UnsentNotices")["FilterPattern"])

    assert pattern and f'"{pattern[1]}"' in (ROOT / "runtime/sparklet/worker/task_requests.py").read_text()


# --- deployments ---


def digest(template: dict[str, Any]) -> str:
    """The digest of all resources that a deployment copies."""
    copied = {
        name: body
        for name, body in template["Resources"].items()
        if body["Type"].removeprefix("AWS::ApiGateway::") in COPIED
    }
    return hashlib.sha256(json.dumps(copied, sort_keys=True).encode()).hexdigest()[:8]


def test_a_change_of_a_method_needs_a_new_deployment_name() -> None:
    wanted = digest(API)
    deployments = of_type(API, "AWS::ApiGateway::Deployment")

    assert set(deployments) == {f"DeploymentByKey{wanted}", f"DeploymentByIam{wanted}"}, "rename them in sam/api.yaml"
    for name in deployments:
        body = API["Resources"][name]
        assert body["Condition"] == name[len("Deployment") : -len(wanted)]
        assert set(body["DependsOn"]) == set(METHODS)
    assert properties(API, "Stage")["DeploymentId"] == {
        "Fn::If": ["ByKey", {"Ref": f"DeploymentByKey{wanted}"}, {"Ref": f"DeploymentByIam{wanted}"}]
    }
    changed = copy.deepcopy(API)
    changed["Resources"]["PostTask"]["Properties"]["ApiKeyRequired"] = False
    assert digest(changed) != wanted
