"""Calls to a JVM by Py4J: prepare it for its first script, log in to Hadoop, cancel jobs, use a kept context.

``prepare`` runs in the process of the JVM's first script, before the script. It makes ``WarmJvm.java`` Py4J's entry
point, which does the work inside the JVM.
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
from sparklet.spark.java_classes import are_ahead, class_loader, compile_class
from sparklet.spark.processes import has_name

CANCEL_POLL_S = 0.1
PACKAGES = {  # the packages that PySpark and scripts name most
    *("java", "java.io", "java.lang", "java.net", "java.util", "org", "org.apache", "py4j", "py4j.reflection", "scala"),
    *(f"org.apache.{name}" for name in ("hadoop", "hadoop.conf", "hadoop.fs", "hadoop.util", "spark", "spark.api")),
    *(f"org.apache.spark.{name}" for name in ("api.python", "sql", "sql.types", "util")),
}
NAMELESS = "sparklet"  # the user name for Hadoop if passwd does not name the user: without one Hadoop does not start


@contextlib.contextmanager
def connected(port: int, secret: str) -> Iterator[JavaGateway]:
    """A Py4J client of the JVM at ``port``, which is closed after the block."""
    client = JavaGateway(  # not PySpark's ClientServer, which would leave a thread in the script
        gateway_parameters=GatewayParameters(
            port=port, auth_token=secret, auto_convert=True, enable_memory_management=False
        )
    )
    try:
        yield client
    finally:
        client.close()  # closes only our side, while shutdown() would end the JVM's server


def prepare(port: int, secret: str, properties: str, *, keep: bool, restored: bool) -> None:
    """Prepare the JVM for its first script; for later scripts the worker does so (``Jvm.prepare``).

    ``properties`` are a text of ``encode_properties``. With ``keep``, contexts outlive their tasks. With ``restored``,
    the JVM's random states are renewed.
    """
    with connected(port, secret) as client:
        log_in(client)
        _install(client, keep)
        if restored:
            client.entry_point.reseed(int.from_bytes(os.urandom(8), "big", signed=True))
        client.entry_point.prepare(properties)


def cancel_jobs(port: int, secret: str) -> None:
    """Cancel Spark's jobs, also those that begin later, until this process is killed.

    Work in the driver's own thread is not cancelled, such as the commit to a table after its job.
    """
    with connected(port, secret) as client:
        while True:
            with contextlib.suppress(Py4JError):  # the context or the JVM may have just ended
                for context in _contexts(client):
                    context.cancelAllJobs()
            time.sleep(CANCEL_POLL_S)


def stop_context(client: JavaGateway) -> None:
    """Stop the JVM's SparkContext, if it has one, with all its jobs."""
    for context in _contexts(client):
        context.stop()


def _contexts(client: JavaGateway) -> list[Any]:
    """A list with the JVM's SparkContext; empty if it has none."""
    active_context = getattr(getattr(client.jvm.org.apache.spark, "SparkContext$"), "MODULE$").getActive()
    return [active_context.get()] if active_context.isDefined() else []


class _UniqueIdProxies(PythonProxyPool):  # type: ignore[misc] # Py4J has no types
    """Gives callbacks ids that no earlier script's callbacks have.

    When Java's garbage collector frees a callback of an earlier script, it sends the id to the current script. With
    Py4J's own ids (p0, p1, …) the current script would lose its own callback (``Object ID unknown`` in
    ``foreachBatch``).
    """

    def __init__(self) -> None:
        super().__init__()
        self.next_id = int.from_bytes(os.urandom(8), "big")


def use_unique_callback_ids() -> None:
    """Keep Java from mistaking a script's callbacks for those of an earlier script."""
    java_gateway.PythonProxyPool = _UniqueIdProxies


def remember_names() -> None:
    """Make Py4J look up each class once in Java, and usual packages never: each lookup searches 250 jars.

    Without this, Py4J looks up each part of a class's name at each use; a small script needs 123 lookups instead of 23.
    """
    Package, View = java_gateway.JavaPackage, java_gateway.JVMView  # noqa: N806 - classes
    look_up_in_view, look_up_in_package = View.__getattr__, Package.__getattr__
    classes = dict[tuple[Any, str], Any]()

    def view_member(self: Any, name: str) -> Any:
        return Package(name, self._gateway_client, self._id) if name in PACKAGES else look_up_in_view(self, name)

    def package_member(self: Any, name: str) -> Any:
        full_name = f"{self._fqn}.{name}"
        if full_name in PACKAGES:
            return Package(full_name, self._gateway_client, self._jvm_id)
        member = classes.get((self._gateway_client, full_name)) or look_up_in_package(self, name)
        if isinstance(member, java_gateway.JavaClass):
            classes[self._gateway_client, full_name] = member
        return member

    View.__getattr__, Package.__getattr__ = view_member, package_member


def keep_contexts() -> None:
    """Let this process use the SparkContext that the JVM keeps.

    Python's SparkContext is new for each script, but Java's need not be: PySpark's calls that make and stop it are
    replaced by calls to ``WarmJvm.java``. PySpark itself renews the rest, such as the environment of Python workers.
    """
    from pyspark import SparkConf, SparkContext, accumulators

    stop, get_all_one_by_one = SparkContext.stop, SparkConf.getAll

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
        """Get all settings in one call; PySpark makes four calls for each key, twice for each session."""
        if self._jconf is None or SparkContext._gateway is None:
            return list(get_all_one_by_one(self))
        words = SparkContext._gateway.entry_point.entries(self._jconf).split("\0")
        return list(zip(words[:-1:2], words[1::2], strict=True))

    def shutdown(self: Any) -> None:
        """Close the server without waiting for its thread, which checks for the shutdown only every half second."""
        self.server_shutdown = True
        self._BaseServer__shutdown_request = True
        self.server_close()  # the thread ends with this process

    SparkContext._initialize_context = with_inferred_types(acquire)
    SparkContext.stop = release
    SparkConf.getAll = get_all
    for server in accumulator_servers(accumulators):
        server.shutdown = shutdown  # type: ignore[attr-defined]


def with_inferred_types(initialize: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Change PySpark's function that makes Java's context: the context's sessions get the rule ``InferredTypes``."""

    def initialize_with_rule(self: Any, jconf: Any) -> Any:
        if jconf.get("spark.sql.sources.commitProtocolClass", "") == "AttemptCommit":  # our Java is on the class path
            # Not as a Spark default, which would be lost if a script sets extensions of its own.
            other_extensions = jconf.get("spark.sql.extensions", "")
            jconf.set("spark.sql.extensions", f"InferredTypes,{other_extensions}".rstrip(","))
        return initialize(self, jconf)

    return initialize_with_rule


def _install(client: JavaGateway, keep: bool) -> None:
    """Make ``WarmJvm`` Py4J's entry point; it records the JVM's state before any task. Compile it if necessary."""
    jvm: Any = client.jvm
    are_compiled, loader = are_ahead(jvm), class_loader(jvm)
    for name in () if are_compiled else ("JvmState", "WarmJvm"):
        loader = compile_class(jvm, name, loader).getClassLoader()
    server = JavaObject("GATEWAY_SERVER", client._gateway_client)
    # WarmJvm gets the name, since it repeats Hadoop's login after each task.
    warm_jvm = _new_object(client, loader.loadClass("WarmJvm"), server, "" if has_name() else NAMELESS)
    if keep:
        for name in () if are_compiled else ("SparkInsides", "KeptContext"):
            loader = compile_class(jvm, name, loader).getClassLoader()
        kept_context_class = loader.loadClass("KeptContext")
        warm_jvm.keep(_new_object(client, kept_context_class, jvm.java.lang.System.getProperty("java.io.tmpdir")))


def _new_object(client: JavaGateway, java_class: Any, *values: Any) -> Any:
    """A new object of a class that Py4J cannot find by its name."""
    arguments = client.new_array(client.jvm.java.lang.Object, len(values))
    for index, value in enumerate(values):
        arguments[index] = value
    return java_class.getConstructors()[0].newInstance(arguments)


def log_in(client: JavaGateway) -> None:
    """Log in to Hadoop if passwd does not name the user."""
    if not has_name():  # Hadoop's own login would fail: ``LoginException: invalid null input: name``
        users: Any = client.jvm.org.apache.hadoop.security.UserGroupInformation
        users.setLoginUser(users.createRemoteUser(NAMELESS))
