"""A JVM that ends with this process, for servers that are written in Java."""

import os
import subprocess
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path
from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway

from sparklet.local.jars import ensure_jars
from sparklet.local.java import find_java

OPTIONS = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx512m"]


@contextmanager
def jvm(stack: Path, more: Iterable[Path] = (), groups: Collection[str] = ("server",)) -> Iterator[JavaGateway]:
    """Run a JVM with ``more`` jars and those of a stack file, which are fetched on first use.

    LocalStackError if they cannot be fetched. The JVM listens on the loopback interface only. It ends at the end of its
    standard input, so also if this process is killed.
    """
    cache = Path(os.environ.get("SPARKLET_CACHE_DIR") or user_cache_path("sparklet")).resolve() / stack.stem
    jars = ensure_jars(stack, cache, groups, progress=print)
    port, token = launch_gateway(
        classpath=os.pathsep.join(map(str, [*jars, *more])),
        javaopts=OPTIONS,
        die_on_exit=True,
        enable_auth=True,
        java_path=str(find_java()),
        redirect_stderr=subprocess.DEVNULL,
    )
    gateway = JavaGateway(gateway_parameters=GatewayParameters(port=port, auth_token=token))
    try:
        yield gateway
    finally:
        gateway.shutdown()
