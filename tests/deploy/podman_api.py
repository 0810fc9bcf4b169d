"""podman's Docker-compatible API on a socket for SAM, whose build shares the layers of `make image`.

`make image` builds with `--timestamp 0`, and only a build with the same timestamp shares its layers. Docker's API has
no such option, but podman's build request has it: a proxy adds the option to the request. So SAM's build takes seconds.
"""

import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import eventually

CHUNK_BYTES = 1 << 16
INSIDE = "/mnt"  # where docker/build.py mounts the user's cache of downloads, with the trusted certificates


@contextmanager
def podman_api(engine_env: Mapping[str, str], cache: Path, folder: Path) -> Iterator[dict[str, str]]:
    """Serve the image's storage; yield the environment variables by which Docker's clients find the API."""
    conf = folder / "containers.conf"
    conf.write_text(_with_volumes(Path(engine_env["CONTAINERS_CONF"]).read_text(), cache))
    behind, front = folder / "podman.sock", folder / "docker.sock"
    env = {**os.environ, **engine_env, "CONTAINERS_CONF": str(conf)}
    with (folder / "podman.log").open("wb") as log:
        service = subprocess.Popen(
            ["podman", "system", "service", "--time=0", f"unix://{behind}"], env=env, stdout=log, stderr=log
        )
    try:
        _wait_for(behind, service, folder / "podman.log")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(front))
            listener.listen()
            threading.Thread(target=_serve, args=(listener, behind), daemon=True).start()
            yield {**engine_env, "DOCKER_HOST": f"unix://{front}"}
    finally:
        service.terminate()
        service.wait()


def _with_volumes(conf: str, cache: Path) -> str:
    """The engine's settings with the mounts of the image's build in every container, so nothing is fetched again."""
    return conf.replace("[containers]\n", f"[containers]\nvolumes = {json.dumps([f'{cache}:{INSIDE}'])}\n", 1)


def _wait_for(path: Path, service: subprocess.Popen[bytes], log: Path) -> None:
    def answers() -> bool:
        assert service.poll() is None, log.read_text()[-2000:]
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(path)) == 0

    eventually(answers, f"podman's service answers, whose log is {log}")


def _serve(listener: socket.socket, behind: Path) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # the listener was closed
        threading.Thread(target=_pass_on, args=(client, behind), daemon=True).start()


def _pass_on(client: socket.socket, behind: Path) -> None:
    """Pass on a connection, which has one request: the request's head is changed, everything else is not."""
    with client, socket.socket(socket.AF_UNIX) as server:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (chunk := client.recv(CHUNK_BYTES)):
                return
            head += chunk
        server.connect(str(behind))
        server.sendall(_changed(head))
        back = threading.Thread(target=_pump, args=(server, client), daemon=True)
        back.start()
        _pump(client, server)
        back.join()


def _changed(head: bytes) -> bytes:
    """A request's head for podman: a build gets the image's timestamp, and the connection ends after the request."""
    head = re.sub(rb"^(POST \S*/build\?)", rb"\1timestamp=0&", head, count=1)
    first, _, rest = head.partition(b"\r\n")
    rest = re.sub(rb"(?im)^Connection: keep-alive\r\n", b"", rest, count=1)
    upgrade = re.search(rb"(?im)^Connection: upgrade", rest)
    return first + b"\r\n" + (b"" if upgrade else b"Connection: close\r\n") + rest


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while chunk := source.recv(CHUNK_BYTES):
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return  # the other side has closed the connection
