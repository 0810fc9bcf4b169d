"""Kafka: a real broker, one process in KRaft mode, with its own producer and consumer in the same JVM."""

import base64
import importlib.util
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from py4j.java_gateway import JavaGateway

from tests.stand_ins.jvm import jvm

STACK = Path(__file__).with_suffix(".toml")
CODECS = ("zstd-jni", "lz4-java", "snappy-java")
JACKSON = ("jackson-annotations", "jackson-core-2", "jackson-databind")
OF_PYSPARK = ("scala-library-", "scala-reflect-", "slf4j-api", "zookeeper-", *JACKSON, *CODECS)
CLUSTER = "arn:aws:kafka:us-east-1:123456789012:cluster/demo/751d2973-2"
POLL_MS, MAX_POLLS = 200, 100


@dataclass(frozen=True)
class Kafka:
    """A broker with topics; ``address`` is its bootstrap server's."""

    address: str
    gateway: JavaGateway

    def create(self, topic: str, partitions: int) -> None:
        """Make a topic."""
        java = self.gateway.jvm
        admin = java.org.apache.kafka.clients.admin.Admin.create(self._properties())
        new = java.org.apache.kafka.clients.admin.NewTopic(topic, partitions, 1)
        admin.createTopics(java.java.util.List.of(new)).all().get()
        admin.close()

    def produce(self, topic: str, values: Iterable[tuple[int, bytes]]) -> None:
        """Send values, each to its partition, and wait until the broker has them."""
        java = self.gateway.jvm
        bytes_ = "org.apache.kafka.common.serialization.ByteArraySerializer"
        names = {"key.serializer": bytes_, "value.serializer": bytes_, "acks": "all"}
        producer = java.org.apache.kafka.clients.producer.KafkaProducer(self._properties(**names))
        for partition, value in values:
            record = java.org.apache.kafka.clients.producer.ProducerRecord(topic, partition, None, value)
            producer.send(record)
        producer.flush()
        producer.close()

    def consume(self, topic: str, partition: int, expected: int) -> list[dict[str, Any]]:
        """The records of a partition, as Lambda delivers them; they have headers only if somebody has set some."""
        java = self.gateway.jvm
        bytes_ = "org.apache.kafka.common.serialization.ByteArrayDeserializer"
        names = {"key.deserializer": bytes_, "value.deserializer": bytes_, "auto.offset.reset": "earliest"}
        consumer = java.org.apache.kafka.clients.consumer.KafkaConsumer(self._properties(**names))
        place = java.org.apache.kafka.common.TopicPartition(topic, partition)
        consumer.assign(java.java.util.List.of(place))
        consumer.seekToBeginning(java.java.util.List.of(place))
        found: list[dict[str, Any]] = []
        for _ in range(MAX_POLLS):
            polled = consumer.poll(java.java.time.Duration.ofMillis(POLL_MS)).records(place)
            found += [_delivered(polled[number]) for number in range(len(polled))]  # PySpark spoils Py4J's iterators
            if len(found) >= expected:
                break
        consumer.close()
        return found

    def _properties(self, **more: str) -> Any:
        properties = self.gateway.jvm.java.util.Properties()
        for name, value in {"bootstrap.servers": self.address, **more}.items():
            properties.put(name, value)
        return properties


def batch(*records: dict[str, Any]) -> dict[str, Any]:
    """The event of an Amazon MSK mapping; https://docs.aws.amazon.com/lambda/latest/dg/with-msk.html."""
    by_partition: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_partition.setdefault(f"{record['topic']}-{record['partition']}", []).append(record)
    return {
        "eventSource": "aws:kafka",
        "eventSourceArn": CLUSTER,
        "bootstrapServers": "b-1.demo.kafka.us-east-1.amazonaws.com:9092",
        "records": by_partition,
    }


def _delivered(record: Any) -> dict[str, Any]:
    return {
        "topic": str(record.topic()),
        "partition": int(record.partition()),
        "offset": int(record.offset()),
        "timestamp": int(record.timestamp()),
        "timestampType": "CREATE_TIME",
        "value": base64.b64encode(bytes(record.value())).decode(),
        "headers": [],
    }


@contextmanager
def kafka(folder: Path) -> Iterator[Kafka]:
    """A broker without topics, whose log is in the folder."""
    spec = importlib.util.find_spec("pyspark")
    assert spec is not None and spec.origin is not None
    jars = Path(spec.origin).with_name("jars").glob("*.jar")
    with jvm(STACK, [jar for jar in jars if jar.name.startswith(OF_PYSPARK)]) as gateway:
        java = gateway.jvm
        broker, controller = _free_port(), _free_port()
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "listeners": f"PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{broker}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": str(folder / "log"),
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
        }
        file = folder / "server.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        _format(gateway, file)
        properties = java.java.util.Properties()
        for name, value in settings.items():
            properties.put(name, value)
        config = java.kafka.server.KafkaConfig.fromProps(properties)
        time = getattr(java.org.apache.kafka.common.utils.Time, "SYSTEM")  # noqa: B009 - a field of Java's
        server = java.kafka.server.KafkaRaftServer(config, time)
        server.startup()
        try:
            yield Kafka(f"127.0.0.1:{broker}", gateway)
        finally:
            server.shutdown()


def _format(gateway: JavaGateway, file: Path) -> None:
    """``kafka-storage format``."""
    java = gateway.jvm
    cluster = java.org.apache.kafka.common.Uuid.randomUuid().toString()
    options = ["format", "--cluster-id", cluster, "--config", str(file)]
    arguments = gateway.new_array(java.java.lang.String, len(options))
    for place, option in enumerate(options):
        arguments[place] = option
    said = java.java.io.ByteArrayOutputStream()
    code = java.kafka.tools.StorageTool.execute(arguments, java.java.io.PrintStream(said))
    assert code == 0, said.toString()


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
