"""An example of each engine of AWS: the template's parameters for it, and how to create it on the stand-in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sparklet.aws.clients import AwsClients
from tests.stand_ins.emr_serverless import ROLE, EmrServerless

REGION, ACCOUNT = "us-east-1", "111122223333"
OF_REGION = f"{REGION}:{ACCOUNT}"
Made = tuple[AwsClients, Mapping[str, Any]]


@dataclass(frozen=True)
class Example:
    """An example of an engine."""

    parameters: Mapping[str, str]  # of sam/template.yaml
    # Creates the engine under a name; returns clients that know it, and its entry in SPARKLET_ENGINES.
    make: Callable[[AwsClients, str], Made]
    platform: tuple[str, str] = ("", "")  # the service and resource type of the first parameter, for Spark's platforms


def _fargate(clients: AwsClients, own: str) -> Made:
    clients.ecs.create_cluster(clusterName=own)
    clients.ecs.register_task_definition(
        family="sparklet-shard",
        containerDefinitions=[{"name": "sparklet-shard", "image": "local"}],
        requiresCompatibilities=["FARGATE"],
        networkMode="awsvpc",
        cpu="1024",
        memory="2048",
    )
    network = {"subnets": "subnet-1,subnet-2", "securityGroups": "sg-1", "assignPublicIp": "DISABLED"}
    return clients, {"cluster": own, "taskDefinition": "sparklet-shard", **network}


class WithEmrServerless(AwsClients):
    """Clients with EMR Serverless in memory, which the emulator does not have."""

    @cached_property
    def emr_serverless(self) -> EmrServerless:
        return EmrServerless()


def _emr_serverless(clients: AwsClients, own: str) -> Made:
    with_emr_serverless = WithEmrServerless(endpoint_url=clients.s3.meta.endpoint_url)
    return with_emr_serverless, {"application": "00f1", "role": ROLE}


def _emr(clients: AwsClients, own: str) -> Made:
    instances = {"MasterInstanceType": "m5.xlarge", "InstanceCount": 1, "KeepJobFlowAliveWhenNoSteps": True}
    cluster = clients.emr.run_job_flow(Name=own, ReleaseLabel="emr-7.13.0", Instances=instances)
    return clients, {"cluster": cluster["JobFlowId"]}


def _glue(clients: AwsClients, own: str) -> Made:
    clients.glue.create_job(Name=own, Role=ROLE, Command={"Name": "glueetl"}, GlueVersion="5.0")
    return clients, {"job": own}


EXAMPLES: Mapping[str, Example] = {
    "fargate": Example(
        {
            "FargateTaskDefinition": f"arn:aws:ecs:{OF_REGION}:task-definition/sparklet-shard:1",
            "FargateCluster": "jobs",
            "FargateRoleArns": f"arn:aws:iam::{ACCOUNT}:role/start,arn:aws:iam::{ACCOUNT}:role/task",
        },
        _fargate,
    ),
    "emr": Example({"EmrClusterId": "j-1AB"}, _emr, ("elasticmapreduce", "cluster/")),
    "emr-serverless": Example(
        {"EmrServerlessApplicationId": "00f1abc", "EmrServerlessRoleArn": f"arn:aws:iam::{ACCOUNT}:role/jobs"},
        _emr_serverless,
        ("emr-serverless", "/applications/"),
    ),
    "glue": Example({"GlueJobName": "shards"}, _glue, ("glue", "job/")),
}
