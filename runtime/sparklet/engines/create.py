"""The engines that a stack's settings name."""

from collections.abc import Callable, Mapping

from sparklet.aws.clients import AwsClients
from sparklet.engines.clusters import CLUSTERS, clusters_of
from sparklet.engines.emr import EmrSteps
from sparklet.engines.emr_serverless import EmrServerlessJobs
from sparklet.engines.fargate import tasks_of_shards
from sparklet.engines.glue import GlueJobRuns
from sparklet.engines.unusable import Unusable
from sparklet.ports import Engine
from sparklet.settings import Engines

FARGATE = "fargate"
PLATFORMS = {"emr-serverless": EmrServerlessJobs, "emr": EmrSteps, "glue": GlueJobRuns}


def engines_of(
    clients: AwsClients, named: Engines, env: Mapping[str, str], functions: Callable[[], Mapping[str, str]] = dict
) -> Mapping[str, Engine]:
    """The named engines, in their order; one that is not whole is ``Unusable``.

    Their workers get ``env``, and ``functions``, the settings that scripts have in the functions.
    """
    made: dict[str, Engine] = {}
    for name in named.keys() - CLUSTERS.keys():
        try:
            if name == FARGATE:
                made[name] = tasks_of_shards(clients, named[name], functions)
            else:
                made[name] = PLATFORMS[name](clients=clients, env=env, functions=functions, **named[name])
        except (KeyError, TypeError) as error:
            made[name] = Unusable(f"SPARKLET_ENGINES names no whole engine {name}: {error}")
    made |= clusters_of(named, made.get(FARGATE), functions)
    return {name: made[name] for name in named}
