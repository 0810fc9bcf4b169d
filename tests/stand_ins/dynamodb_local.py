"""DynamoDB Local, AWS's own stand-in: it decides whether the ledger's conditions and transactions are right."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from py4j.java_gateway import JavaGateway

from tests.stand_ins.jvm import jvm

STACK = Path(__file__).with_suffix(".toml").with_stem("dynamodb-local")


@contextmanager
def dynamodb_local() -> Iterator[str]:
    """Run an empty server in memory; yield its endpoint."""
    with jvm(STACK) as gateway:
        yield f"http://127.0.0.1:{_start(gateway)}"


def _start(gateway: JavaGateway) -> int:
    """Start the server; return its port.

    The server's own launcher binds every address of the machine, so the connector gets the loopback interface and a
    free port before it starts.
    """
    java = gateway.jvm
    options = ["-inMemory", "-sharedDb", "-disableTelemetry", "-port", "8000"]  # it demands a port; this is replaced
    arguments = gateway.new_array(java.java.lang.String, len(options))
    for index, option in enumerate(options):
        arguments[index] = option
    server = java.software.amazon.dynamodb.services.local.main.ServerRunner.createServerFromCommandLineArgs(arguments)
    jetty_field = server.getClass().getDeclaredField("server")
    jetty_field.setAccessible(True)
    connector = jetty_field.get(server).getConnectors()[0]
    connector.setHost("127.0.0.1")
    connector.setPort(0)
    server.start()
    return int(connector.getLocalPort())
