"""What the image holds beside the distribution's packages: run inside the build, one step a layer.

``fetch.py spark|jars|wheels|trust|bill`` writes below /out what later stages copy. Everything comes from the stack
file, with its sha256; what arrived once is kept in the folder that the build may mount at /mnt. Only
the standard library and the fetcher of the local mode.
"""

import argparse
import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import requirements_of

CACHE = Path("/mnt")
SOURCE = Path(__file__).resolve().parents[1]
OUT = Path("/out")
SPARK = Path("/opt/spark")
PYSPARK = "pyspark=="
MACHINE = os.environ.get("MACHINE") or os.uname().machine  # the image's; named where it is not the builder's
CERTIFICATES = CACHE / "ca-certificates.crt"

# Cluster managers that local mode never starts, and the Scala shell with its compiler.
DEAD_WEIGHT = (
    "kubernetes-*",
    "spark-kubernetes_*",
    "okhttp-*",
    "okio-*",
    "logging-interceptor-*",
    "zjsonpatch-*",
    "snakeyaml-engine-*",
    "mesos-*",
    "spark-mesos_*",
    "spark-yarn_*",
    "spark-repl_*",
    "scala-compiler-*",
    "connect-repl/*",
    "netty-*-osx-*",
    "netty-*-windows-*",
    "netty-transport-native-kqueue-*",
)
# Native libraries of other platforms, in jars that carry all of them: 70 MB.
FOREIGN_NATIVES = (
    "*.dll",
    "*.dylib",
    "*.jnilib",
    "*ppc64*",
    "*s390x*",
    "*riscv64*",
    "*loongarch64*",
    "*-musl.so",
    "*linux32*",
    "*/linux32/*",
    "*/linux/i386/*",
    "*/linux/x86/*",
    "*/linux/arm/*",
    "*/linux/armv6/*",
    "*/linux/armv7/*",
    "*/linux/android-*",
    "*/linux/mips64/*",
    "*/FreeBSD/*",
    "*/freebsd/*",
    "*/SunOS/*",
    "*/AIX/*",
    "*/aix/*",
    "*/sunos/*",
    "*/Linux/x86/*",
    "*/Linux/arm/*",
    "*/Linux/armv6/*",
    "*/Linux/armv7/*",
    "*/Linux/android-*/*",
)
JARS_WITH_NATIVES = (
    "rocksdbjni-*",
    "zstd-jni-*",
    "snappy-java-*",
    "lz4-java-*",
    "leveldbjni-all-*",
    "commons-crypto-*",
)
# Headers, tests of the libraries themselves, and pyarrow's remote protocol, which nothing here speaks.
UNUSED = (
    "numpy/**/tests",
    "pandas/tests",
    "pyarrow/include",
    "pyarrow/tests",
    *(f"pyarrow/{name}*" for name in ("libarrow_flight", "libarrow_python_flight", "_flight")),
)
GLIBCS = ("manylinux_2_28", "manylinux_2_24", "manylinux_2_17", "manylinux2014")  # as docker/lock_stacks.py has them
OTHER_CPU = {"x86_64": ("*aarch64*", "*arm64*", "*aarch_64*"), "aarch64": ("*x86_64*", "*linux64.so", "*amd64*")}


def main() -> None:
    """Do the one step that the command line names."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("step", choices=sorted(STEPS))
    arguments.add_argument("--stack", type=Path, required=True, help="the stack file")
    arguments.add_argument("--groups", default="", help="frameworks and extras, comma-separated")
    arguments.add_argument("--coordinates", default="", help="further jars, organisation:artifact:version[=sha256]")
    asked = arguments.parse_args()
    if CERTIFICATES.is_file():  # behind a proxy that inspects TLS
        os.environ.update(SSL_CERT_FILE=str(CERTIFICATES), PIP_CERT=str(CERTIFICATES))
    STEPS[asked.step](asked)


def spark(asked: argparse.Namespace) -> None:
    """Unpack pyspark without what local mode never uses; its archive is what pip would build a wheel from."""
    [pyspark] = [line for line in distributions(asked) if line.startswith(PYSPARK)]
    [archive] = downloaded([pyspark]).glob("pyspark-*.tar.gz")
    home = OUT / "spark"
    with tarfile.open(archive) as source:
        for member in source:
            content = source.extractfile(member) if member.isfile() else None
            if content and (place := place_in_spark(member.name)):
                (home / place).parent.mkdir(parents=True, exist_ok=True)
                with (home / place).open("wb") as file:
                    shutil.copyfileobj(content, file)
                (home / place).chmod(member.mode)
    for jar in (home / "jars").glob("*.jar"):
        if any(fnmatch.fnmatch(jar.name, f"{pattern}.jar") for pattern in JARS_WITH_NATIVES):
            drop_foreign_natives(jar)
    remove_signatures(home / "jars")
    information = OUT / "python-spark" / f"{archive.name.removesuffix('.tar.gz')}.dist-info"
    information.mkdir(parents=True)
    (home / "PKG-INFO").rename(information / "METADATA")
    (information.parent / "pyspark").symlink_to(SPARK)
    precompile(home)
    finish(home, OUT / "python-spark")


def place_in_spark(name: str) -> str:
    """Where a file of pyspark's source archive lies in an installed pyspark; empty if it is left out."""
    _, _, inner = name.partition("/")
    if inner == "PKG-INFO":
        return inner
    root, _, rest = inner.partition("/")
    if root == "pyspark":
        return rest
    if root != "deps" or not rest.startswith(("jars/", "bin/", "licenses/")):
        return ""
    dropped = any(fnmatch.fnmatch(rest, f"jars/{pattern}.jar") for pattern in DEAD_WEIGHT)
    return "" if dropped or rest.endswith(".cmd") else rest


def drop_foreign_natives(jar: Path) -> None:
    """Write the jar anew without native libraries for other systems and processors."""
    foreign = (*FOREIGN_NATIVES, *OTHER_CPU[MACHINE])
    lighter = jar.with_suffix(".lighter")
    with zipfile.ZipFile(jar) as whole, zipfile.ZipFile(lighter, "w", zipfile.ZIP_DEFLATED) as kept:
        for entry in whole.infolist():
            if not any(fnmatch.fnmatchcase(entry.filename, pattern) for pattern in foreign):
                kept.writestr(entry, whole.read(entry), zipfile.ZIP_DEFLATED)
    lighter.replace(jar)


def remove_signatures(folder: Path) -> None:
    """Let the class-data archive have the classes of signed jars, too."""
    sys.path.insert(0, str(SOURCE / "runtime"))
    from sparklet.local.prepared_jars import unsigned_copies

    for copy in unsigned_copies(folder, folder / "unsigned"):
        copy.replace(folder / copy.name)
    (folder / "unsigned").rmdir()


def jars(asked: argparse.Namespace) -> None:
    """The stack's jars of these groups, and further ones, with the very fetcher of the local mode."""
    sys.path[:0] = [str(SOURCE / "runtime"), str(OUT / "python-spark")]
    if not SPARK.exists():  # where pyspark's link leads: Ivy is among its jars
        SPARK.symlink_to(OUT / "spark")
    from sparklet.local import ivy
    from sparklet.local.jars import ensure_jars, load_stack

    stack = load_stack(asked.stack)
    wanted = {"s3a", *asked.groups.split(",")}.intersection(stack.groups)  # distributions have groups of their own
    folder = OUT / "jars"
    folder.mkdir(parents=True)
    fetched = ensure_jars(asked.stack, CACHE / "jars", wanted, say)
    for jar in fetched:
        shutil.copyfile(jar, folder / jar.name)
    (folder / "ORDER").write_text("".join(f"{jar.name}\n" for jar in fetched))
    extra = OUT / "extra-jars"
    shutil.copytree(
        SOURCE / "docker" / "extra-jars", extra, ignore=lambda _, names: {n for n in names if not n.endswith(".jar")}
    )
    for coordinate, _, sha256 in (text.partition("=") for text in asked.coordinates.replace(",", " ").split()):
        fetch_extra(ivy, coordinate, sha256, extra)
    finish(folder, extra)


def fetch_extra(ivy: Any, coordinate: str, sha256: str, folder: Path) -> None:
    """One jar of the user's own by its coordinates; verified if its sha256 was given, else told."""
    work = OUT / "ivy"
    work.mkdir(parents=True, exist_ok=True)
    jar = ivy.Coordinate.parse(coordinate)
    if cause := ivy.fetch([jar], work, say):
        sys.exit(f"EXTRA_COORDINATES: {coordinate} cannot be had: {cause}")
    arrived = work / "out" / jar.file_name
    found = hashlib.sha256(arrived.read_bytes()).hexdigest()
    if sha256 and found != sha256:
        sys.exit(
            f"EXTRA_COORDINATES: {coordinate} has sha256 {found}, not {sha256}: it was changed, or the sha256 is wrong"
        )
    say(f"{coordinate}={found}" + ("" if sha256 else "  (not verified: give this with its sha256)"))
    shutil.copyfile(arrived, folder / jar.file_name)


def wheels(asked: argparse.Namespace) -> None:
    """Install the stack's wheels without pip's own traces, compiled so that no file date matters."""
    wanted = [line for line in distributions(asked) if not line.startswith(PYSPARK)]
    target = OUT / "python"
    install(wanted, target, "--no-compile")
    unused = [path for pattern in UNUSED for path in target.glob(pattern)]
    for path in (target / "bin", *unused):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    precompile(target)
    finish(target)


def trust(asked: argparse.Namespace) -> None:
    """Java trusts what the base image trusts."""
    sys.path.insert(0, str(SOURCE / "runtime"))
    from sparklet.local.java import jks, machine_certificates

    os.environ.pop("SSL_CERT_FILE", None)  # what the building machine trusts stays out of the image
    certificates = machine_certificates({})
    if not certificates:
        sys.exit("the base image has no bundle of certificate authorities: install ca-certificates in it")
    store = Path("/opt/java/lib/security/cacerts")
    store.unlink(missing_ok=True)
    store.write_bytes(jks(certificates))
    say(f"Java trusts {len(certificates)} authorities")


def bill(asked: argparse.Namespace) -> None:
    """The library that writes the bill of materials, for a stage of which the image holds only what it wrote."""
    install(locked("sbom.lock"), OUT / "bill", "--quiet")


STEPS = {"bill": bill, "jars": jars, "spark": spark, "trust": trust, "wheels": wheels}


def distributions(asked: argparse.Namespace) -> list[str]:
    """Requirements with hashes, in pip's form."""
    stack = tomllib.loads(asked.stack.read_text())
    return list(requirements_of.requirements(stack, [group for group in asked.groups.split(",") if group]))


def downloaded(wanted: list[str], *options: str) -> Path:
    """A folder with exactly these archives, verified by pip; asked of the network only if they are not there yet."""
    name = hashlib.sha256("\n".join([sys.version, os.uname().machine, *options, *wanted]).encode()).hexdigest()[:16]
    folder = CACHE / "wheels" / name
    if not (folder / "complete").exists():
        into = ["--quiet", "--no-deps", "--no-build-isolation", "--dest", str(folder)]
        pip("download", *into, *verified(wanted), *options)
        (folder / "complete").touch()
    return folder


def verified(wanted: list[str]) -> list[str]:
    """Options that have pip take exactly these requirements, by their hashes."""
    file = OUT / "requirements.txt"
    OUT.mkdir(exist_ok=True)
    file.write_text("\n".join(wanted) + "\n")
    return ["--require-hashes", "-r", str(file)]


def install(wanted: list[str], target: Path, *options: str) -> None:
    """Install exactly these requirements, which are downloaded first, into a folder."""
    machines = [] if os.uname().machine == MACHINE else ["--only-binary", ":all:"]
    machines += [f"--platform={glibc}_{MACHINE}" for glibc in GLIBCS if machines]
    found = ["--no-index", "--find-links", str(downloaded(wanted, *machines)), *verified(wanted)]
    pip("install", "--no-deps", "--target", str(target), *machines, *found, *options)


def locked(name: str) -> list[str]:
    """The requirements of a lock file, a line each."""
    lock = (SOURCE / "requirements" / name).read_text().replace("\\\n", " ")
    return [line for line in lock.splitlines() if not line.lstrip().startswith("#")]


def precompile(folder: Path) -> None:
    """Byte code that is taken as it is, whatever the files' dates: the image is read-only and its dates are 0."""
    command = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    # A library may carry a file for another Python, so the exit code says nothing.
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    subprocess.run([*command, "-s", str(folder), str(folder)], check=False, env=env)


def finish(*folders: Path) -> None:
    """All dates 0, since the archive is bound to those of the jars; everything readable for every user."""
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
            os.utime(path, (0, 0), follow_symlinks=False)


def pip(*words: str) -> None:
    """Run pip; its own words say what is wrong."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *words]
    if subprocess.run(command, check=False, env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}).returncode:
        sys.exit(f"pip {words[0]} failed: its messages are above")


def say(what: str) -> None:
    """A line in the build's log."""
    print(what, flush=True)


if __name__ == "__main__":
    main()
