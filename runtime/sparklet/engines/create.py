"""The table of engines, and those that a stack's settings name.

A Spark cluster is one, too: a worker in Fargate, or in the local stack, has the cluster run its scripts. Standalone:
the script is a driver in client mode. Connect: the script is a client of the server.
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
"""The setting that has a cluster's address, and the address' scheme."""


@dataclass(frozen=True)
class Unusable(Engine):
    """An engine with wrong settings: it is refused by name, and the other engines work."""

    why: str

    def start(self, token: str, command: Sequence[str]) -> str:
        """Raise SettingsError."""
        raise SettingsError(self.why)

    def stop(self, task_id: str) -> None:
        """Do nothing."""

    def unfit(self, table_format: str) -> str:
        """Why it is unfit for every run: its settings."""
        return self.why


@dataclass(frozen=True)
class SparkCluster(Engine):
    """An engine whose workers, which ``workers`` starts, have a Spark cluster run their scripts."""

    workers: Engine
    conf: Mapping[str, str]  # Spark's
    script_settings: Callable[[], Mapping[str, str]] = dict

    def start(self, token: str, command: Sequence[str]) -> str:
        """Start a worker with the cluster's address."""
        if why := self.unfit(""):  # the functions' settings may have changed since the run was planned
            raise RemoteTaskError(why)
        conf = (word for key, value in self.conf.items() for word in ("--conf", f"{key}={value}"))
        return self.workers.start(token, (*command, *conf))

    def stopped(self, task_ids: Sequence[str]) -> Mapping[str, Failure]:
        """Which workers have stopped."""
        return self.workers.stopped(task_ids)

    def stop(self, task_id: str) -> None:
        """Stop the worker, and with it the script."""
        self.workers.stop(task_id)

    def unfit(self, table_format: str) -> str:
        """Why Connect is unfit for tables: rows are staged through the JVM, and a Connect session has none."""
        is_remote = "spark.remote" in self.conf
        if table_format and is_remote:
            return "Spark Connect gives a script no JVM, by which rows for a table are staged"
        if is_remote and self.script_settings().get("SPARKLET_WRITE_ENCRYPTION"):
            return "a server of Spark Connect encrypts as it is set up, not by the stack's WriteEncryption"
        return missing_setting(self.script_settings(), self.conf, ("spark.",) if is_remote else ())


def engines_of(
    clients: AwsClients, named: Engines, env: Mapping[str, str], script_settings: Callable[[], Mapping[str, str]] = dict
) -> Mapping[str, Engine]:
    """The named engines, in the order of ``auto``; one whose settings are incomplete is ``Unusable``.

    Their workers get ``env`` and the functions' ``script_settings``.
    """
    made: dict[str, Engine] = {}
    arguments = {"clients": clients, "env": env, "script_settings": script_settings}
    for name in named.keys() - CLUSTERS.keys():
        try:
            made[name] = KINDS[name].make(**arguments, **named[name])
        except (KeyError, TypeError) as error:
            made[name] = Unusable(f"SPARKLET_ENGINES: the settings of {name} are unknown or incomplete: {error}")
    made |= clusters_of(named, made.get(FARGATE), script_settings)
    return {name: made[name] for name in (*KINDS, *made) if name in made}


OF_CLUSTERS = Kind(
    make=SparkCluster, about="a Fargate task that uses [a cluster](#a-spark-cluster)", hours=fargate.KIND.hours
)
KINDS: Mapping[str, Kind] = {
    LARGE: lambda_large.KIND,
    "emr": emr.KIND,
    FARGATE: fargate.KIND,
    **dict.fromkeys(CLUSTERS, OF_CLUSTERS),
    "emr-serverless": emr_serverless.KIND,
    "glue": glue.KIND,
}
"""Every engine of AWS, by its name in SPARKLET_ENGINES, in the order of ``auto``: by the price of an hour."""


def clusters_of(
    named: Engines, workers: Engine | None, script_settings: Callable[[], Mapping[str, str]] = dict
) -> dict[str, Engine]:
    """The Spark clusters among the named engines; ``workers`` starts their workers. A wrong one is ``Unusable``."""
    made: dict[str, Engine] = {}
    for name in named.keys() & CLUSTERS.keys():
        key, scheme = CLUSTERS[name]
        if not str(named[name].get(key, "")).startswith(scheme) or "token=" in str(named[name]):
            made[name] = Unusable(f'SPARKLET_ENGINES: {name} needs "{key}": "{scheme}HOST:PORT", without a token')
        elif workers is None:
            made[name] = Unusable(f"SPARKLET_ENGINES: {name} needs fargate, too, where its workers run")
        else:
            conf = {f"spark.{key}": named[name][key], **named[name].get("conf", {})}
            made[name] = SparkCluster(workers, conf, script_settings)
    return made
