"""Spark clusters as engines: standalone, and Spark Connect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparklet.errors import SettingsError
from sparklet.model import Failure
from sparklet.ports import Engine
from sparklet.settings import Engines

CLUSTERS = {"standalone": ("master", "spark://"), "connect": ("remote", "sc://")}  # by what they are addressed


@dataclass(frozen=True)
class ClusterTasks(Engine):
    """An engine whose workers, which ``tasks`` starts, let a Spark cluster run their scripts."""

    tasks: Engine
    conf: Mapping[str, str]  # Spark's

    def start(self, token: str, command: Sequence[str]) -> str:
        """Start a worker that knows the cluster."""
        conf = (word for key, value in self.conf.items() for word in ("--conf", f"{key}={value}"))
        return self.tasks.start(token, (*command, *conf))

    def stopped(self, task_ids: Sequence[str]) -> Mapping[str, Failure]:
        """Of the workers."""
        return self.tasks.stopped(task_ids)

    def stop(self, task_id: str) -> None:
        """Stop the worker, and with it the script."""
        self.tasks.stop(task_id)

    def unfit(self, table_format: str) -> str:
        """Rows for a table are staged through the JVM, which Spark Connect has not."""
        lacks_jvm = table_format and "spark.remote" in self.conf
        return "Spark Connect gives a script no JVM, by which rows for a table are staged" if lacks_jvm else ""


def clusters_of(named: Engines, tasks: Engine | None) -> dict[str, Engine]:
    """The Spark clusters among the named engines; ``tasks`` starts their workers. SettingsError if one is wrong."""
    made: dict[str, Engine] = {}
    for name in named.keys() & CLUSTERS.keys():
        key, scheme = CLUSTERS[name]
        if not str(named[name].get(key, "")).startswith(scheme) or "token=" in str(named[name]):
            raise SettingsError(f'SPARKLET_ENGINES: {name} needs "{key}": "{scheme}HOST:PORT", without a token')
        if tasks is None:
            raise SettingsError(f"SPARKLET_ENGINES: {name} needs fargate, too, where its workers run")
        made[name] = ClusterTasks(tasks, {f"spark.{key}": named[name][key], **named[name].get("conf", {})})
    return made
