"""Handles a user's project: the jobs of ``sparklet.toml``, requirements for workers, and files that ``init`` writes."""

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
WORKFLOW_SOURCES = (  # the workflow's file in an installation, and in a checkout
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
    """Return the jobs of the folder's ``sparklet.toml`` by name; {} without the file. SettingsError if it is wrong."""
    document = _document(folder)
    tables = document.get("jobs", {} if document.keys() <= {"deploy"} else None)
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise SettingsError(f"{PROJECT} needs a table for each job, as in [jobs.sales]")
    if unknown_keys := sorted(document.keys() - {"jobs", "deploy"}):
        raise SettingsError(f"{PROJECT} has {unknown_keys[0]!r} outside of its jobs: write it into [jobs.NAME]")
    return tables


def deploy_options(folder: Path) -> Mapping[str, Any]:
    """Return the table ``[deploy]`` of the folder's ``sparklet.toml``; {} without it. SettingsError if it is wrong."""
    options: Any = _document(folder).get("deploy", {})
    is_table = isinstance(options, dict) and isinstance(options.get("parameters", {}), dict)
    unknown_keys = sorted(options.keys() - {*DEPLOY_TEXTS, "parameters"}) if is_table else []
    if not is_table or unknown_keys:
        unknown_text = f", not {unknown_keys[0]}" if unknown_keys else ""
        raise SettingsError(
            f"{PROJECT}: [deploy] can have {', '.join(DEPLOY_TEXTS)}, and a table of parameters{unknown_text}"
        )
    values = {**options, **options.get("parameters", {})}
    if wrong_keys := [key for key, value in values.items() if key != "parameters" and not isinstance(value, str | int)]:
        raise SettingsError(f"{PROJECT}, [deploy]: {wrong_keys[0]} must be a text or a number")
    return dict(options)


def job_options(folder: Path, name: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return a job's values by the names of a command's parameters; {} without jobs, or if ``name`` is a script's name.

    ``parameters`` are these names by the options' names without leading dashes. SettingsError if a key is not an
    option, if no option can have a value, or if ``name`` is not a job and has no suffix, as a script has.
    """
    if not (by_name := jobs(folder)):
        return {}
    if (job := by_name.get(name)) is None:
        if Path(name).suffix:
            return {}
        raise SettingsError(
            f"there is no script {name} here, and no job {name} in {PROJECT}, which has {', '.join(sorted(by_name))}"
        )
    value_by_parameter = dict[str, Any](name=name)
    for key, value in job.items():
        if not (parameter := parameters.get(key.replace("_", "-"))):
            close_matches = difflib.get_close_matches(key, parameters, 1)
            hint = f"; did you mean {close_matches[0]}?" if close_matches else ""
            raise SettingsError(f"{PROJECT}, [jobs.{name}]: {key} is not an option of this command{hint}")
        if isinstance(value, dict):  # as for params, env and conf, whose options are KEY=VALUE
            value = [f"{pair_key}={text if isinstance(text, str) else _json(text)}" for pair_key, text in value.items()]
        elif not isinstance(value, str | int | float | list):
            raise SettingsError(f"{PROJECT}, [jobs.{name}]: {key} is {value!r}; write it as a string, in quotes")
        value_by_parameter[parameter] = value
    if "script" not in value_by_parameter:
        raise SettingsError(f"{PROJECT}, [jobs.{name}]: there is no script")
    return value_by_parameter


def _json(value: Any) -> str:
    try:
        return json.dumps(value)
    except TypeError as error:
        raise SettingsError(f"{PROJECT}: {value!r} must be a text") from error


def write_starter(folder: Path) -> Iterator[tuple[str, bool]]:
    """Write those files of a new project that do not exist yet; yield each file's name, and whether it was written."""
    workflow = next(path for path in WORKFLOW_SOURCES if path.is_file())
    sources = {str(path.relative_to(STARTER)): path for path in sorted(STARTER.rglob("*.*")) if path.is_file()}
    sources = {
        name: path for name, path in sources.items() if path not in WORKFLOW_SOURCES and "__pycache__" not in name
    }
    for name, source in {**sources, WORKFLOW: workflow}.items():
        target = folder / name
        is_new = not target.exists()
        if is_new:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
        yield name, is_new


MACHINE_TAGS = {"x86_64": "x86_64", "arm64": "aarch64"}  # wheels' names of Lambda's architectures
GLIBC_MINOR = 34  # glibc 2.34 of Amazon Linux 2023, on which the worker's image is based
PYTHON = "3.11"  # the version in the worker's image
MAX_BYTES = 1024 * MIB  # of unpacked libraries, which share /tmp with the shard


@contextmanager
def packed_requirements(requirements: Path, size: WorkerSize) -> Iterator[Path]:
    """Yield a py-file with the libraries of a requirements file, for the workers' Python and processor.

    Raises
    ------
    SettingsError
        If a library has no wheel for the workers; with the end of pip's output.
    PlanError
        If the libraries have more than MAX_BYTES, or the requirements file does not exist.
    """
    if not requirements.is_file():
        raise PlanError(f"--requirements {requirements}: there is no such file")
    architecture, python = size.architecture, PYTHON
    if size.is_local:
        architecture_by_tag = {tag: name for name, tag in MACHINE_TAGS.items()}
        architecture = architecture_by_tag.get(platform.machine(), platform.machine())
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory(prefix="sparklet-requirements-") as temporary:
        install_requirements(folder := Path(temporary) / "libraries", requirements, architecture, python)
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
        if (size_bytes := sum(path.stat().st_size for path in paths)) > MAX_BYTES:
            raise PlanError(
                f"the libraries of {requirements} have {size_text(size_bytes)}, more than {size_text(MAX_BYTES)}: put "
                "them into the image (docs/guide/image.md)"
            )
        (libraries := Path(temporary) / LIBRARIES).write_bytes(
            packed({path.relative_to(folder).as_posix(): path for path in paths})
        )
        yield libraries


def install_requirements(target: Path, requirements: Path, architecture: str, python: str) -> None:
    """Install the requirements for workers into ``target``; SettingsError with the end of pip's output if it fails."""
    machine = MACHINE_TAGS.get(architecture, architecture)
    # pip compares platform tags only by name: it finds a wheel for an older glibc only if that tag is listed, too.
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC_MINOR, 16, -1)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target)]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", "-r", str(requirements)]
    command += [f"--platform={tag}" for tag in (*tags, f"manylinux2014_{machine}")]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        raise SettingsError(f"pip could not install {requirements}: {result.stderr.strip()[-1000:]}")
