"""The table of a caller's rights in ``docs/guide/deploy.md``: ``python -m docs.rights docs/guide/deploy.md``.

What is called of AWS stands in the code; here stand what a caller needs a call for and on what it is authorized, and
who else makes the other calls. ``unknown`` names each call that stands in neither, or is gone.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import botocore.session
from botocore import xform_name

from sparklet.aws.clients import SERVICES

RUNTIME = Path(__file__).resolve().parents[1] / "runtime" / "sparklet"
BEGIN, END = "<!-- rights: written by docs.rights -->", "<!-- rights: end -->"
LEDGER, BUCKET = "`LedgerTable`", "the bucket `BucketName`"


@dataclass(frozen=True)
class Need:
    """Calls that a command makes for one purpose, on one thing."""

    purpose: str
    calls: tuple[str, ...]  # "service.method", as ``AwsClients`` has them
    on: str
    actions: tuple[str, ...] = ()  # where they are not called like the calls


NEEDS = (
    Need("all", ("cloudformation.describe_stacks",), "the stack, by its name: `stack/NAME/*`"),
    Need(
        "all",
        ("dynamodb.get_item", "dynamodb.batch_get_item", "dynamodb.query"),
        f"{LEDGER}, `Query` also on its index",
    ),
    Need(
        "`run`, `plan`, `redrive`, `cancel`, `watch`",
        ("dynamodb.put_item", "dynamodb.update_item", "dynamodb.transact_write_items"),
        LEDGER,
        ("dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:ConditionCheckItem"),
    ),
    Need("the same", ("sqs.send_message_batch",), "the queue `QueueUrl`", ("sqs:SendMessage",)),
    Need("all", ("s3.get_object", "s3.head_object"), f"{BUCKET}; inputs", ("s3:GetObject",)),
    Need(
        "all", ("s3.list_objects_v2", "s3.head_bucket"), f"{BUCKET}; inputs' and outputs' buckets", ("s3:ListBucket",)
    ),
    Need(
        "those that start or end runs",
        ("s3.put_object", "s3.upload_file"),
        BUCKET,
        ("s3:PutObject", "s3:AbortMultipartUpload"),
    ),
    Need(
        "the same, `clean`, `--overwrite`",
        ("s3.delete_objects",),
        f"{BUCKET}; outputs that are replaced",
        ("s3:DeleteObject",),
    ),
    Need("`clean`", ("dynamodb.batch_write_item",), LEDGER, ("dynamodb:BatchWriteItem", "dynamodb:DeleteItem")),
    Need("`logs`", ("logs.filter_log_events", "logs.get_log_events"), "`WorkerLogGroup`"),
    Need("`invoke`", ("functions.invoke",), "`WorkerAliasArn`", ("lambda:InvokeFunction",)),
    Need(
        "runs of state machines",
        ("states.start_execution", "states.describe_execution", "states.stop_execution"),
        "`LoopMachineArn`, `MapMachineArn`, their executions",
    ),
    Need(
        "`--versions`",
        ("s3.list_object_versions",),
        "inputs' buckets; `s3:GetObjectVersion` on inputs",
        ("s3:ListBucketVersions",),
    ),
    Need("`--role`", ("sts.assume_role",), "that role"),
    Need("`--input glue:…`", ("glue.get_table", "glue.get_partitions"), "catalog, database and table"),
    Need(
        "a run with an engine, or a table of Iceberg; `doctor --stack`",
        ("functions.get_function_configuration",),
        "`WorkerAliasArn`",
    ),
    Need(
        "a run with EMR, EMR Serverless, Glue",
        ("emr.describe_cluster", "emr_serverless.get_application", "glue.get_job"),
        "the engine",
    ),
    Need(
        "`doctor --stack`",
        (
            *(
                "functions.get_account_settings",
                "functions.get_function_concurrency",
                "functions.list_event_source_mappings",
            ),
            *("functions.list_versions_by_function", "functions.list_aliases", "sqs.get_queue_attributes"),
            *("events.list_rule_names_by_target", "events.describe_rule"),
        ),
        "the stack's functions, queues and rules",
    ),
    Need("`doctor --delete-snapshots`", ("functions.delete_function",), "`WorkerFunctionName`"),
    Need("`doctor --image`", ("ecr.describe_images",), "the image's repository"),
)
NOT_OF_CALLERS = {  # call: who makes it
    "ecs.describe_tasks": "the checker",
    "ecs.run_task": "the checker",
    "ecs.stop_task": "the checker",
    "emr.add_job_flow_steps": "the checker",
    "emr.cancel_steps": "the checker",
    "emr.describe_step": "the checker",
    "emr.list_steps": "the checker",
    "emr_serverless.cancel_job_run": "the checker",
    "emr_serverless.get_job_run": "the checker",
    "emr_serverless.start_job_run": "the checker",
    "events.put_events": "functions that tell of ends",
    "glue.batch_stop_job_run": "the checker",
    "glue.create_table": "workers that commit",
    "glue.get_job_run": "the checker",
    "glue.get_job_runs": "the checker",
    "glue.start_job_run": "the checker",
    "glue.update_table": "workers that commit",
    "s3.copy": "workers",
    "s3.copy_object": "workers",
    "secrets.get_secret_value": "callers of functions, by sam/functions.yaml's CallerPolicy; scripts",
    "sns.publish": "functions that tell of ends",
    "sqs.change_message_visibility": "workers",
    "sqs.get_queue_url": "workers; callers of functions",
}
OF_THE_EMULATOR = RUNTIME / "local"  # it has an account of its own


@cache
def called() -> frozenset[str]:
    """The calls of AWS in the runtime: methods of ``AwsClients``' clients, paginators, and STS."""
    methods = {name: _methods(service) for name, service in SERVICES.items()}
    methods["s3"] |= {"copy", "upload_file"}
    found = {"sts.assume_role"}  # AwsClients.with_role
    for path in RUNTIME.rglob("*.py"):
        if OF_THE_EMULATOR not in path.parents:
            found |= set(_calls(ast.parse(path.read_text(encoding="utf-8")), methods))
    return frozenset(found)


def _calls(tree: ast.AST, methods: dict[str, set[str]]) -> Iterator[str]:
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and node.value.attr in methods:
            aliases |= {target.id: node.value.attr for target in node.targets if isinstance(target, ast.Name)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
        owner = aliases.get(owner, owner)
        if owner in methods and node.attr in methods[owner]:
            yield f"{owner}.{node.attr}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "get_paginator":
            owner = getattr(node.func, "value", node)
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            name = aliases.get(name, name)
            if name in methods and isinstance(node.args[0], ast.Constant):
                yield f"{name}.{node.args[0].value!s}"


@cache
def _methods(service: str) -> set[str]:
    names = botocore.session.get_session().get_service_model(service).operation_names
    return {xform_name(name) for name in names}


def actions(need: Need) -> tuple[str, ...]:
    """The actions of IAM that its calls are authorized by."""
    return need.actions or tuple(dict.fromkeys(map(_action, need.calls)))


def _action(call: str) -> str:
    name, method = call.split(".")
    service = {"functions": "lambda", "emr": "elasticmapreduce", "emr_serverless": "emr-serverless"}.get(name, name)
    operations = botocore.session.get_session().get_service_model(SERVICES.get(name, name)).operation_names
    operation = next(each for each in operations if xform_name(each) == method)
    return f"{service.replace('stepfunctions', 'states')}:{re.sub(r'[0-9]{8}.*$', '', operation)}"


def unknown() -> set[str]:
    """Calls that stand here and not in the code, or the other way round, or both with callers and with others."""
    listed = [call for need in NEEDS for call in need.calls]
    others = NOT_OF_CALLERS.keys()
    return set(called() ^ {*listed, *others}) | (set(listed) & others)


def table() -> str:
    """The table, between its marks."""
    rows = "\n".join(
        f"| {need.purpose} | {', '.join(f'`{action}`' for action in actions(need))} | {need.on} |" for need in NEEDS
    )
    return f"{BEGIN}\n\n| for | actions | on |\n|---|---|---|\n{rows}\n\n{END}"


def main(path: Path) -> None:
    """Write the table into the page."""
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    path.write_text(before + table() + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
