"""Every role's policies, as CloudFormation makes them with one setting of parameters, and the calls of the roles.

There is no server: SAM's own transform expands the templates, ``reading`` resolves the intrinsic functions, the
stand-in's evaluator decides on each call, and ``policies`` decides which calls a grant covers.
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
ARNS = {  # of the templates' resources, by type
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
# Of these types the Ref is the ARN, too.
BY_ARN = ("AWS::Lambda::Alias", "AWS::StepFunctions::StateMachine", "AWS::SecretsManager::Secret")
LISTS = ("CommaDelimitedList",)
ENCRYPTED = {"AWS::SQS::Queue": "KmsMasterKeyId", "AWS::SecretsManager::Secret": "KmsKeyId"}
NO_VALUE = {"Ref": "AWS::NoValue"}
Setting = dict[str, dict[str, str]]  # template → parameters
PLATFORMS = [(next(iter(of.parameters)), *of.platform) for of in EXAMPLES.values() if any(of.platform)]
DESTINATIONS = ("OnSuccessArn", "OnFailureArn")
USES_OF_KEYS = {  # the actions on a resource's key that the caller of an action needs
    "s3:GetObject": ("kms:Decrypt",),
    "s3:GetObjectVersion": ("kms:Decrypt",),
    "s3:PutObject": ("kms:GenerateDataKey",),
    "sqs:SendMessage": ("kms:GenerateDataKey", "kms:Decrypt"),
    "sqs:ReceiveMessage": ("kms:Decrypt",),
    "sns:Publish": ("kms:GenerateDataKey", "kms:Decrypt"),
    "secretsmanager:GetSecretValue": ("kms:Decrypt",),
    "kinesis:GetRecords": ("kms:Decrypt",),
}


def whole(node: Any, template: Mapping[str, Any], names: Mapping[str, Any]) -> Any:
    """A part of a template with everything resolved that can be, and without the entries that are AWS::NoValue."""
    if isinstance(node, list):
        values = [whole(each, template, names) for each in node]
        return [each for each in values if each != NO_VALUE]
    if not isinstance(node, dict):
        return node
    if (value := resolved(node, template, names)) is not node:
        return whole(value, template, names)
    every = {key: whole(value, template, names) for key, value in node.items()}
    return {key: value for key, value in every.items() if value != NO_VALUE}


@dataclass(frozen=True)
class Stack:
    """A template as if it was deployed."""

    template: str
    names: Mapping[str, Any]  # parameters, resources by Ref and attribute, imports
    resources: Mapping[str, Any]  # the resources whose conditions hold
    outputs: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, parameters: Mapping[str, str], imports: Mapping[str, Any]) -> "Stack":
        """The stack ``sparklet``, if ``name`` is the main template, or a stack beside it."""
        body = transformed(name)
        stack = "sparklet" if name == MAIN else f"sparklet-{name.removesuffix('.yaml')}"
        names: dict[str, Any] = {**PSEUDO, **imports, "AWS::StackName": stack, "AWS::StackId": f"arn/{stack}/1"}
        for parameter, declared in body["Parameters"].items():
            text = parameters.get(parameter, str(declared.get("Default", "")))
            names[parameter] = text.split(",") if declared["Type"] in LISTS else text
        existing = {each: resource for each, resource in body["Resources"].items() if _exists(resource, body, names)}
        for each, resource in existing.items():
            arn = ARNS.get(resource["Type"], "{}").format(each.removesuffix("Aliaslive"))
            names |= {each: arn if resource["Type"] in BY_ARN else each, f"{each}.Arn": arn, f"{each}.Id": arn}
            names |= {f"{each}.Name": each, f"{each}.QueueName": each}
        bodies = {each: whole(resource.get("Properties", {}), body, names) for each, resource in existing.items()}
        resources = {each: {"Type": existing[each]["Type"], **properties} for each, properties in bodies.items()}
        outputs = {
            whole(each["Export"]["Name"], body, names): whole(each["Value"], body, names)
            for each in body.get("Outputs", {}).values()
            if "Export" in each and _exists(each, body, names)
        }
        return cls(name, names, resources, outputs)

    def arn(self, name: str) -> Any:
        """The value of a name in braces: a resource's ARN, or a parameter; "" if this stack has neither."""
        return self.names.get(f"{name}.Arn" if name in self.resources else name, "")


@cache
def transformed(name: str) -> dict[str, Any]:
    """A template after SAM's transform, whose result depends only on the parameters of ``sam build``."""
    return expanded(name) if "Transform" in TEMPLATES[name] else TEMPLATES[name]


def _exists(part: Mapping[str, Any], template: Mapping[str, Any], names: Mapping[str, Any]) -> bool:
    """Whether a resource or output has no condition, or its condition holds."""
    return "Condition" not in part or bool(resolved({"Condition": part["Condition"]}, template, names))


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
            places = [(stack.template, name)]
            if body["Type"] == "AWS::IAM::Role":
                policies = [policy["PolicyDocument"] for policy in body.get("Policies", ())]
                assert "{" not in str(body.get("ManagedPolicyArns", "")), name
            elif body["Type"] in ("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
                policies = [body["PolicyDocument"]]
                places = [self._place(stack, role) for role in body.get("Roles", [name])]
            else:
                continue
            for place in places:
                statements = [each for document in policies for each in as_list(document["Statement"])]
                self.statements.setdefault(place, []).extend(statements)

    def _place(self, stack: Stack, role: str) -> tuple[str, str]:
        """The template that has the role, and the role."""
        return (stack.template if role in stack.resources else MAIN), role

    def granted(self, place: tuple[str, str]) -> list[Grant]:
        """The single grants of a role."""
        return [grant for each in self.statements[place] for grant in grants(place[1], each)]

    def calls(self, place: tuple[str, str]) -> list[Call]:
        """A role's calls in this setting, with those to keys; stacks beside the main one also use its roles."""
        own_template, role = place
        calls = []
        for template, stack in self.stacks.items():
            if template != own_template and (own_template != MAIN or role in stack.resources):
                continue
            for use in ROLES.get((template, role), ()):
                calls += list(self._calls_of_use(stack, role, use))
        return calls

    def _calls_of_use(self, stack: Stack, role: str, use: Use) -> Iterator[Call]:
        """The calls of one use; none if the setting does not fulfil the use's condition ``when``."""
        value_of = self.facts(stack)
        name, _, value = use.when.partition("=")
        if use.when and not (value_of(name) == value if value else "".join(as_list(value_of(name)))):
            return
        for pattern in use.on:
            for resource in _filled(pattern, value_of):
                keys = {key: text for pair in use.keys.items() for key, text in _keys(pair, value_of)}
                for operation in use.calls:
                    for action in actions_of(operation):
                        call = Call(role, action, resource.replace("*", "x") if resource != "*" else "*", keys)
                        yield call
                        yield from self._key_calls(stack, call, of_ours="." in operation)

    def facts(self, stack: Stack) -> Callable[[str], Any]:
        """A function that returns the value of a name in braces: of a resource, a parameter, or derived from them."""
        derived = {**self._of_main(), **_beside(stack)}

        def value_of(name: str) -> Any:
            if name in derived:
                return derived[name]
            return stack.arn(name) if name in stack.names else self.stacks[MAIN].arn(name)

        return value_of

    def _of_main(self) -> dict[str, Any]:
        """Values by name that are derived from the main stack's parameters."""
        main, names = self.stacks[MAIN], self.stacks[MAIN].names
        cluster, bucket = names["FargateCluster"], names["ExistingBucketName"]
        engines = {name: names[name] and _arn(service, f"{type_}{names[name]}") for name, service, type_ in PLATFORMS}
        platforms = "".join(engines.values())
        return {
            **engines,
            "platforms": platforms,
            "engines": "".join(names[next(iter(example.parameters))] for example in EXAMPLES.values()),
            "fargate_task": cluster and _arn("ecs", f"task/{cluster}/*"),
            "FargateCluster": cluster and _arn("ecs", f"cluster/{cluster}"),
            "bucket": f"arn:aws:s3:::{bucket}" if bucket else main.arn("Bucket"),
            "catalog": _arn("glue", "catalog"),
            "own_tables": _tables(names["GlueDatabaseArns"]),
            "read_tables": _tables(names["ReadGlueDatabaseArns"]),
            "executions": _arn("states", "execution:RunMachine"),
            "group": _arn("logs", "log-group:"),
            "registry": _arn("ecr", "repository/"),
            "functions_stack": _arn("cloudformation", "stack/sparklet-functions/*"),
        }

    def _key_calls(self, stack: Stack, call: Call, *, of_ours: bool) -> Iterator[Call]:
        """The calls to KMS that a call needs, since its resource is encrypted."""
        uses = ("kms:Decrypt",) if call.action.startswith("dynamodb:") else USES_OF_KEYS.get(call.action, ())
        for key in self._keys_of(stack, call, of_ours=of_ours) if uses else ():
            for action in uses:
                yield Call(call.role, action, key)

    def _keys_of(self, stack: Stack, call: Call, *, of_ours: bool) -> set[str]:
        """The keys with which the resource of a call can be encrypted."""
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
        """The keys of objects: the stack bucket's key, the keys of data in other buckets, or the key of our writes."""
        names, main, value_of = stack.names, self.stacks[MAIN].names, self.facts(stack)
        if "SourceKmsKeyArn" in names:
            return {names["SourceKmsKeyArn"]} - {""}
        is_own = call.resource.split("/")[0] in (value_of("bucket"), value_of("contents"))
        of_bucket = {names.get("KmsKeyArn", main["KmsKeyArn"])} if is_own else {*names.get("DataKeyArns", ())}
        of_writes = {main["WriteEncryption"], names.get("WriteEncryption", "")} - {"", "AES256"}
        if call.action == "s3:PutObject":
            return (of_writes if of_ours and of_writes else of_bucket) - {""}
        return (of_bucket | of_writes) - {""}


def _arn(service: str, name: str) -> str:
    return f"arn:aws:{service}:{OF_REGION}:{name}"


def _tables(databases: str) -> str:
    return ",".join(f"{each}/*" for each in databases.replace(":database/", ":table/").split(",") if each)


def _beside(stack: Stack) -> dict[str, Any]:
    """Values by name that are derived from a stack's own parameters; "" where they do not apply."""
    own = stack.arn
    token, answers, contents = own("RemoteTokenArn"), own("ExistingLedgerTable"), own("ExistingBucketName")
    source, repository = own("SourceBucket"), own("ExistingRepositoryName")
    by_iam = own("KafkaClusterArn") if not own("KafkaSecretArn") else ""
    gives_up = own("StreamArn") or own("KafkaPollers") not in ("", "0")
    destinations = {
        f"{parameter}_{service}": own(parameter) if f":{service}:" in own(parameter) else ""
        for parameter in DESTINATIONS
        for service, _ in SENT
    }
    return {
        **destinations,
        "token_secret": token if ":secretsmanager:" in token else "",
        "token_parameter": token if ":ssm:" in token else "",
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


def _filled(pattern: str, value_of: Any) -> list[str]:
    """The texts of a pattern, with each value in place of each name in braces; [] if a name has no value."""
    texts = [pattern]
    for name in re.findall(r"\{(\w+)\}", pattern):
        value = value_of(name)
        values = value if isinstance(value, list) else str(value).split(",")
        texts = [text.replace(f"{{{name}}}", str(one)) for text in texts for one in values if one]
    return texts


def _keys(pair: tuple[str, str], value_of: Any) -> Iterator[tuple[str, str]]:
    key, text = pair
    yield key.lower(), (_filled(text, value_of) or [text])[0].replace("*", "x")


def allowed(call: Call, statements: list[Any]) -> bool:
    """Whether the stand-in's evaluator allows a call."""
    keys: dict[str, Any] = {**call.keys}
    for key in keys.keys() & {"dynamodb:leadingkeys"}:
        keys[key] = [keys[key]]
    request = EvalContext(
        principal_arn=f"arn:aws:sts::{ACCOUNT}:assumed-role/{call.role}/session",
        principal_type="AssumedRole",
        principal_account=ACCOUNT,
        action=call.action,
        resource_arn=call.resource,
        region=REGION,
        secure_transport=True,
        service_context=keys,
    )
    verdict: str = evaluate(request, [parse_policy_document({"Statement": statements})]).decision
    return verdict == "Allow"


def refusals(world: World, place: tuple[str, str]) -> set[str]:
    """The calls that a role's policies do not allow."""
    return {
        f"{call.action} on {call.resource} {dict(call.keys) or ''}".strip()
        for call in world.calls(place)
        if not allowed(call, world.statements[place])
    }


def unused(world: World, place: tuple[str, str]) -> set[str]:
    """The grants of a role's policies that no call needs; a call needs only the narrowest grant that covers it."""
    every, needed = world.granted(place), set()
    for call in world.calls(place):
        covering = [grant for grant in every if grant.covers(call)]
        narrowest = max((_narrowness(grant) for grant in covering), default=0)
        needed |= {str(grant) for grant in covering if _narrowness(grant) == narrowest}
    return {str(grant) for grant in every} - needed


def _narrowness(grant: Grant) -> int:
    return len("".join((grant.resource, *(pattern for _, pattern in grant.conditions))).replace("*", ""))


def named_calls(place: tuple[str, str], values: Mapping[str, str]) -> Iterator[Grant]:
    """The calls that ``docs.calls`` names for a role, as grants with patterns; ``values`` has the names in braces."""
    _, role = place
    for use in ROLES[place]:
        for call in use.calls:
            for action in actions_of(call):
                for pattern in use.on:
                    for resource in _filled(pattern, lambda name: values.get(name, "")):
                        prefix = (("s3:prefix", use.keys["s3:prefix"]),) if "s3:prefix" in use.keys else ()
                        yield Grant(role, "", action, resource, prefix)
