"""A project's own files: the jobs that ``sparklet.toml`` names, its requirements as workers need them, and what
``sparklet init`` writes to begin with.
"""

import difflib
import json
import platform
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparklet.app.costs import WorkerSize
from sparklet.app.reporter import size_text
from sparklet.errors import PlanError, SettingsError
from sparklet.job.bundle import packed
from sparklet.model import LIBRARIES, MIB

PROJECT = "sparklet.toml"
DEPLOY_TEXTS = ("stack", "image", "artifact_bucket")
STARTER = Path(__file__).parent / "starter"
WORKFLOW = ".github/workflows/tests.yml"
PLACES = (  # of the workflow: in an installation, and in a checkout
    STARTER / "tests.yml",
    Path(__file__).parents[3] / "examples" / "github-actions.yml",
)


def _document(folder: Path) -> dict[str, Any]:
    try:
        return tomllib.loads((folder / PROJECT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{PROJECT} is not TOML: {error}") from error


def jobs(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """The jobs of the folder's ``sparklet.toml``, by name; none without the file. SettingsError if it is wrong."""
    document = _document(folder)
    tables = document.get("jobs", {} if document.keys() <= {"deploy"} else None)
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise SettingsError(f"{PROJECT} needs a table for each job, as in [jobs.sales]")
    if others := sorted(document.keys() - {"jobs", "deploy"}):
        raise SettingsError(f"{PROJECT} has {others[0]!r} beside its jobs: write it into [jobs.NAME]")
    return tables


def deploy_options(folder: Path) -> Mapping[str, Any]:
    """The table ``[deploy]`` of the folder's ``sparklet.toml``; none without it. SettingsError if it is wrong."""
    options: Any = _document(folder).get("deploy", {})
    is_table = isinstance(options, dict) and isinstance(options.get("parameters", {}), dict)
    if not is_table or (others := sorted(options.keys() - {*DEPLOY_TEXTS, "parameters"})):
        what = f", not {others[0]}" if is_table else ""
        raise SettingsError(f"{PROJECT}, [deploy] takes {', '.join(DEPLOY_TEXTS)} and a table of parameters{what}")
    values = {**options, **options.get("parameters", {})}
    if wrong := [key for key, value in values.items() if key != "parameters" and not isinstance(value, str | int)]:
        raise SettingsError(f"{PROJECT}, [deploy]: {wrong[0]} must be a text or a number")
    return dict(options)


def job_options(folder: Path, name: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    """A job's values, by the names of a command's parameters; empty without jobs, or if ``name`` is a script's.

    ``parameters``: the parameters' names, by the options' names without leading dashes. SettingsError for a key that is
    not an option, a value that no option takes, and a name that is neither a job nor looks like a script.
    """
    if not (by_name := jobs(folder)):
        return {}
    if (job := by_name.get(name)) is None:
        if Path(name).suffix:
            return {}
        raise SettingsError(
            f"there is no script {name} here, and no job {name} in {PROJECT}, which has {', '.join(sorted(by_name))}"
        )
    chosen = dict[str, Any](name=name)
    for key, value in job.items():
        if not (parameter := parameters.get(key.replace("_", "-"))):
            near = difflib.get_close_matches(key, parameters, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise SettingsError(f"{PROJECT}, [jobs.{name}]: {key} is not an option of this command{hint}")
        if isinstance(value, dict):  # params, env, conf: pairs
            value = [f"{pair_key}={text if isinstance(text, str) else _json(text)}" for pair_key, text in value.items()]
        elif not isinstance(value, str | int | float | list):
            raise SettingsError(f"{PROJECT}, [jobs.{name}]: {key} is {value!r}; write it as a text")
        chosen[parameter] = value
    if "script" not in chosen:
        raise SettingsError(f"{PROJECT}, [jobs.{name}]: there is no script")
    return chosen


def _json(value: Any) -> str:
    try:
        return json.dumps(value)
    except TypeError as error:
        raise SettingsError(f"{PROJECT}: {value!r} must be a text") from error


def write_starter(folder: Path) -> Iterator[tuple[str, bool]]:
    """Write the files of a new project that are not there yet: each name, and whether it is new."""
    workflow = next(path for path in PLACES if path.is_file())
    sources = {str(path.relative_to(STARTER)): path for path in sorted(STARTER.rglob("*.*")) if path.is_file()}
    sources = {name: path for name, path in sources.items() if path not in PLACES and "__pycache__" not in name}
    for name, source in {**sources, WORKFLOW: workflow}.items():
        target = folder / name
        is_new = not target.exists()
        if is_new:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
        yield name, is_new


TAGS = {"x86_64": "x86_64", "arm64": "aarch64"}
GLIBC = 34  # 2.34: Amazon Linux 2023, as the worker's image
PYTHON = "3.11"  # of the image
MAX_BYTES = 1024 * MIB  # unpacked: they share /tmp with the shard


@contextmanager
def packed_requirements(requirements: Path, size: WorkerSize) -> Iterator[Path]:
    """A py-file with what a requirements file names, for the workers' Python and processor.

    Raises
    ------
    SettingsError
        With pip's last words, if a library has no wheel for the workers.
    PlanError
        If they have more than MAX_BYTES, or the file is not there.
    """
    if not requirements.is_file():
        raise PlanError(f"--requirements {requirements}: there is no such file")
    architecture, python = size.architecture, PYTHON
    if size.is_local:
        by_machine = {tag: name for name, tag in TAGS.items()}
        architecture = by_machine.get(platform.machine(), platform.machine())
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory(prefix="sparklet-requirements-") as name:
        install_requirements(folder := Path(name) / "libraries", requirements, architecture, python)
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
        if (size_bytes := sum(path.stat().st_size for path in paths)) > MAX_BYTES:
            raise PlanError(
                f"the libraries of {requirements} have {size_text(size_bytes)}, more than {size_text(MAX_BYTES)}: put "
                "them into the image (docs/guide/image.md)"
            )
        (libraries := Path(name) / LIBRARIES).write_bytes(
            packed({path.relative_to(folder).as_posix(): path for path in paths})
        )
        yield libraries


def install_requirements(target: Path, requirements: Path, architecture: str, python: str) -> None:
    """The requirements as the workers need them; SettingsError with pip's last words."""
    machine = TAGS.get(architecture, architecture)
    # pip compares tags by their names alone: a wheel for an older glibc is found only if its tag is named, too.
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC, 16, -1)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target)]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", "-r", str(requirements)]
    command += [f"--platform={tag}" for tag in (*tags, f"manylinux2014_{machine}")]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SettingsError(f"pip could not install {requirements}: {done.stderr.strip()[-1000:]}")
