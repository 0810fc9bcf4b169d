"""A server of Spark Connect: Spark's own, with the installed pyspark's jars and S3A."""

import os
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path

from sparklet.local.jars import ensure_jars
from sparklet.local.java import find_java
from sparklet.local.spark_installation import fetched_jars
from sparklet.settings import spark_settings
from sparklet.spark.spark_options import OPENED_PACKAGES, class_path, s3a_conf
from tests.stand_ins.http_server import self_signed
from tests.waiting import eventually

STACK = Path(__file__).with_name("spark-connect.toml")
SERVER = "org.apache.spark.sql.connect.service.SparkConnectServer"
SUBMIT = "org.apache.spark.deploy.SparkSubmit"
STARTS_WITHIN_S = 30


@contextmanager
def spark_connect(folder: Path, env: Mapping[str, str]) -> Iterator[str]:
    """Run a server that reads and writes S3 with the settings in ``env``; yield its address, ``sc://…``."""
    cache = Path(os.environ.get("SPARKLET_CACHE_DIR") or user_cache_path("sparklet")).resolve()
    own = ensure_jars(STACK, cache / STACK.stem, ["server"], progress=print)
    jars = [*class_path(spark_settings({})), *map(str, fetched_jars(print, offline=False)), *map(str, own)]
    log, port = folder / "connect.log", _free_port()
    conf = {
        **s3a_conf(spark_settings(env), jars),
        "spark.master": "local[1]",
        "spark.connect.grpc.binding.port": str(port),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.local.dir": str(folder),
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "1",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_java(jars), SUBMIT, *_words(conf), "--class", SERVER, "spark-internal"],
            env={**os.environ, **env, "SPARK_LOCAL_IP": "127.0.0.1"},
            cwd=folder,
            stdout=output,
            stderr=output,
        )
    try:
        _wait_for(log, process)
        yield f"sc://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _java(jars: Sequence[str]) -> list[str]:
    opened = [f"--add-opens={package}=ALL-UNNAMED" for package in OPENED_PACKAGES]
    options = ["-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+IgnoreUnrecognizedVMOptions"]
    return [str(find_java()), *options, *opened, "-cp", os.pathsep.join(jars)]


def _words(conf: Mapping[str, str]) -> list[str]:
    return [word for key, value in conf.items() for word in ("--conf", f"{key}={value}")]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _wait_for(log: Path, process: "subprocess.Popen[bytes]") -> None:
    def started() -> bool:
        assert process.poll() is None, log.read_text()[-2000:]
        return bool(re.search("Spark Connect server started", log.read_text(errors="replace")))

    eventually(started, f"Spark Connect, as {log} says", STARTS_WITHIN_S)


@contextmanager
def guarded(folder: Path, remote: str, token: str) -> Iterator[tuple[str, Path]]:
    """Run a proxy before a server that demands TLS and a token, as Databricks does.

    Yield its address, and the certificate that a client must trust.
    """
    import grpc

    (key, certificate), port = self_signed(folder), _free_port()

    class Gate(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            def passed_on(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
                if dict(call.invocation_metadata).get("authorization") != f"Bearer {token}":
                    context.abort(grpc.StatusCode.UNAUTHENTICATED, "a wrong token, or none")
                yield from behind.stream_stream(call.method)(messages)

            return grpc.stream_stream_rpc_method_handler(passed_on)

    with grpc.insecure_channel(remote.removeprefix("sc://")) as behind:
        server = grpc.server(ThreadPoolExecutor(8), handlers=[Gate()])
        credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
        server.add_secure_port(f"localhost:{port}", credentials)
        server.start()
        try:
            yield f"sc://localhost:{port}/;use_ssl=true", certificate  # Spark 4 uses TLS to localhost only on request
        finally:
            server.stop(None).wait()
