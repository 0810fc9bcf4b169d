"""Build the image without a Docker daemon: ``make image``, or this file with options.

Installs buildah and podman where they are missing and it may, makes a base image of Debian's packages where none is
named, builds, and writes what came out to build/image/STACK.json. All of the engine's storage lies below build/image,
the downloads in the user's cache, with those of the local mode. Where there is Docker, the same is done by
`docker build --provenance=false -f docker/Dockerfile .`
"""

import argparse
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import platformdirs

PROJECT = Path(__file__).resolve().parents[1]
BUILD = PROJECT / "build" / "image"
TOOLS = ("buildah", "podman", "skopeo", "runc", "mmdebstrap", "conmon")
PACKAGES = (*TOOLS, "iptables", "containers-storage", "netavark", "aardvark-dns", "uidmap", "debian-archive-keyring")
GRYPE = "github.com/anchore/grype/cmd/grype@v0.121.3"  # Go's checksum database vouches for it
BASE_SUITE = "bookworm"  # Python 3.11
BASE_PACKAGES = "ca-certificates,python3,usr-is-merged"  # or usrmerge comes, and with it all of Perl
MERGED_USR = "/usr/share/mmdebstrap/hooks/merged-usr"
DEBIAN = {"x86_64": "amd64", "arm64": "arm64"}  # by Lambda's name Debian's, and the registries'
MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}  # the kernel's
HERE = next((arch for arch, machine in MACHINES.items() if machine == os.uname().machine), "x86_64")
BINFMT = Path("/proc/sys/fs/binfmt_misc")  # what the kernel runs by which program
UNWANTED = ("doc", "info", "lintian", "locale", "man")  # below /usr/share
STILL_THERE_EVERY_S = 20.0


@dataclass(frozen=True)
class Engine:
    """buildah and podman with settings and storage of their own, never the system's."""

    folder: Path

    @property
    def settings(self) -> dict[str, str]:
        """Variables that make buildah, podman and skopeo use them."""
        return {
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
        }

    def write_settings(self) -> None:
        """Write both files; the storage stays."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # Limits equal, soft and hard: podman's API swaps them. runc and cgroupfs work where there is no systemd.
        (self.folder / "containers.conf").write_text(
            '[containers]\ndefault_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]\nnetns = "host"\n'
            '[network]\nnetwork_backend = "netavark"\n'
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        )
        (self.folder / "storage.conf").write_text(
            '[storage]\ndriver = "overlay"\n'
            f"graphroot = {json.dumps(str(self.folder / 'storage'))}\n"
            f"runroot = {json.dumps(str(self.folder / 'run'))}\n"
        )

    def run(self, *command: str | Path) -> str:
        """Run a tool and give its output; end with its own words if it fails."""
        answer = subprocess.run([*map(str, command)], env=self._env(), capture_output=True, text=True, check=False)
        if answer.returncode:
            stop(f"{command[0]} {command[1]} failed: {_last_line(answer.stderr)}")
        return answer.stdout

    def stream(self, what: str, log: Path, show: str, *command: str | Path) -> None:
        """Run a long step; its lines go to ``log``, those with ``show`` in them to the terminal."""
        said_s = time.monotonic()
        with log.open("w") as file:
            process = subprocess.Popen(
                [*map(str, command)], env=self._env(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    file.write(line)
                    if show in line or time.monotonic() - said_s > STILL_THERE_EVERY_S:
                        said_s = time.monotonic()
                        say(f"  {line.strip()[:150]}")
            except BaseException:  # Ctrl-C: nothing goes on building
                process.terminate()
                raise
            finally:
                code = process.wait()
        if code:
            tail = "".join(f"  {line}\n" for line in log.read_text(errors="replace").splitlines()[-12:])
            stop(f"{tail}{what} failed with exit code {code}; all of it: {log}")

    def has_image(self, name: str) -> bool:
        """Whether an image of that name is in the storage."""
        return subprocess.run(["podman", "image", "exists", name], env=self._env(), check=False).returncode == 0

    def _env(self) -> dict[str, str]:
        return {**os.environ, **self.settings}


@dataclass
class Clock:
    """What took how long, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, what: str) -> Iterator[None]:
        """Say what begins, note how long it took."""
        say(f"→ {what}")
        started_s = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started_s, 1)
        say(f"  {name}: {self.seconds[name]:.1f} s")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--stack", default="spark-3.5", help="a file of docker/stacks, without .toml (default: %(default)s)")
    option(
        "--local", action="store_true", help="the whole local stack (docker/local.Dockerfile), not the functions' image"
    )
    option("--frameworks", help="table formats, comma-separated (default: the stack's: all)")
    option("--extras", default="", help="further groups of the stack file, comma-separated: avro, kafka, deequ, …")
    option(
        "--coordinates", default="", help="jars of your own: organisation:artifact:version[=sha256], comma-separated"
    )
    option(
        "--base-image",
        help="an image to build on, such as public.ecr.aws/lambda/provided:al2023 (default: one made here)",
    )
    option("--arch", choices=MACHINES, default=HERE, help="another processor's is built by qemu (default: %(default)s)")
    option("--tag", help="the image's name (default: localhost/sparklet:STACK, another processor's STACK-ARCH)")
    option("--no-cache", action="store_true", help="build every layer anew; downloads and base are kept")
    option("--fresh-base", action="store_true", help="make the base anew, with the packages of today")
    option("--compressed", action="store_true", help="measure the layers compressed as well (half a minute)")
    option(
        "--push",
        metavar="NAME",
        help="push there afterwards, as one manifest, whose digest build/image/pushed has; log in first: skopeo login",
    )
    option(
        "--output",
        type=Path,
        help="what came out is written there (default: build/image/STACK.json or STACK-ARCH.json)",
    )
    option(
        "--scan",
        action="store_true",
        help="fail if grype knows a serious vulnerability in it that a newer package mends; by Go, of its database",
    )
    option(
        "--train",
        action="store_true",
        help="run the training job in the image and write the stack's list of classes anew",
    )
    option("--json", action="store_true", help="print that at the end as well; everything else goes to standard error")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Do it all, one at a time on this checkout."""
    asked = parse(arguments)
    stack_file = PROJECT / "docker" / "stacks" / f"{asked.stack}.toml"
    if not stack_file.is_file():
        known = ", ".join(sorted(path.stem for path in stack_file.parent.glob("*.toml")))
        stop(f"--stack {asked.stack}: there is no {stack_file.name} in docker/stacks; there is {known}")
    refuse_contradictions(asked)
    if asked.frameworks is None:
        asked.frameworks = ",".join(tomllib.loads(stack_file.read_text())["frameworks"])
    suffix = "" if asked.arch == HERE else f"-{asked.arch}"
    kind = "-local" if asked.local else ""
    asked.tag = asked.tag or f"localhost/sparklet{kind}:{asked.stack}{suffix}"
    asked.output = asked.output or BUILD / f"{asked.stack}{kind}{suffix}.json"
    clock, engine = Clock(), Engine(BUILD / "engine")
    emulated = "" if asked.arch == HERE else MACHINES[asked.arch]
    install_tools(clock, emulated)
    if emulated:
        emulate(emulated)
    engine.write_settings()
    with open(BUILD / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another build is at work here; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        base = asked.base_image or own_base(engine, clock, asked.fresh_base, asked.arch)
        tools = own_base(engine, clock, False, HERE) if emulated and not asked.base_image else ""
        build(engine, clock, asked, base, tools)
        report = {**described(engine, clock, asked), "base": base}
        asked.output.parent.mkdir(parents=True, exist_ok=True)
        asked.output.write_text(json.dumps(report, indent=1) + "\n")
    print_table(report)
    if asked.local:
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in engine.settings.items())
        say(f"podman finds it by {settings}")
    if asked.scan:
        scan(engine, clock, asked.tag)
    if asked.train:
        train(engine, clock, asked)
    if asked.push:
        with clock.step("push", f"push to {asked.push}"):
            stored, pushed = f"containers-storage:{asked.tag}", f"docker://{asked.push}"
            engine.run("skopeo", "copy", "--quiet", "--digestfile", BUILD / "pushed", stored, pushed)
    if asked.json:
        print(json.dumps(report, indent=1))


def refuse_contradictions(asked: argparse.Namespace) -> None:
    """End before any work if options do not go together, or one needs what is not here."""
    if asked.local and (asked.frameworks or asked.extras or asked.coordinates or asked.train):
        stop("--local has all table formats and nothing else: no --frameworks, --extras, --coordinates or --train")
    if asked.scan and not shutil.which("go"):
        stop("--scan needs Go, which fetches and builds grype; without it: docker scout, trivy")


def install_tools(clock: Clock, emulated: str) -> None:
    """Install what is missing with apt, where that is possible."""
    tools = [*TOOLS, *([f"qemu-{emulated}-static", "arch-test"] if emulated else [])]
    packages = [*PACKAGES, *(["qemu-user-static", "arch-test"] if emulated else [])]
    missing = [tool for tool in tools if not shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")]
    if not missing:
        return
    by_hand = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        stop(f"{', '.join(missing)} is not installed. On Debian or Ubuntu, as root: {by_hand}. Or use docker build")
    with clock.step("tools", f"install {', '.join(missing)} with apt"):
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
            answer = subprocess.run(["apt-get", *command], env=env, capture_output=True, text=True, check=False)
            if answer.returncode:
                stop(f"apt-get {command[0]} failed: {_last_line(answer.stderr)}. By hand: {by_hand}")


def emulate(machine: str) -> None:
    """Have the kernel run that machine's programs by qemu; Debian's line for it holds in containers, too (F)."""
    try:
        if not (BINFMT / "register").exists():
            subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT], check=False)
        if not (BINFMT / f"qemu-{machine}").exists():
            (BINFMT / "register").write_bytes(Path(f"/usr/lib/binfmt.d/qemu-{machine}.conf").read_bytes())
    except OSError as error:
        stop(f"this kernel cannot be told to run programs for {machine} by qemu: {error}")


def own_base(engine: Engine, clock: Clock, fresh: bool, arch: str) -> str:
    """The name of a base image made of Debian's packages; the same packages give the same bytes."""
    command = ["mmdebstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", f"--hook-dir={MERGED_USR}"]
    command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in UNWANTED]
    # setuid programs, and what only a package manager that runs here again would need
    command += ['--customize-hook=chroot "$1" find / -xdev -perm /6000 -type f -exec chmod a-s {} +']
    command += [
        '--customize-hook=rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/var/cache/ldconfig/aux-cache'
    ]
    command += [] if arch == HERE else [f"--architectures={DEBIAN[arch]}"]
    name = f"localhost/sparklet-base:{BASE_SUITE}-{hashlib.sha256(repr(command).encode()).hexdigest()[:12]}"
    if fresh or not engine.has_image(name):
        archive = BUILD / "base.tar"
        with clock.step("base", f"make a base of Debian {BASE_SUITE} with mmdebstrap"):
            os.environ["SOURCE_DATE_EPOCH"] = "0"
            engine.stream("mmdebstrap", BUILD / "base.log", "I: ", *command, BASE_SUITE, archive)
            engine.run("podman", "import", "--quiet", "--arch", DEBIAN[arch], archive, name)
            archive.unlink()
    return name


def build(engine: Engine, clock: Clock, asked: argparse.Namespace, base: str, tools: str) -> None:
    """Run the Dockerfile; on two bases of one's own, the image gets the processor of its own."""
    cache = Path(os.environ.get("SPARKLET_CACHE_DIR") or platformdirs.user_cache_dir("sparklet"))
    for name in ("apt", "jars", "wheels"):
        (cache / name).mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = ["buildah", "bud", "--isolation", "chroot", "--layers"]
    command += [] if asked.local else ["--timestamp", "0"]  # its archive of classes knows the jars by their dates
    # buildah itself passes this machine's HTTPS_PROXY and NO_PROXY, and keeps them out of the image
    command += ["--format", "docker"]  # as Docker's API builds: layers are shared within one format only
    command += ["--security-opt", "seccomp=unconfined"]  # the archive's dump turns random addresses off
    command += ["--pull-never"] if base.startswith("localhost/") else []
    command += ["--no-cache"] if asked.no_cache else []
    command += [] if asked.arch == HERE or tools else ["--platform", f"linux/{DEBIAN[asked.arch]}"]
    for name, value in (
        ("BASE_IMAGE", base),
        ("TOOLS_IMAGE", tools),
        ("MACHINE", "" if asked.arch == HERE else MACHINES[asked.arch]),
        ("STACK", asked.stack),
        ("FRAMEWORKS", asked.frameworks),
        ("EXTRAS", asked.extras),
        ("EXTRA_COORDINATES", asked.coordinates),
        ("VERSION", tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]),
        ("SPARKLET_MAVEN_MIRROR", os.environ.get("SPARKLET_MAVEN_MIRROR", "")),
        ("PIP_INDEX_URL", os.environ.get("PIP_INDEX_URL", "")),
    ):
        if value or name in ("FRAMEWORKS", "EXTRAS"):  # the very arguments that SAM passes: it finds these layers then
            command += ["--build-arg", f"{name}={value}"]
    if certificates := _certificates():  # what this machine trusts, for the build's downloads only
        shutil.copyfile(certificates, cache / "ca-certificates.crt")
    command += ["-v", f"{cache}:/mnt"]  # a folder that every base has: any other would be left behind in the image
    file = "local.Dockerfile" if asked.local else "Dockerfile"
    command += ["-f", PROJECT / "docker" / file, "-t", asked.tag, PROJECT]
    with clock.step("build", f"build {asked.tag} on {base}"):
        engine.stream("the build", BUILD / "build.log", " STEP ", *command)


def scan(engine: Engine, clock: Clock, tag: str) -> None:
    """End with the system's packages, jars and wheels in which there is a serious vulnerability, and a fix for it."""
    archive = BUILD / "scanned.tar"
    archive.unlink(missing_ok=True)
    with clock.step("scan", f"look for known vulnerabilities in {tag} with grype"):
        engine.run("podman", "save", "--quiet", "--output", archive, tag)
        # Spark's own jars change with Spark alone (make outdated).
        options = ["--only-fixed", "--fail-on", "high", "--quiet", "--exclude", "./opt/spark/jars/**"]
        found = subprocess.run(["go", "run", GRYPE, f"docker-archive:{archive}", *options], check=False)
        archive.unlink()
    if found.returncode:
        stop("grype has found what is above, or could not look")


def train(engine: Engine, clock: Clock, asked: argparse.Namespace) -> None:
    """Write the list of classes anew that the next build makes its class-data archive of."""
    command = ["podman", "run", "--rm", "--user", "0", "-v", f"{PROJECT / 'docker'}:/docker", "--entrypoint", "python3"]
    command += [asked.tag, "/docker/archive.py", "train", "--classes", f"/docker/stacks/{asked.stack}.classes.gz"]
    with clock.step("train", "run the training job; build again to use what it loaded"):
        engine.stream("the training job", BUILD / "train.log", "classes.gz", *command)


def _certificates() -> str:
    known = (
        os.environ.get("SSL_CERT_FILE", ""),
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
    )
    return next((path for path in known if path and Path(path).is_file()), "")


def described(engine: Engine, clock: Clock, asked: argparse.Namespace) -> dict[str, Any]:
    """What came out: the content of STACK.json."""
    [image] = json.loads(engine.run("podman", "image", "inspect", asked.tag))
    history = json.loads(engine.run("podman", "history", "--no-trunc", "--format", "json", asked.tag))
    steps = zip(reversed(history), image["History"], strict=True)  # the one has sizes, the other says what is a layer
    made = [entry for entry, step in steps if not step.get("empty_layer")]
    layers = [{"created_by": _shortened(entry["CreatedBy"]), "size_bytes": entry["size"]} for entry in made]
    if asked.compressed:
        with clock.step("compress", "measure the layers compressed"):
            for layer, size_bytes in zip(layers, compressed(engine, asked.tag), strict=True):
                layer["compressed_bytes"] = size_bytes
    return {
        "image": asked.tag,
        "id": image["Id"],
        "digest": image["Digest"],
        "stack": asked.stack,
        "frameworks": [name for name in asked.frameworks.split(",") if name],
        "extras": [name for name in asked.extras.split(",") if name],
        "size_bytes": sum(layer["size_bytes"] for layer in layers),
        "compressed_bytes": sum(layer.get("compressed_bytes", 0) for layer in layers) or None,
        "layers": layers,
        "diff_ids": image["RootFS"]["Layers"],
        "seconds": clock.seconds,
        "engine_env": engine.settings,
    }


def compressed(engine: Engine, tag: str) -> list[int]:
    """The sizes of the layers as a registry would hold them."""
    folder = BUILD / "compressed"
    shutil.rmtree(folder, ignore_errors=True)
    engine.run("skopeo", "copy", "--quiet", "--dest-compress", f"containers-storage:{tag}", f"dir:{folder}")
    layers = json.loads((folder / "manifest.json").read_text())["layers"]
    shutil.rmtree(folder)
    return [layer["size"] for layer in layers]


def _shortened(created_by: str) -> str:
    step, _, place = created_by.removeprefix("/bin/sh -c ").removeprefix("#(nop) ").partition(" in ")
    return f"{step.split()[0]} {place}".strip()[:100] if place else step[:100]


def print_table(report: dict[str, Any]) -> None:
    """Say what came out."""
    say(f"\n{report['image']}  {report['digest']}")
    for layer in report["layers"]:
        packed = f"{layer['compressed_bytes'] / 1e6:8.1f}" if "compressed_bytes" in layer else ""
        say(f"{layer['size_bytes'] / 1e6:8.1f} {packed} MB  {layer['created_by']}")
    packed = f", {report['compressed_bytes'] / 1e6:.1f} MB compressed" if report["compressed_bytes"] else ""
    say(f"{report['size_bytes'] / 1e6:8.1f} MB in all{packed}; {sum(report['seconds'].values()):.0f} s")


def say(what: str) -> None:
    """A line for whoever waits; standard output stays free for --json."""
    print(what, file=sys.stderr, flush=True)


def stop(why: str) -> NoReturn:
    """End with a reason."""
    sys.exit(f"docker/build.py: {why}")


def _last_line(text: str) -> str:
    return next(reversed([line for line in text.splitlines() if line.strip()]), "without a word")


if __name__ == "__main__":
    main(sys.argv[1:])
