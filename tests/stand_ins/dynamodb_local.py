"""DynamoDB Local: the referee for the ledger's conditions and transactions.

Its own launcher binds every address of the machine. So it is not used: a JVM with py4j's gateway (on the loopback
interface, ended by the end of its standard input, so with this process) makes the same server and gives its
connector a host and a free port before it starts.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path
from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway

from sparklet.local.jars import ensure_jars
from sparklet.local.java import find_java

STACK = Path(__file__).with_name("dynamodb-local.toml")
JVM_OPTIONS = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx512m"]


def jars() -> list[Path]:
    """The server's jars, fetched on first use; LocalStackError where they cannot be had."""
    cache = Path(os.environ.get("SPARKLET_CACHE_DIR") or user_cache_path("sparklet")).resolve() / "dynamodb-local"
    return ensure_jars(STACK, cache, ["server"], progress=print)


@contextmanager
def dynamodb_local() -> Iterator[str]:
    """A server with nothing in it, in memory; its endpoint."""
    port, token = launch_gateway(
        classpath=os.pathsep.join(map(str, jars())),
        javaopts=JVM_OPTIONS,
        die_on_exit=True,
        enable_auth=True,
        java_path=str(find_java()),
        redirect_stderr=subprocess.DEVNULL,
    )
    gateway = JavaGateway(gateway_parameters=GatewayParameters(port=port, auth_token=token))
    try:
        yield f"http://127.0.0.1:{_start(gateway)}"
    finally:
        gateway.shutdown()


def _start(gateway: JavaGateway) -> int:
    """Start the server on the loopback interface; its port."""
    jvm = gateway.jvm
    options = ["-inMemory", "-sharedDb", "-disableTelemetry", "-port", "8000"]  # a port it asks for and does not get
    arguments = gateway.new_array(jvm.java.lang.String, len(options))
    for place, option in enumerate(options):
        arguments[place] = option
    server = jvm.software.amazon.dynamodb.services.local.main.ServerRunner.createServerFromCommandLineArgs(arguments)
    jetty_field = server.getClass().getDeclaredField("server")
    jetty_field.setAccessible(True)
    connector = jetty_field.get(server).getConnectors()[0]
    connector.setHost("127.0.0.1")
    connector.setPort(0)
    server.start()
    return int(connector.getLocalPort())
