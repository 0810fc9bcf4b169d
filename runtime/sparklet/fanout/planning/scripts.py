"""Copies of scripts under ``runs/<run_id>/script/<sha256>/``: what a generation runs never changes under it."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sparklet.errors import ObjectChangedError, ObjectNotFoundError, PlanError
from sparklet.fanout.deployment import Deployment
from sparklet.model import Run, ScriptRef
from sparklet.ports import ObjectStore
from sparklet.s3_uri import SCHEME

PY_FILE_SUFFIXES = (".py", ".zip", ".whl", ".egg")


@dataclass(frozen=True, slots=True)
class ScriptFiles:
    """A script and its py-files as they were read: where each will lie, and its bytes."""

    ref: ScriptRef
    files: tuple[tuple[str, bytes], ...]


def read_script(
    at: Deployment, run_id: str, source: str, py_files: Sequence[str] = (), *, check_syntax: bool = True
) -> ScriptFiles:
    """Read a script and its py-files from ``s3://`` or local disk; nothing is written.

    Raises
    ------
    PlanError
        If one is not there or has the wrong suffix, or if the script cannot be compiled.
    """
    if not source.endswith(".py"):
        raise PlanError(f"the script {source} must be a .py file")
    body = _read(at.store, source, "script")
    if check_syntax:
        refuse_bad_syntax(source, body)
    files = [_placed(at, run_id, source, body)]
    for given in py_files:
        if not given.endswith(PY_FILE_SUFFIXES):
            raise PlanError(f"the py-file {given} must end in {', '.join(PY_FILE_SUFFIXES)}")
        files.append(_placed(at, run_id, given, _read(at.store, given, "py-file")))
    uris = [uri for uri, _ in files]
    ref = ScriptRef(uris[0], hashlib.sha256(body).hexdigest(), _whole(source), tuple(uris[1:]))
    return ScriptFiles(ref, tuple(files))


def keep_script(at: Deployment, script: ScriptFiles) -> ScriptRef:
    """Write the copies; what is there already has the same bytes, since its digest is in its name."""
    for uri, body in script.files:
        try:
            at.store.put(uri, body, create_only=True)
        except ObjectChangedError:
            continue
    return script.ref


def repaired_script(at: Deployment, run: Run, source: str, *, check_syntax: bool = True) -> ScriptRef:
    """Copy a repaired script for the next generation of a run; the py-files stay those of the last one."""
    ref = keep_script(at, read_script(at, run.run_id, source, check_syntax=check_syntax))
    return replace(ref, py_files=run.scripts[-1].py_files)


def script_name(source: str) -> str:
    """A script's name for people: its file's, without ``.py``."""
    return source.rpartition("/")[2].removesuffix(".py")


def refuse_bad_syntax(source: str, body: bytes) -> None:
    """PlanError with file and line if a script cannot be compiled: no shard could ever succeed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(body, source, "exec", dont_inherit=True)
    except SyntaxError as error:
        text = f": {error.text.strip()}" if error.text else ""
        raise PlanError(
            f"the script {source} cannot be compiled, line {error.lineno or 1}: {error.msg}{text}"
        ) from error
    except ValueError as error:
        raise PlanError(f"the script {source} cannot be compiled: {error}") from error


def _placed(at: Deployment, run_id: str, source: str, body: bytes) -> tuple[str, bytes]:
    name = source.rstrip("/").rpartition("/")[2]
    return at.run_uri(run_id, f"script/{hashlib.sha256(body).hexdigest()}/{name}"), body


def _whole(source: str) -> str:
    return source if source.startswith(SCHEME) else str(Path(source).resolve())


def _read(store: ObjectStore, source: str, what: str) -> bytes:
    try:
        return store.get(source) if source.startswith(SCHEME) else Path(source).read_bytes()
    except (ObjectNotFoundError, FileNotFoundError):
        raise PlanError(f"the {what} {source} is not there; check its spelling") from None
    except OSError as error:
        raise PlanError(f"the {what} {source} cannot be read: {error.strerror}") from error
