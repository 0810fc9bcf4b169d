"""A real PostgreSQL with binaries from Maven Central. It needs no root; started by root it runs as the user nobody."""

import os
import platform
import shutil
import signal
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path
from py4j.java_gateway import JavaGateway
from py4j.protocol import Py4JJavaError

from sparklet.local.jars import ensure_jars
from sparklet.local.spark_installation import jar_cache, stack_file
from tests.stand_ins.jvm import jvm
from tests.stand_ins.ministack import free_port
from tests.waiting import deadline_s, eventually

STACK = Path(__file__).with_suffix(".toml")
OWNER, PASSWORD = "owner", "the owner's pass-word 1"
NOBODY = 65534
SETTINGS = {  # without fsync, since its data need not outlive the tests
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "40",
    "log_statement": "all",
}


@dataclass
class PostgreSQL:
    """A running server with the database ``postgres``, and a connection for the tests' own statements."""

    port: int
    log: Path
    _own: Any

    @property
    def url(self) -> str:
        """The server's address for JDBC."""
        return f"jdbc:postgresql://127.0.0.1:{self.port}/postgres"

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """Execute a statement; return the rows of its result."""
        prepared = self._own.prepareStatement(statement)
        rows = []
        if prepared.execute():
            result = prepared.getResultSet()
            columns = range(1, result.getMetaData().getColumnCount() + 1)
            while result.next():
                rows.append(tuple(result.getObject(column) for column in columns))
        prepared.close()
        return rows


def driver() -> Path:
    """The jar of the JDBC driver that the image has."""
    [jar] = ensure_jars(stack_file(), jar_cache(), ["postgresql"], progress=print)
    return jar


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """Run an empty server."""
    cache = Path(os.environ.get("SPARKLET_CACHE_DIR") or user_cache_path("sparklet")).resolve() / STACK.stem
    [binaries] = ensure_jars(STACK, cache, [platform.machine()], progress=print)
    home = Path(tempfile.mkdtemp(prefix="sparklet-postgresql-"))  # the user nobody cannot read pytest's folders
    as_nobody: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
    try:
        _unpack(binaries, home, as_nobody)
        with _server(home, as_nobody) as port, jvm(STACK, [driver()], groups=[]) as gateway:
            yield PostgreSQL(port, home / "log", _connection(gateway, port))
    finally:
        shutil.rmtree(home)


def _unpack(binaries: Path, home: Path, as_nobody: dict[str, Any]) -> None:
    with zipfile.ZipFile(binaries) as jar:
        [name] = [name for name in jar.namelist() if name.endswith(".txz")]
        with jar.open(name) as content, tarfile.open(fileobj=content, mode="r:xz") as archive:
            archive.extractall(home, filter="data")
    (home / "password").write_text(PASSWORD)
    home.chmod(0o755)
    if as_nobody:
        for path in (home, home / "password"):
            os.chown(path, NOBODY, NOBODY)
    options = ["-D", str(home / "data"), "-U", OWNER, "-A", "scram-sha-256", "--pwfile", str(home / "password")]
    command: list[str | Path] = [home / "bin" / "initdb", *options, "--no-sync", "--no-locale", "-E", "UTF8"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=home, **as_nobody)


@contextmanager
def _server(home: Path, as_nobody: dict[str, Any]) -> Iterator[int]:
    port = free_port()
    options = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
    command: list[str | Path] = [home / "bin" / "postgres", "-D", home / "data", "-p", str(port), *options]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=home, **as_nobody)
    try:
        yield port
    finally:
        process.send_signal(signal.SIGQUIT)  # stops at once, but frees its shared memory
        process.wait(deadline_s())


def _connection(gateway: JavaGateway, port: int) -> Any:
    info = gateway.jvm.java.util.Properties()
    info.setProperty("user", OWNER)
    info.setProperty("password", PASSWORD)

    def connection() -> Any:
        with suppress(Py4JJavaError):
            return gateway.jvm.org.postgresql.Driver().connect(f"jdbc:postgresql://127.0.0.1:{port}/postgres", info)

    return eventually(connection, "PostgreSQL takes connections")
