"""The engines that a stack's settings name."""

from collections.abc import Mapping

from sparklet.aws.clients import AwsClients
from sparklet.aws.clusters import CLUSTERS, clusters_of
from sparklet.aws.containers import tasks_of_shards
from sparklet.aws.spark_jobs import EmrServerlessJobs, EmrSteps, GlueJobRuns
from sparklet.errors import SettingsError
from sparklet.ports import Engine
from sparklet.settings import Engines

FARGATE, PLATFORMS = "fargate", {"emr-serverless": EmrServerlessJobs, "emr": EmrSteps, "glue": GlueJobRuns}


def engines_of(clients: AwsClients, named: Engines, env: Mapping[str, str]) -> Mapping[str, Engine]:
    """The named engines, in their order; ``env``: their workers' settings. SettingsError if one is not whole."""
    made: dict[str, Engine] = {}
    for name in named.keys() - CLUSTERS.keys():
        try:
            if name == FARGATE:
                made[name] = tasks_of_shards(clients, named[name])
            else:
                made[name] = PLATFORMS[name](clients=clients, env=env, **named[name])
        except (KeyError, TypeError) as error:
            raise SettingsError(f"SPARKLET_ENGINES names no whole engine {name}: {error}") from error
    made |= clusters_of(named, made.get(FARGATE))
    return {name: made[name] for name in named}
