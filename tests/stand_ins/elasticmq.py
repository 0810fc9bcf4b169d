"""ElasticMQ, a second stand-in for SQS: it decides whether visibility, receipts and dead letters are right."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.stand_ins.jvm import jvm

STACK = Path(__file__).with_suffix(".toml")


@contextmanager
def elasticmq() -> Iterator[str]:
    """Run an empty server in memory; yield its endpoint."""
    with jvm(STACK) as gateway:
        builder = gateway.jvm.org.elasticmq.rest.sqs.SQSRestServerBuilder
        server = builder.withInterface("127.0.0.1").withDynamicPort().start()
        try:
            yield f"http://127.0.0.1:{server.waitUntilStarted().localAddress().getPort()}"
        finally:
            server.stopAndWait()
