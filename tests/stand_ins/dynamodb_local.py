"""DynamoDB Local: the referee for the ledger's conditions and transactions."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from py4j.java_gateway import JavaGateway

from tests.stand_ins.jvm import jvm

STACK = Path(__file__).with_suffix(".toml").with_stem("dynamodb-local")


@contextmanager
def dynamodb_local() -> Iterator[str]:
    """A server with nothing in it, in memory; its endpoint."""
    with jvm(STACK) as gateway:
        yield f"http://127.0.0.1:{_start(gateway)}"


def _start(gateway: JavaGateway) -> int:
    """Start the server; its port.

    Its own launcher binds every address of the machine, so the connector is given a host and a free port before
    it starts.
    """
    java = gateway.jvm
    options = ["-inMemory", "-sharedDb", "-disableTelemetry", "-port", "8000"]  # a port it asks for and does not get
    arguments = gateway.new_array(java.java.lang.String, len(options))
    for place, option in enumerate(options):
        arguments[place] = option
    server = java.software.amazon.dynamodb.services.local.main.ServerRunner.createServerFromCommandLineArgs(arguments)
    jetty_field = server.getClass().getDeclaredField("server")
    jetty_field.setAccessible(True)
    connector = jetty_field.get(server).getConnectors()[0]
    connector.setHost("127.0.0.1")
    connector.setPort(0)
    server.start()
    return int(connector.getLocalPort())
