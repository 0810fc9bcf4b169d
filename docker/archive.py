"""The class-data archive, with which a JVM's first query takes a third of the CPU: three steps, two of the build.

``archive.py options``  what Java is told in this image, as JSON: the archive is bound to exactly this class path
``archive.py dump``     the archive of the classes that the stack's list names, from those options on standard input
``archive.py train``    in a finished image: run a job and write that list anew (``docker/build.py --train``)

The list is locked in the repository beside the stack file, since two trainings never load quite the same classes, and
the image must be the same bytes each time. A dump adds the worker's own Java to it. A class that is not there (of a
format left out) is passed over.
"""

import argparse
import ctypes
import gzip
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ARCHIVE = Path("/opt/sparklet/cds/sparklet.jsa")
FORMATS = ("delta", "iceberg", "hudi")
ADDR_NO_RANDOMIZE = 0x0040000  # personality(2)
MAX_ROUNDS = 3  # of two dumps each
SLEEPY_CLASSES = "jdk/jfr/"  # loaded only where somebody records


def main() -> None:
    """Do the step that the command line names."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("step", choices=("options", "dump", "train"))
    arguments.add_argument("--classes", type=Path, help="dump, train: the list, gzipped")
    asked = arguments.parse_args()
    if asked.step == "options":
        print(json.dumps(java_options()))
    elif asked.step == "dump":
        dump(json.load(sys.stdin), asked.classes)
    else:
        train(asked.classes)


def java_options(*further: str) -> list[str]:
    """Java's command as the runners have it, up to the main class; heap and cores are nobody's matter here."""
    from sparklet.settings import spark_settings
    from sparklet.spark.spark_options import SUBMIT, class_path, java_command

    env = {name: value for name, value in os.environ.items() if name != "SPARKLET_CDS_ARCHIVE"}
    settings = spark_settings({**env, "SPARKLET_HEAP_MB": "1024", "SPARKLET_CORES": "2"})
    command = java_command(settings, class_path(settings), Path("/tmp"), {}, {}, options=further)  # noqa: S108
    return command[: command.index(SUBMIT)]


def dump(command: list[str], classes: Path) -> None:
    """Write the archive; a list that is not there leaves Java's own, which names Java's classes only."""
    from sparklet.local.class_data import read_names

    jars = command[-1].split(os.pathsep)
    if dated := [jar for jar in jars if Path(jar).stat().st_mtime != 0]:
        sys.exit(f"archive.py: {dated[0]} has a date other than 0; the archive would be refused once the image sets it")
    # A dump keeps a few addresses of libjvm; where they are not the same each time, neither are its bytes.
    fixed = ctypes.CDLL(None).personality(ADDR_NO_RANDOMIZE) != -1
    if not fixed:
        print("archive.py: addresses are random in this builder, so the image will not be the same bytes each time")
    ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ARCHIVE.parent) as folder:
        names = read_names(classes, Path(folder), map(Path, jars)) if classes.is_file() else None
        # Room enough that hardly anything is collected, and no finalizer gets in between.
        command = [*command[:-2], "-Xmx3g", "-Xmn2g", *command[-2:]]  # before -cp
        rounds = MAX_ROUNDS if fixed and not os.environ.get("MACHINE") else 0  # by qemu a dump takes many minutes
        archived(command, names, Path(folder), rounds).replace(ARCHIVE)
    ARCHIVE.chmod(0o644)
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size / 1e6:.0f} MB")


def archived(command: list[str], names: Path | None, folder: Path, rounds: int) -> Path:
    """An archive that two dumps agree on: Java's own threads race, and about one dump in thirty is another file.

    Without ``rounds``, of two dumps each, the only dump there is.
    """
    if not rounds:
        return _dumped(command, names, [folder / "only.jsa"])[0]
    seen: dict[str, Path] = {}
    for number in range(rounds):
        for path in _dumped(command, names, [folder / f"{number}-{twin}.jsa" for twin in range(2)]):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest in seen:
                return path
            seen[digest] = path
    print(f"archive.py: no two of {len(seen)} dumps are alike, so the image will not be the same bytes each time")
    return path


def _dumped(command: list[str], names: Path | None, paths: list[Path]) -> list[Path]:
    """Dumps at the same time, each on one processor: with two for it, ten dumps were ten files."""
    from sparklet.local.class_data import dump_command

    processors = sorted(os.sched_getaffinity(0))
    running = []
    for path, processor in zip(paths, itertools.cycle(processors)):
        os.sched_setaffinity(0, {processor})  # Java inherits it
        running.append(subprocess.Popen(dump_command(command, names, path), stdout=subprocess.DEVNULL))
    os.sched_setaffinity(0, processors)
    codes = [java.wait() for java in running]
    if any(codes):
        sys.exit("archive.py: java -Xshare:dump failed; its messages are above")
    return paths


def train(classes: Path) -> None:
    """Run the training job under spark-submit's classes and write what it loaded, sorted."""
    import sparklet.spark.spark_options as options
    from sparklet.settings import spark_settings

    settings = spark_settings()
    with tempfile.TemporaryDirectory() as folder:
        seen = Path(folder, "classes")
        command = java_options(f"-XX:DumpLoadedClassList={seen}")
        jars = options.class_path(settings)
        formats = [name for name in FORMATS if any(f"/{name}-spark" in jar for jar in jars)]
        conf = options.spark_defaults(settings, Path(folder), jars)
        command += [options.SUBMIT, *(part for key, value in conf.items() for part in ("--conf", f"{key}={value}"))]
        job = Path(__file__).with_name("training_job.py")
        env = {**os.environ, **options.process_env(settings, dict(os.environ))}
        if subprocess.run([*command, str(job), *formats], env=env, check=False).returncode:
            sys.exit("archive.py: the training job failed; its messages are above")
        lines = {line for line in seen.read_text().splitlines() if line and not line.startswith("#")}
    kept = sorted(line for line in lines if not line.startswith(SLEEPY_CLASSES))
    classes.write_bytes(gzip.compress("".join(f"{line}\n" for line in kept).encode(), mtime=0))
    print(f"{classes}: {len(kept)} lines")


if __name__ == "__main__":
    main()
