"""A Spark cluster as an engine: a worker in Fargate, or in the local stack, has the cluster run its scripts.

Standalone: the script is a driver in client mode. Connect: the script is a client of the server.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sparklet.engines.spark_platform import missing_setting
from sparklet.errors import RemoteTaskError
from sparklet.model import Failure
from sparklet.ports import Engine


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
        """Connect is unfit for tables: rows are staged through the JVM, and a Connect session has none."""
        is_remote = "spark.remote" in self.conf
        if table_format and is_remote:
            return "Spark Connect gives a script no JVM, by which rows for a table are staged"
        if is_remote and self.script_settings().get("SPARKLET_WRITE_ENCRYPTION"):
            return "a server of Spark Connect encrypts as it is set up, not by the stack's WriteEncryption"
        return missing_setting(self.script_settings(), self.conf, ("spark.",) if is_remote else ())
