"""The table of all engines; creates those that a stack's settings name.

A Spark cluster is an engine, too: a worker in Fargate, or in the local stack, has the cluster run its scripts. With a
standalone cluster the script is a driver in client mode; with Spark Connect it is a client of the server.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sparklet.aws.clients import AwsClients
from sparklet.engines import Kind, emr, emr_serverless, fargate, glue, lambda_large
from sparklet.engines.spark_platform import missing_setting
from sparklet.errors import RemoteTaskError, SettingsError
from sparklet.model import Failure
from sparklet.model.options import LARGE
from sparklet.ports import Engine
from sparklet.settings import Engines

FARGATE = "fargate"
CLUSTERS = {"standalone": ("master", "spark://"), "connect": ("remote", "sc://")}
"""For each type of cluster: the setting that holds its address, and the scheme of that address."""


@dataclass(frozen=True)
class Unusable(Engine):
    """An engine with wrong settings. Runs that name it are refused; the other engines work."""

    why: str

    def start(self, token: str, command: Sequence[str]) -> str:
        """Raise SettingsError."""
        raise SettingsError(self.why)

    def stop(self, task_id: str) -> None:
        """Do nothing."""

    def unfit(self, table_format: str) -> str:
        """Why no run can use this engine: what is wrong with its settings."""
        return self.why


@dataclass(frozen=True)
class SparkCluster(Engine):
    """An engine that has a Spark cluster run its workers' scripts; another engine, ``workers``, starts the workers."""

    workers: Engine
    conf: Mapping[str, str]  # Spark settings, with the cluster's address
    script_settings: Callable[[], Mapping[str, str]] = dict

    def start(self, token: str, command: Sequence[str]) -> str:
        """Start a worker with the cluster's address."""
        # Checked again, since the functions' settings may have changed after the run was planned.
        if why := self.unfit(""):
            raise RemoteTaskError(why)
        conf = (word for key, value in self.conf.items() for word in ("--conf", f"{key}={value}"))
        return self.workers.start(token, (*command, *conf))

    def stopped(self, task_ids: Sequence[str]) -> Mapping[str, Failure]:
        """The workers that have stopped, with the causes."""
        return self.workers.stopped(task_ids)

    def stop(self, task_id: str) -> None:
        """Stop the worker, and with it the script."""
        self.workers.stop(task_id)

    def unfit(self, table_format: str) -> str:
        """Why the cluster cannot run such shards: Connect has no JVM here, or a setting is missing. "" if it can."""
        is_connect = "spark.remote" in self.conf
        if table_format and is_connect:
            return "rows for a table are staged through the script's JVM, and with Spark Connect a script has none"
        if is_connect and self.script_settings().get("SPARKLET_WRITE_ENCRYPTION"):
            return "a Spark Connect server encrypts by its own settings, not by the stack's WriteEncryption"
        return missing_setting(self.script_settings(), self.conf, ("spark.",) if is_connect else ())


def engines_of(
    clients: AwsClients, named: Engines, env: Mapping[str, str], script_settings: Callable[[], Mapping[str, str]] = dict
) -> Mapping[str, Engine]:
    """The engines that SPARKLET_ENGINES (``named``) names, in the order of ``auto``.

    An engine whose settings are incomplete is ``Unusable``. Workers get ``env`` and the functions' ``script_settings``.
    """
    engines: dict[str, Engine] = {}
    arguments = {"clients": clients, "env": env, "script_settings": script_settings}
    for name in named.keys() - CLUSTERS.keys():
        try:
            engines[name] = KINDS[name].make(**arguments, **named[name])
        except (KeyError, TypeError) as error:
            engines[name] = Unusable(f"SPARKLET_ENGINES: the settings of {name} are unknown or incomplete: {error}")
    engines |= clusters_of(named, engines.get(FARGATE), script_settings)
    return {name: engines[name] for name in (*KINDS, *engines) if name in engines}


CLUSTER_KIND = Kind(
    make=SparkCluster, about="a Fargate task that uses [a cluster](#a-spark-cluster)", hours=fargate.KIND.hours
)
KINDS: Mapping[str, Kind] = {
    LARGE: lambda_large.KIND,
    "emr": emr.KIND,
    FARGATE: fargate.KIND,
    **dict.fromkeys(CLUSTERS, CLUSTER_KIND),
    "emr-serverless": emr_serverless.KIND,
    "glue": glue.KIND,
}
"""All engines in AWS by their names in SPARKLET_ENGINES, in the order of ``auto``, which is that of an hour's price."""


def clusters_of(
    named: Engines, workers: Engine | None, script_settings: Callable[[], Mapping[str, str]] = dict
) -> dict[str, Engine]:
    """The Spark clusters among the engines in ``named``; a cluster with wrong settings is ``Unusable``.

    ``workers`` is the engine that starts their workers.
    """
    clusters: dict[str, Engine] = {}
    for name in named.keys() & CLUSTERS.keys():
        key, scheme = CLUSTERS[name]
        if not str(named[name].get(key, "")).startswith(scheme) or "token=" in str(named[name]):
            clusters[name] = Unusable(f'SPARKLET_ENGINES: {name} needs "{key}": "{scheme}HOST:PORT", without a token')
        elif workers is None:
            clusters[name] = Unusable(f"SPARKLET_ENGINES: {name} also needs fargate, where the cluster's workers run")
        else:
            conf = {f"spark.{key}": named[name][key], **named[name].get("conf", {})}
            clusters[name] = SparkCluster(workers, conf, script_settings)
    return clusters
