"""Every role's policies, as CloudFormation makes them with one setting of parameters, and what the roles are used for.

No server: SAM's own transform, the intrinsic functions by ``reading``, and the stand-in's evaluator for the verdict on
each call, with ``policies`` beside it for what a grant covers.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from ministack.core.iam_evaluator import EvalContext, evaluate, parse_policy_document

from docs.calls import ROLES, SENT, Use, actions_of
from tests.deploy.policies import Call, Grant, grants
from tests.stand_ins.engines import ACCOUNT, EXAMPLES, OF_REGION, REGION
from tests.unit.template.reading import TEMPLATES, as_list, expanded, resolved

MAIN = "template.yaml"
PSEUDO = {
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::AccountId": ACCOUNT,
    "AWS::URLSuffix": "amazonaws.com",
}
ARNS = {  # of what templates make, by type
    "AWS::S3::Bucket": "arn:aws:s3:::{}",
    "AWS::DynamoDB::Table": f"arn:aws:dynamodb:{OF_REGION}:table/{{}}",
    "AWS::SQS::Queue": f"arn:aws:sqs:{OF_REGION}:{{}}",
    "AWS::Logs::LogGroup": f"arn:aws:logs:{OF_REGION}:log-group:{{}}:*",
    "AWS::Lambda::Function": f"arn:aws:lambda:{OF_REGION}:function:{{}}",
    "AWS::Lambda::Alias": f"arn:aws:lambda:{OF_REGION}:function:{{}}:live",
    "AWS::StepFunctions::StateMachine": f"arn:aws:states:{OF_REGION}:stateMachine:{{}}",
    "AWS::SecretsManager::Secret": f"arn:aws:secretsmanager:{OF_REGION}:secret:{{}}",
    "AWS::ECR::Repository": f"arn:aws:ecr:{OF_REGION}:repository/{{}}",
    "AWS::CodeBuild::Project": f"arn:aws:codebuild:{OF_REGION}:project/{{}}",
    "AWS::IAM::Role": f"arn:aws:iam::{ACCOUNT}:role/{{}}",
}
BY_ARN = ("AWS::Lambda::Alias", "AWS::StepFunctions::StateMachine", "AWS::SecretsManager::Secret")  # by Ref, too
LISTS = ("CommaDelimitedList",)
ENCRYPTED = {"AWS::SQS::Queue": "KmsMasterKeyId", "AWS::SecretsManager::Secret": "KmsKeyId"}
NO_VALUE = {"Ref": "AWS::NoValue"}
Setting = dict[str, dict[str, str]]  # template → parameters
PLATFORMS = [(next(iter(of.parameters)), *of.platform) for of in EXAMPLES.values() if any(of.platform)]
DESTINATIONS = ("OnSuccessArn", "OnFailureArn")
USES_OF_KEYS = {  # what the caller of an action needs of the key that the thing is encrypted with
    "s3:GetObject": ("kms:Decrypt",),
    "s3:GetObjectVersion": ("kms:Decrypt",),
    "s3:PutObject": ("kms:GenerateDataKey",),
    "sqs:SendMessage": ("kms:GenerateDataKey", "kms:Decrypt"),
    "sqs:ReceiveMessage": ("kms:Decrypt",),
    "sns:Publish": ("kms:GenerateDataKey", "kms:Decrypt"),
    "secretsmanager:GetSecretValue": ("kms:Decrypt",),
    "kinesis:GetRecords": ("kms:Decrypt",),
}


def whole(node: Any, template: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """A part of a template with all that can be resolved, and without what CloudFormation leaves out."""
    if isinstance(node, list):
        found = [whole(each, template, given) for each in node]
        return [each for each in found if each != NO_VALUE]
    if not isinstance(node, dict):
        return node
    if (value := resolved(node, template, given)) is not node:
        return whole(value, template, given)
    every = {key: whole(value, template, given) for key, value in node.items()}
    return {key: value for key, value in every.items() if value != NO_VALUE}


@dataclass(frozen=True)
class Stack:
    """A template deployed in one's mind."""

    template: str
    names: Mapping[str, Any]  # parameters, resources by Ref and attribute, imports
    resources: Mapping[str, Any]  # those that its conditions let be
    outputs: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, parameters: Mapping[str, str], imports: Mapping[str, Any]) -> "Stack":
        """The stack ``sparklet``, or one beside it."""
        body = transformed(name)
        stack = "sparklet" if name == MAIN else f"sparklet-{name.removesuffix('.yaml')}"
        given: dict[str, Any] = {**PSEUDO, **imports, "AWS::StackName": stack, "AWS::StackId": f"arn/{stack}/1"}
        for each, declared in body["Parameters"].items():
            text = parameters.get(each, str(declared.get("Default", "")))
            given[each] = text.split(",") if declared["Type"] in LISTS else text
        there = {each: of for each, of in body["Resources"].items() if _is_there(of, body, given)}
        for each, of in there.items():
            arn = ARNS.get(of["Type"], "{}").format(each.removesuffix("Aliaslive"))
            given |= {each: arn if of["Type"] in BY_ARN else each, f"{each}.Arn": arn, f"{each}.Id": arn}
            given |= {f"{each}.Name": each, f"{each}.QueueName": each}
        made = {each: whole(of.get("Properties", {}), body, given) for each, of in there.items()}
        resources = {each: {"Type": there[each]["Type"], **properties} for each, properties in made.items()}
        outputs = {
            whole(each["Export"]["Name"], body, given): whole(each["Value"], body, given)
            for each in body.get("Outputs", {}).values()
            if "Export" in each and _is_there(each, body, given)
        }
        return cls(name, given, resources, outputs)

    def arn(self, name: str) -> Any:
        """What a name in braces stands for: a resource's ARN, or a parameter; empty if it is neither here."""
        return self.names.get(f"{name}.Arn" if name in self.resources else name, "")


@cache
def transformed(name: str) -> dict[str, Any]:
    """A template after SAM's transform; what it does follows from no parameter but those of ``sam build``."""
    return expanded(name) if "Transform" in TEMPLATES[name] else TEMPLATES[name]


def _is_there(part: Mapping[str, Any], template: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    return "Condition" not in part or bool(resolved({"Condition": part["Condition"]}, template, given))


class World:
    """The stacks of one setting."""

    def __init__(self, setting: Setting) -> None:
        main = Stack.of(MAIN, setting.get(MAIN, {}), {})
        self.stacks = {MAIN: main}
        for name, parameters in setting.items():
            if name != MAIN:
                self.stacks[name] = Stack.of(name, parameters, main.outputs)
        self.statements: dict[tuple[str, str], list[Any]] = {}
        for stack in self.stacks.values():
            self._read(stack)

    def _read(self, stack: Stack) -> None:
        for name, body in stack.resources.items():
            here = [(stack.template, name)]
            if body["Type"] == "AWS::IAM::Role":
                policies = [policy["PolicyDocument"] for policy in body.get("Policies", ())]
                assert "{" not in str(body.get("ManagedPolicyArns", "")), name
            elif body["Type"] in ("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
                policies = [body["PolicyDocument"]]
                here = [self._place(stack, role) for role in body.get("Roles", [name])]
            else:
                continue
            for place in here:
                given = [each for document in policies for each in as_list(document["Statement"])]
                self.statements.setdefault(place, []).extend(given)

    def _place(self, stack: Stack, role: str) -> tuple[str, str]:
        return (stack.template if role in stack.resources else MAIN), role

    def granted(self, place: tuple[str, str]) -> list[Grant]:
        """What a role is allowed, one by one."""
        return [grant for each in self.statements[place] for grant in grants(place[1], each)]

    def calls(self, place: tuple[str, str]) -> list[Call]:
        """What a role is used for in this setting, keys included; of the main stack's also by stacks beside it."""
        found = []
        for template, stack in self.stacks.items():
            if template != place[0] and (place[0] != MAIN or place[1] in stack.resources):
                continue
            for each in ROLES.get((template, place[1]), ()):
                found += list(self._made(stack, place[1], each))
        return found

    def _made(self, stack: Stack, role: str, use: Use) -> Iterator[Call]:
        named = self.facts(stack)
        name, _, value = use.when.partition("=")
        if use.when and not (named(name) == value if value else "".join(as_list(named(name)))):
            return
        for pattern in use.on:
            for resource in _filled(pattern, named):
                keys = {key: text for pair in use.keys.items() for key, text in _keys(pair, named)}
                for call in use.calls:
                    for action in actions_of(call):
                        made = Call(role, action, resource.replace("*", "x") if resource != "*" else "*", keys)
                        yield made
                        yield from self._with_keys(stack, made, of_ours="." in call)

    def facts(self, stack: Stack) -> Callable[[str], Any]:
        """What names in braces stand for: resources, parameters, and what follows from them."""
        known = {**self._of_main(), **_beside(stack)}
        other = self.stacks[MAIN].arn
        return lambda name: known[name] if name in known else (stack.arn if name in stack.names else other)(name)

    def _of_main(self) -> dict[str, Any]:
        main, given = self.stacks[MAIN], self.stacks[MAIN].names
        cluster, bucket = given["FargateCluster"], given["ExistingBucketName"]
        engines = {name: given[name] and _arn(service, f"{kind}{given[name]}") for name, service, kind in PLATFORMS}
        platforms = "".join(engines.values())
        return {
            **engines,
            "platforms": platforms,
            "engines": "".join(given[next(iter(of.parameters))] for of in EXAMPLES.values()),
            "fargate_task": cluster and _arn("ecs", f"task/{cluster}/*"),
            "FargateCluster": cluster and _arn("ecs", f"cluster/{cluster}"),
            "bucket": f"arn:aws:s3:::{bucket}" if bucket else main.arn("Bucket"),
            "catalog": _arn("glue", "catalog"),
            "own_tables": _tables(given["GlueDatabaseArns"]),
            "read_tables": _tables(given["ReadGlueDatabaseArns"]),
            "executions": _arn("states", "execution:RunMachine"),
            "group": _arn("logs", "log-group:"),
            "registry": _arn("ecr", "repository/"),
            "functions_stack": _arn("cloudformation", "stack/sparklet-functions/*"),
        }

    def _with_keys(self, stack: Stack, call: Call, *, of_ours: bool) -> Iterator[Call]:
        """The uses of keys that a call has."""
        uses = ("kms:Decrypt",) if call.action.startswith("dynamodb:") else USES_OF_KEYS.get(call.action, ())
        for key in self._keys_of(stack, call, of_ours=of_ours) if uses else ():
            for action in uses:
                yield Call(call.role, action, key)

    def _keys_of(self, stack: Stack, call: Call, *, of_ours: bool) -> set[str]:
        """Which keys what a call names may be encrypted with."""
        names, main = stack.names, self.stacks[MAIN].names
        if call.action.startswith("s3:"):
            return self._keys_of_objects(stack, call, of_ours=of_ours)
        if call.action == "sns:Publish":
            return {main["NoticeTopicKeyArn"]} - {""} if call.resource == main["NoticeTopicArn"] else set()
        if call.action == "kinesis:GetRecords":
            return {names["StreamKeyArn"]} - {""}
        if call.resource == names.get("KafkaSecretArn"):
            return {names["KafkaSecretKeyArn"]}
        if call.resource.endswith(f"/{names.get('ExistingLedgerTable')}"):
            return {names["KmsKeyArn"]} - {""}
        for each in self.stacks.values():
            for name, body in each.resources.items():
                if call.resource == each.names.get(f"{name}.Arn"):
                    of_table = body.get("SSESpecification", {}).get("KMSMasterKeyId", "")
                    return {body.get(ENCRYPTED.get(body["Type"], ""), of_table)} - {""}
        return set()

    def _keys_of_objects(self, stack: Stack, call: Call, *, of_ours: bool) -> set[str]:
        """A bucket's own key, or a key of data elsewhere; what we write has the key that we ask for."""
        names, main, named = stack.names, self.stacks[MAIN].names, self.facts(stack)
        if "SourceKmsKeyArn" in names:
            return {names["SourceKmsKeyArn"]} - {""}
        is_own = call.resource.split("/")[0] in (named("bucket"), named("contents"))
        kept = {names.get("KmsKeyArn", main["KmsKeyArn"])} if is_own else {*names.get("DataKeyArns", ())}
        asked = {main["WriteEncryption"], names.get("WriteEncryption", "")} - {"", "AES256"}
        if call.action == "s3:PutObject":
            return (asked if of_ours and asked else kept) - {""}
        return (kept | asked) - {""}


def _arn(service: str, name: str) -> str:
    return f"arn:aws:{service}:{OF_REGION}:{name}"


def _tables(databases: str) -> str:
    return ",".join(f"{each}/*" for each in databases.replace(":database/", ":table/").split(",") if each)


def _beside(stack: Stack) -> dict[str, Any]:
    """What follows from a stack's own parameters."""
    own = stack.arn
    token, answers, contents = own("RemoteTokenArn"), own("ExistingLedgerTable"), own("ExistingBucketName")
    source, repository = own("SourceBucket"), own("ExistingRepositoryName")
    by_iam = own("KafkaClusterArn") if not own("KafkaSecretArn") else ""
    gives_up = own("StreamArn") or own("KafkaPollers") not in ("", "0")
    told = {f"{to}_{each}": own(to) * (f":{each}:" in own(to)) for to in DESTINATIONS for each, _ in SENT}
    return {
        **told,
        "token_secret": token * (":secretsmanager:" in token),
        "token_parameter": token * (":ssm:" in token),
        "answers": _arn("dynamodb", f"table/{answers}") if answers else own("Ledger"),
        "contents": f"arn:aws:s3:::{contents}" if contents else own("Bucket"),
        "source": source and f"arn:aws:s3:::{source}/{own('SourceKey')}",
        "SourceBucket": source and f"arn:aws:s3:::{source}",
        "repository": _arn("ecr", f"repository/{repository}") if repository else own("Repository"),
        "kafka_by_iam": by_iam,
        "kafka_topic": by_iam and f"{by_iam.replace(':cluster/', ':topic/')}/{own('KafkaTopic')}",
        "kafka_group": by_iam and f"{by_iam.replace(':cluster/', ':group/')}/sparklet-streams",
        "gives_up": "yes" if gives_up else "",
        "lent_interfaces": own("VpcId") and _arn("ec2", "network-interface/*"),
    }


def _filled(pattern: str, named: Any) -> list[str]:
    """A pattern with what its names stand for; none if one stands for nothing."""
    found = [pattern]
    for name in re.findall(r"\{(\w+)\}", pattern):
        value = named(name)
        values = value if isinstance(value, list) else str(value).split(",")
        found = [each.replace(f"{{{name}}}", str(one)) for each in found for one in values if one]
    return found


def _keys(pair: tuple[str, str], named: Any) -> Iterator[tuple[str, str]]:
    key, text = pair
    yield key.lower(), (_filled(text, named) or [text])[0].replace("*", "x")


def allowed(call: Call, statements: list[Any]) -> bool:
    """The stand-in's verdict on a call."""
    keys: dict[str, Any] = {**call.keys}
    for key in keys.keys() & {"dynamodb:leadingkeys"}:
        keys[key] = [keys[key]]
    asked = EvalContext(
        principal_arn=f"arn:aws:sts::{ACCOUNT}:assumed-role/{call.role}/session",
        principal_type="AssumedRole",
        principal_account=ACCOUNT,
        action=call.action,
        resource_arn=call.resource,
        region=REGION,
        secure_transport=True,
        service_context=keys,
    )
    verdict: str = evaluate(asked, [parse_policy_document({"Statement": statements})]).decision
    return verdict == "Allow"


def refusals(world: World, place: tuple[str, str]) -> set[str]:
    """The calls that a role's policies do not allow."""
    return {
        f"{call.action} on {call.resource} {dict(call.keys) or ''}".strip()
        for call in world.calls(place)
        if not allowed(call, world.statements[place])
    }


def unused(world: World, place: tuple[str, str]) -> set[str]:
    """The grants of a role's policies that no call needs; a call needs the narrowest that covers it."""
    every, needed = world.granted(place), set()
    for call in world.calls(place):
        covering = [grant for grant in every if grant.covers(call)]
        narrowest = max((_narrowness(grant) for grant in covering), default=0)
        needed |= {str(grant) for grant in covering if _narrowness(grant) == narrowest}
    return {str(grant) for grant in every} - needed


def _narrowness(grant: Grant) -> int:
    return len("".join((grant.resource, *(pattern for _, pattern in grant.conditions))).replace("*", ""))


def named_at(place: tuple[str, str], at: Mapping[str, str]) -> Iterator[Grant]:
    """What a role's uses name, as patterns, where names in braces stand for what ``at`` has."""
    for each in ROLES[place]:
        for call in each.calls:
            for action in actions_of(call):
                for pattern in each.on:
                    for resource in _filled(pattern, lambda name: at.get(name, "")):
                        prefix = (("s3:prefix", each.keys["s3:prefix"]),) if "s3:prefix" in each.keys else ()
                        yield Grant(place[1], "", action, resource, prefix)
