"""Calls by Py4J to a JVM: prepare it for its first script, log in to Hadoop, cancel jobs, use a kept context.

``prepare`` runs in the process of the JVM's first script, before it. Inside the JVM ``WarmJvm.java``, from then on
Py4J's entry point, does the work.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from py4j import java_gateway
from py4j.java_gateway import GatewayParameters, JavaGateway, JavaObject, PythonProxyPool
from py4j.protocol import Py4JError

from sparklet.job.spark_lines import accumulator_servers
from sparklet.spark.java_classes import are_ahead, class_loader, compiled
from sparklet.spark.processes import has_name

CANCEL_POLL_S = 0.1
PACKAGES = {  # that PySpark and scripts name most
    *("java", "java.io", "java.lang", "java.net", "java.util", "org", "org.apache", "py4j", "py4j.reflection", "scala"),
    *(f"org.apache.{name}" for name in ("hadoop", "hadoop.conf", "hadoop.fs", "hadoop.util", "spark", "spark.api")),
    *(f"org.apache.spark.{name}" for name in ("api.python", "sql", "sql.types", "util")),
}
NAMELESS = "sparklet"  # Hadoop's name for a user without a line in passwd: it does not start without one


@contextlib.contextmanager
def connected(port: int, secret: str) -> Iterator[JavaGateway]:
    """A client of the JVM at ``port``."""
    client = JavaGateway(  # not PySpark's ClientServer, which would leave a thread in the script
        gateway_parameters=GatewayParameters(
            port=port, auth_token=secret, auto_convert=True, enable_memory_management=False
        )
    )
    try:
        yield client
    finally:
        client.close()  # our side only: shutdown() would end the JVM's


def prepare(port: int, secret: str, properties: str, *, keep: bool, restored: bool) -> None:
    """Prepare the JVM for its first script; for later ones the worker does so (``Jvm.prepare``).

    ``properties``: ``encoded``; ``keep``: contexts outlive their tasks; ``restored``: random states are renewed.
    """
    with connected(port, secret) as client:
        log_in(client)
        _install(client, keep)
        if restored:
            client.entry_point.reseed(int.from_bytes(os.urandom(8), "big", signed=True))
        client.entry_point.prepare(properties)


def cancel_jobs(port: int, secret: str) -> None:
    """Cancel Spark's jobs, and those that begin later, until this process is ended.

    What runs in the driver's own thread, such as the commit to a table after its job, goes on.
    """
    with connected(port, secret) as client:
        while True:
            with contextlib.suppress(Py4JError):  # the context or the JVM ends meanwhile
                for context in _contexts(client):
                    context.cancelAllJobs()
            time.sleep(CANCEL_POLL_S)


def stop_context(client: JavaGateway) -> None:
    """Stop the JVM's SparkContext, if it has one, with all its jobs."""
    for context in _contexts(client):
        context.stop()


def _contexts(client: JavaGateway) -> list[Any]:
    """The JVM's SparkContext, if it has one."""
    active = getattr(getattr(client.jvm.org.apache.spark, "SparkContext$"), "MODULE$").getActive()
    return [active.get()] if active.isDefined() else []


class _OwnProxies(PythonProxyPool):  # type: ignore[misc] # Py4J has no types
    """Gives callbacks ids that no earlier process gave.

    When Java collects a callback of an earlier script, it tells the present one by the id: with Py4J's p0, p1, … the
    present script's own would be gone (``Object ID unknown`` in ``foreachBatch``).
    """

    def __init__(self) -> None:
        super().__init__()
        self.next_id = int.from_bytes(os.urandom(8), "big")


def own_callbacks() -> None:
    """Keep Java from mistaking a script's callbacks for those of an earlier script."""
    java_gateway.PythonProxyPool = _OwnProxies


def remember_names() -> None:
    """Ask Java once for a class, and never whether one has a usual package's name: it would look into 250 jars.

    Py4J asks for each part of a class's name, at each use: a small script's 123 questions are 23.
    """
    Package, View = java_gateway.JavaPackage, java_gateway.JVMView  # noqa: N806 - classes
    in_view, in_package, classes = View.__getattr__, Package.__getattr__, dict[tuple[Any, str], Any]()

    def of_view(self: Any, name: str) -> Any:
        return Package(name, self._gateway_client, self._id) if name in PACKAGES else in_view(self, name)

    def of_package(self: Any, name: str) -> Any:
        whole = f"{self._fqn}.{name}"
        if whole in PACKAGES:
            return Package(whole, self._gateway_client, self._jvm_id)
        member = classes.get((self._gateway_client, whole)) or in_package(self, name)
        if isinstance(member, java_gateway.JavaClass):
            classes[self._gateway_client, whole] = member
        return member

    View.__getattr__, Package.__getattr__ = of_view, of_package


def keep_contexts() -> None:
    """Let this process use the kept context of Java.

    Python's SparkContext is new for each script, Java's need not be: ``WarmJvm.java`` replaces PySpark's calls that
    make and stop it. PySpark itself renews everything else, such as the environment of Python's workers.
    """
    from pyspark import SparkConf, SparkContext, accumulators

    stop, one_by_one = SparkContext.stop, SparkConf.getAll

    def acquire(self: SparkContext, jconf: Any) -> Any:
        assert self._gateway is not None
        return self._gateway.entry_point.context(jconf)

    def release(self: SparkContext) -> None:
        if getattr(self, "_jsc", None):
            assert self._gateway is not None
            self._gateway.entry_point.release()
            self._jsc = None
        stop(self)  # now without effect in the JVM

    def get_all(self: SparkConf) -> list[tuple[str, str]]:
        """All in one call, where PySpark makes four a key, twice for each session."""
        if self._jconf is None or SparkContext._gateway is None:
            return list(one_by_one(self))
        words = SparkContext._gateway.entry_point.entries(self._jconf).split("\0")
        return list(zip(words[:-1:2], words[1::2], strict=True))

    def shutdown(self: Any) -> None:
        """Do not wait for a thread that checks only every half second, or every second while it reads."""
        self.server_shutdown = True
        self._BaseServer__shutdown_request = True
        self.server_close()  # the thread dies with this process

    SparkContext._initialize_context = with_inferred_types(acquire)
    SparkContext.stop = release
    SparkConf.getAll = get_all
    for server in accumulator_servers(accumulators):
        server.shutdown = shutdown  # type: ignore[attr-defined]


def with_inferred_types(initialize: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A maker of Java's contexts, in whose sessions ``InferredTypes.java`` looks at plans, whatever a script adds."""

    def initialize_with_rule(self: Any, jconf: Any) -> Any:
        if jconf.get("spark.sql.sources.commitProtocolClass", "") == "AttemptCommit":  # our Java is there
            # Not as a default of Spark: that would be lost where a script sets extensions of its own.
            others = jconf.get("spark.sql.extensions", "")
            jconf.set("spark.sql.extensions", f"InferredTypes,{others}".rstrip(","))
        return initialize(self, jconf)

    return initialize_with_rule


def _install(client: JavaGateway, keep: bool) -> None:
    """Make ``WarmJvm`` Py4J's entry point, with what the JVM was before any task; compile it unless that was done."""
    jvm: Any = client.jvm
    ahead, loader = are_ahead(jvm), class_loader(jvm)
    for name in () if ahead else ("JvmState", "WarmJvm"):
        loader = compiled(jvm, name, loader).getClassLoader()
    server = JavaObject("GATEWAY_SERVER", client._gateway_client)
    # Hadoop's login is reset after each task, so WarmJvm must know the name, too.
    warm_jvm = _made(client, loader.loadClass("WarmJvm"), server, "" if has_name() else NAMELESS)
    if keep:
        for name in () if ahead else ("SparkInsides", "KeptContext"):
            loader = compiled(jvm, name, loader).getClassLoader()
        kind = loader.loadClass("KeptContext")
        warm_jvm.keep(_made(client, kind, jvm.java.lang.System.getProperty("java.io.tmpdir")))


def _made(client: JavaGateway, kind: Any, *values: Any) -> Any:
    """An object of a class that Py4J cannot find by its name."""
    arguments = client.new_array(client.jvm.java.lang.Object, len(values))
    for index, value in enumerate(values):
        arguments[index] = value
    return kind.getConstructors()[0].newInstance(arguments)


def log_in(client: JavaGateway) -> None:
    """Log in to Hadoop with a name if passwd has none."""
    if not has_name():  # its own login would fail: ``LoginException: invalid null input: name``
        users: Any = client.jvm.org.apache.hadoop.security.UserGroupInformation
        users.setLoginUser(users.createRemoteUser(NAMELESS))
