"""The table of engines, and those that a stack's settings name."""

from collections.abc import Callable, Mapping

from sparklet.aws.clients import AwsClients
from sparklet.engines.clusters import CLUSTERS, clusters_of
from sparklet.engines.emr import EmrSteps
from sparklet.engines.emr_serverless import EmrServerlessJobs
from sparklet.engines.fargate import FargateTasks
from sparklet.engines.glue import GlueJobRuns
from sparklet.engines.unusable import Unusable
from sparklet.ports import Engine
from sparklet.settings import Engines

FARGATE = "fargate"
ENGINES: Mapping[str, Callable[..., Engine]] = {
    FARGATE: FargateTasks.named,
    "emr-serverless": EmrServerlessJobs,
    "emr": EmrSteps,
    "glue": GlueJobRuns,
}
"""Each takes ``clients``, ``env``, ``script_settings``, and its own part of SPARKLET_ENGINES; see also ``CLUSTERS``."""


def engines_of(
    clients: AwsClients, named: Engines, env: Mapping[str, str], script_settings: Callable[[], Mapping[str, str]] = dict
) -> Mapping[str, Engine]:
    """The named engines, in their order; one whose settings are incomplete is ``Unusable``.

    Their workers get ``env`` and the functions' ``script_settings``.
    """
    made: dict[str, Engine] = {}
    given = {"clients": clients, "env": env, "script_settings": script_settings}
    for name in named.keys() - CLUSTERS.keys():
        try:
            made[name] = ENGINES[name](**given, **named[name])
        except (KeyError, TypeError) as error:
            made[name] = Unusable(f"SPARKLET_ENGINES: the settings of {name} are unknown or incomplete: {error}")
    made |= clusters_of(named, made.get(FARGATE), script_settings)
    return {name: made[name] for name in named}
