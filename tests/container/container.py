"""The image as a Lambda function: a locked-down container behind the runtime interface emulator."""

import json
import os
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.container.built_image import DOCUMENT, BuiltImage
from tests.container.cell import Cell
from tests.stand_ins.ministack import free_port
from tests.waiting import deadline_s, eventually

HANDLER = "sparklet.worker.handler.lambda_handler"
EMULATOR_INSIDE = "/usr/local/bin/aws-lambda-rie"
PATH = "/2015-03-31/functions/function/invocations"
SCRATCH_MB = 512  # the size of /tmp; a tmpfs counts as memory of the container
NUMERIC_NAME = "169.254.100.1"  # Lambda's hosts have their address as name; a name without an address stops Spark
OWNER = "sparklet-test"  # a label whose value is the process that started the container

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Conditions:
    """The limits and settings that Lambda gives a function."""

    memory_mb: int = 2048
    timeout_s: int = 120
    cpus: float = 2
    user: str = "993:990"  # Lambda's user, for whom the image has a line in /etc/passwd
    open_files: int = 1024
    processes: int = 1024
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[Path, str] = field(default_factory=dict)  # read-only; each with its path in the container
    # A folder on disk for /tmp, which is no memory then, as in Lambda. If it is None, /tmp is a tmpfs of SCRATCH_MB.
    scratch: Path | None = None

    def options(self) -> list[str]:
        """The options of ``podman run`` for these conditions."""
        memory = f"{self.memory_mb + (0 if self.scratch else SCRATCH_MB)}m"
        tmpfs = ("--tmpfs", f"/tmp:rw,size={SCRATCH_MB}m,mode=1777,nosuid,nodev,notmpcopyup")
        lambda_env = {
            "AWS_LAMBDA_FUNCTION_TIMEOUT": str(self.timeout_s),
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.memory_mb),
            "AWS_LAMBDA_FUNCTION_NAME": "worker",
        }
        return [
            *("--read-only", "--read-only-tmpfs=false"),
            *(("--volume", f"{self.scratch}:/tmp:rw") if self.scratch else tmpfs),
            *("--tmpfs", "/dev/shm:ro,size=4k,mode=0555"),
            *("--label", f"{OWNER}={os.getpid()}"),
            *("--hostname", NUMERIC_NAME, "--no-hosts"),  # Lambda adds no /etc/hosts
            *("--user", self.user, "--passwd=false"),  # podman would invent a line for a user without one
            *("--cap-drop=ALL", "--security-opt", "no-new-privileges"),
            *("--memory", memory, "--memory-swap", memory, "--cpus", str(self.cpus)),
            *("--cpu-shares", "4096"),  # by default the whole container gets as much CPU time as one process outside
            *("--ulimit", f"nofile={self.open_files}:{self.open_files}"),
            *("--pids-limit", str(self.processes), "--ulimit", f"nproc={self.processes}:{self.processes}"),
            *(word for path, inside in self.mounts.items() for word in ("--volume", f"{path}:{inside}:ro")),
            *(word for pair in {**lambda_env, **self.env}.items() for word in ("--env", "=".join(pair))),
        ]


@dataclass(frozen=True)
class Answer:
    """The emulator's response. A timeout is a text with HTTP status 200, a lost process has status 502."""

    status: int
    text: str

    @property
    def document(self) -> Any:
        """The function's answer, or its error in Lambda's form."""
        try:
            return json.loads(self.text)
        except ValueError:
            raise AssertionError(f"not an answer of the function: {self.status} {self.text[:1000]}") from None


@dataclass
class Container:
    """A function's only execution environment. It does one request at a time: of two at once both would be lost."""

    image: BuiltImage
    cell: Cell
    name: str
    address: str
    timeout_s: int

    def invoke(self, event: Any) -> Answer:
        """Invoke the function synchronously."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        request = urllib.request.Request(f"http://{self.address}{PATH}", body, method="POST")
        with self.cell.entered():
            try:
                with _DIRECT.open(request, timeout=self.timeout_s + 60) as answer:
                    return Answer(answer.status, answer.read().decode())
            except urllib.error.HTTPError as error:
                return Answer(error.code, error.read().decode())

    def succeeds(self, event: Any) -> Any:
        """Invoke the function with a task that must succeed; return its answer."""
        answer = self.invoke(event)
        assert answer.document.get("state") == "SUCCEEDED", f"{answer}\n{self.logs()[-5000:]}"
        return answer.document

    def logs(self) -> str:
        """All output of the function and the emulator so far."""
        done = self._podman("logs", self.name)
        return done.stdout + done.stderr

    def processes(self) -> dict[int, str]:
        """The command lines of living processes in the container, by their pids on this machine."""
        group = self._podman("inspect", "--format", "{{.State.CgroupPath}}", self.name).stdout.strip()
        pids = set()
        for folder in _groups(group):
            pids |= {int(pid) for pid in (folder / "cgroup.procs").read_text().split()}
        return {pid: line for pid in sorted(pids) if (line := _command_line(pid))}

    def peak_memory_bytes(self) -> int:
        """The highest memory use of the container so far, including files in /tmp and the page cache."""
        return int(self._group_file("memory.max_usage_in_bytes", "memory.peak"))

    def cpu_s(self) -> float:
        """The CPU time of all processes that have run in the container."""
        words = self._group_file("cpuacct.usage", "cpu.stat").split()
        if len(words) == 1:  # cpuacct.usage, in nanoseconds
            return int(words[0]) / 1e9
        return int(words[words.index("usage_usec") + 1]) / 1e6

    def _group_file(self, *files: str) -> str:
        """The content of the first of these files that exists; each version of control groups has one of them."""
        group = self._podman("inspect", "--format", "{{.State.CgroupPath}}", self.name).stdout.strip()
        for folder in _groups(group):
            for file in files:
                if (folder / file).is_file():
                    return (folder / file).read_text()
        raise AssertionError(f"no cgroup of {self.name} has {' or '.join(files)}")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Pause all processes of the container for the block."""
        paused = self._podman("pause", self.name)
        assert paused.returncode == 0, paused.stderr
        yield
        self._podman("unpause", self.name)

    def has_ended(self) -> bool:
        """Whether the container's first process, the emulator, has ended."""
        return self._podman("inspect", "--format", "{{.State.Running}}", self.name).stdout.strip() != "true"

    def _podman(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return podman(self.image, *arguments)


def podman(
    image: BuiltImage, *arguments: str, limit_s: float = 60, typed: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Call podman with the image's settings, in the build's folder: podman leaves a file ``oom`` if memory runs out."""
    return subprocess.run(
        ["podman", *arguments],
        cwd=DOCUMENT.parent,
        env=image.environ,
        input=typed,
        capture_output=True,
        text=True,
        check=False,
        timeout=limit_s,
    )


def remove_orphans(image: BuiltImage) -> None:
    """Remove the containers of test processes that were killed."""
    format_ = f'{{{{.ID}}}} {{{{index .Labels "{OWNER}"}}}}'
    listed = podman(image, "ps", "--all", "--filter", f"label={OWNER}", "--format", format_).stdout
    for container, pid in (each.split() for each in listed.splitlines()):
        if not Path(f"/proc/{pid}").exists():
            podman(image, "rm", "--force", "--time", "0", container)


@contextmanager
def running(image: BuiltImage, cell: Cell, conditions: Conditions, handler: str = HANDLER) -> Iterator[Container]:
    """Run the function under Lambda's conditions, behind the emulator; remove the container afterwards."""
    name = f"sparklet-test-{uuid.uuid4().hex[:8]}"
    with cell.entered():
        address, runtime_api = (f"127.0.0.1:{free_port()}" for _ in range(2))
    emulator = [EMULATOR_INSIDE, "--runtime-interface-emulator-address", address, "--runtime-api-address", runtime_api]
    mounted = ["--volume", f"{image.emulator}:{EMULATOR_INSIDE}:ro", "--entrypoint", emulator[0]]
    # The image's own entry point is started by the emulator, as Lambda starts it: with AWS_LAMBDA_RUNTIME_API set.
    command = [*emulator[1:], "/opt/sparklet/entrypoint", handler]
    container = Container(image, cell, name, address, conditions.timeout_s)
    with _started(container, [*conditions.options(), *mounted], command):
        _await(container)
        yield container


@contextmanager
def without_emulator(image: BuiltImage, cell: Cell, conditions: Conditions) -> Iterator[Container]:
    """Run the function with the runtime API in ``conditions.env`` instead of the emulator; init begins at once."""
    address = conditions.env["AWS_LAMBDA_RUNTIME_API"]
    container = Container(image, cell, f"sparklet-test-{uuid.uuid4().hex[:8]}", address, conditions.timeout_s)
    with _started(container, conditions.options()):
        yield container


@contextmanager
def _started(container: Container, options: Sequence[str], command: Sequence[str] = ()) -> Iterator[None]:
    image, name = container.image, container.name
    network = ["--network", f"ns:{container.cell.path}"]
    run = ("run", "--detach", "--name", name, "--pull", "never", *network, *options, image.name, *command)
    try:
        started = podman(image, *run)
        assert started.returncode == 0, started.stderr
        yield
    finally:
        podman(image, "rm", "--force", "--time", "0", name)


def _await(container: Container) -> None:
    """Wait until the emulator listens; it starts the function with the first request."""
    request = urllib.request.Request(f"http://{container.address}/", method="GET")

    def listens() -> bool:
        assert not container.has_ended(), container.logs()
        with container.cell.entered():
            try:
                _DIRECT.open(request, timeout=deadline_s()).close()
            except urllib.error.HTTPError:
                return True  # it answers
            except OSError:
                return False
        return True

    eventually(listens, f"the emulator listens at {container.address}")


def _groups(path: str) -> list[Path]:
    """The folders of a control group: one folder with version 2, one for each controller with version 1."""
    roots = [Path("/sys/fs/cgroup"), *(each for each in Path("/sys/fs/cgroup").iterdir() if each.is_dir())]
    folders = [root / path.strip("/") for root in roots]
    return [folder for folder in folders if folder.is_dir() and (folder / "cgroup.procs").is_file()]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:  # the process has ended meanwhile
        return ""
