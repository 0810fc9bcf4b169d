"""The engines of AWS that a stack's settings name."""

from collections.abc import Mapping

from sparklet.aws.clients import AwsClients
from sparklet.aws.containers import tasks_of_shards
from sparklet.errors import SettingsError
from sparklet.ports import Engine
from sparklet.settings import Engines

_MAKERS = {"fargate": tasks_of_shards}


def engines_of(clients: AwsClients, named: Engines, bucket: str) -> Mapping[str, Engine]:
    """The named engines, in their order; they keep the worker in ``bucket``.

    SettingsError names one that does not exist, or a setting that it lacks.
    """
    made = {}
    for name, of in named.items():
        try:
            made[name] = _MAKERS[name](clients, of)
        except KeyError as error:
            raise SettingsError(f"SPARKLET_ENGINES: {name} lacks {error}, or is none of {', '.join(_MAKERS)}") from None
    return made
