"""Spark clusters as engines: standalone, Spark Connect."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sparklet.engines.spark_platform import not_handed_on
from sparklet.engines.unusable import Unusable
from sparklet.errors import RemoteTaskError
from sparklet.model import Failure
from sparklet.ports import Engine
from sparklet.settings import Engines

CLUSTERS = {"standalone": ("master", "spark://"), "connect": ("remote", "sc://")}  # by what they are addressed


def clusters_of(
    named: Engines, tasks: Engine | None, functions: Callable[[], Mapping[str, str]] = dict
) -> dict[str, Engine]:
    """The Spark clusters among the named engines; ``tasks`` starts their workers. A wrong one is ``Unusable``."""
    made: dict[str, Engine] = {}
    for name in named.keys() & CLUSTERS.keys():
        key, scheme = CLUSTERS[name]
        if not str(named[name].get(key, "")).startswith(scheme) or "token=" in str(named[name]):
            made[name] = Unusable(f'SPARKLET_ENGINES: {name} needs "{key}": "{scheme}HOST:PORT", without a token')
        elif tasks is None:
            made[name] = Unusable(f"SPARKLET_ENGINES: {name} needs fargate, too, where its workers run")
        else:
            conf = {f"spark.{key}": named[name][key], **named[name].get("conf", {})}
            made[name] = ClusterTasks(tasks, conf, functions)
    return made


@dataclass(frozen=True)
class ClusterTasks(Engine):
    """An engine whose workers, which ``tasks`` starts, let a Spark cluster run their scripts."""

    tasks: Engine
    conf: Mapping[str, str]  # Spark's
    functions: Callable[[], Mapping[str, str]] = dict

    def start(self, token: str, command: Sequence[str]) -> str:
        """Start a worker that knows the cluster."""
        if why := self.unfit(""):  # it was not so when the run was planned
            raise RemoteTaskError(why)
        conf = (word for key, value in self.conf.items() for word in ("--conf", f"{key}={value}"))
        return self.tasks.start(token, (*command, *conf))

    def stopped(self, task_ids: Sequence[str]) -> Mapping[str, Failure]:
        """Of the workers."""
        return self.tasks.stopped(task_ids)

    def stop(self, task_id: str) -> None:
        """Stop the worker, and with it the script."""
        self.tasks.stop(task_id)

    def unfit(self, table_format: str) -> str:
        """Rows for a table are staged through the JVM, which Spark Connect has not; its sessions are the server's."""
        is_remote = "spark.remote" in self.conf
        if table_format and is_remote:
            return "Spark Connect gives a script no JVM, by which rows for a table are staged"
        return not_handed_on(self.functions(), self.conf, ("spark.",) if is_remote else ())
