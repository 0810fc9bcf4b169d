"""What is done to a warm JVM before a task and after it, through Py4J, each from a process of its own.

``prepare`` runs in the script's process before the script, ``clean`` in a process that the script
cannot have touched. What the JVM was like at first is kept inside it, among Py4J's objects.
"""

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from py4j.java_gateway import GatewayParameters, JavaGateway, JavaObject
from py4j.protocol import Py4JJavaError

from sparklet.worker.user import NAMELESS, has_name

FULL_HEAP = 0.8
MOST_NEW_THREADS = 150  # Spark's own pools come and go; more than this is a leak
QUIET_LIMIT_S = 8.0
BOOT_PROPERTIES = "sparklet:properties"
BOOT_LOCALE = "sparklet:locale"
BOOT_THREADS = "sparklet:threads"

_TASK_THREAD = re.compile(r"Thread\[(?:Executor task launch worker for task |stream execution thread for )")
_HIVE_THREAD = re.compile(r"Thread\[derby\.|Thread\[BoneCP")


class _Session:
    """A connection to the JVM."""

    def __init__(self, client: JavaGateway) -> None:
        self.client = client
        self.jvm: Any = client.jvm
        self.java: Any = self.jvm.java
        self.server: Any = self.kept("GATEWAY_SERVER")
        self.gateway: Any = self.server.getGateway()

    def kept(self, name: str) -> Any:
        """An object that lives in the JVM under a name."""
        return JavaObject(name, self.client._gateway_client)

    def scala_object(self, package: Any, name: str) -> Any:
        return getattr(getattr(package, f"{name}$"), "MODULE$")

    def has_loaded(self, name: str) -> bool:
        """Whether a class was of use to somebody: asking it anything would load it."""
        of_name = self.client.new_array(self.java.lang.Class, 1)
        of_name[0] = self.java.lang.Class.forName("java.lang.String")
        find = self.java.lang.Class.forName("java.lang.ClassLoader").getDeclaredMethod("findLoadedClass", of_name)
        find.setAccessible(True)
        wanted = self.client.new_array(self.java.lang.Object, 1)
        wanted[0] = name
        return find.invoke(self.java.lang.ClassLoader.getSystemClassLoader(), wanted) is not None

    def threads(self) -> str:
        return str(self.java.lang.Thread.getAllStackTraces().keySet().toString())

    def thread_count(self) -> int:
        return int(self.java.lang.management.ManagementFactory.getThreadMXBean().getThreadCount())


@contextlib.contextmanager
def _connected(port: int, secret: str) -> Iterator[_Session]:
    client = JavaGateway(  # not PySpark's ClientServer, which would leave a thread in the script
        gateway_parameters=GatewayParameters(
            port=port, auth_token=secret, auto_convert=True, enable_memory_management=False
        )
    )
    try:
        yield _Session(client)
    finally:
        client.close()  # our side only: shutdown() would end the JVM's


def prepare(port: int, secret: str, properties: Mapping[str, str]) -> None:
    """Set the task's system properties, from which a SparkConf is made; at first remember what was there."""
    with _connected(port, secret) as session:
        _log_in(session)
        system, bindings = session.java.lang.System, session.gateway.getBindings()
        if not bindings.containsKey(BOOT_PROPERTIES):
            bindings.put(BOOT_PROPERTIES, system.getProperties().clone())
            bindings.put(BOOT_LOCALE, session.java.util.Locale.getDefault())
            bindings.put(BOOT_THREADS, str(session.thread_count()))
        system.getProperties().putAll(dict(properties))


def log_in(port: int, secret: str) -> None:
    """Tell Hadoop who it is where it cannot find out; ``prepare`` does so too."""
    with _connected(port, secret) as session:
        _log_in(session)


def clean(port: int, secret: str) -> str:
    """Bring the JVM back to what it was before the task.

    Returns
    -------
    str
        Why the JVM should be replaced all the same; "" if it is as good as new.
    """
    with _connected(port, secret) as session:
        hive = bool(_HIVE_THREAD.search(session.threads()))
        problem = _stop_contexts(session)
        if problem:
            return problem
        _reset_statics(session)
        _reset_system(session)
        grown = session.thread_count() - int(session.gateway.getObject(BOOT_THREADS))
        _forget_objects(session)
        if hive:
            return "Hive's metastore stays in a JVM that has opened one"
        if grown > MOST_NEW_THREADS:
            return f"{grown} threads were left in it"
        return _full_heap(session)


def _log_in(session: _Session) -> None:
    if not has_name():  # its own login would fail: ``LoginException: invalid null input: name``
        users: Any = session.jvm.org.apache.hadoop.security.UserGroupInformation
        users.setLoginUser(users.createRemoteUser(NAMELESS))


def _stop_contexts(session: _Session) -> str:
    """Stop Spark until nothing of the script is left in the JVM: no context, no call, no task."""
    spark_context = session.scala_object(session.jvm.org.apache.spark, "SparkContext")
    calls = session.java.lang.Class.forName("py4j.GatewayServer").getDeclaredField("connections")
    calls.setAccessible(True)
    connections = calls.get(session.server)
    give_up_s = time.monotonic() + QUIET_LIMIT_S
    while True:
        active = spark_context.getActive()
        if active.isDefined():
            with contextlib.suppress(Py4JJavaError):  # the script's own stop() may be under way
                active.get().cancelAllJobs()
                active.get().stop()
        elif connections.size() <= 1 and not _TASK_THREAD.search(session.threads()):
            return ""
        if time.monotonic() > give_up_s:
            return f"calls or Spark tasks of the last script did not end within {QUIET_LIMIT_S:.0f} s"
        time.sleep(0.01)


def _reset_statics(session: _Session) -> None:
    apache: Any = session.jvm.org.apache
    apache.spark.sql.SparkSession.clearActiveSession()
    apache.spark.sql.SparkSession.clearDefaultSession()
    session.scala_object(apache.spark.util, "Utils").clearLocalRootDirs()
    if session.has_loaded("org.apache.spark.sql.delta.DeltaLog"):
        session.scala_object(apache.spark.sql.delta, "DeltaLog").clearCache()
    apache.hadoop.fs.FileSystem.closeAll()
    apache.hadoop.fs.FileSystem.clearStatistics()
    apache.hadoop.security.UserGroupInformation.reset()
    apache.logging.log4j.core.config.Configurator.reconfigure()


def _reset_system(session: _Session) -> None:
    session.java.lang.System.setProperties(session.kept(BOOT_PROPERTIES).clone())
    session.java.util.Locale.setDefault(session.kept(BOOT_LOCALE))
    session.java.util.TimeZone.setDefault(None)  # back to user.timezone, else the machine's


def _forget_objects(session: _Session) -> None:
    """Drop what the script's proxies pointed to (Py4J keeps it when a client just ends) and its imports.

    This session's own objects go with them; classes can still be called.
    """
    session.gateway.getDefaultJVMView().clearImports()
    bindings, keep = session.gateway.getBindings(), session.java.util.HashSet()
    for name in bindings.keySet().toString().strip("[]").split(", "):
        if not re.fullmatch(r"o\d+", name):
            keep.add(name)
    bindings.keySet().retainAll(keep)


def _full_heap(session: _Session) -> str:
    memory: Any = session.java.lang.management.ManagementFactory.getMemoryMXBean()
    if _heap_share(memory) <= FULL_HEAP:
        return ""
    session.java.lang.System.gc()
    share = _heap_share(memory)
    return f"its heap stays {share:.0%} full" if share > FULL_HEAP else ""


def _heap_share(memory: Any) -> float:
    usage = memory.getHeapMemoryUsage()
    return float(usage.getUsed()) / float(usage.getMax())
