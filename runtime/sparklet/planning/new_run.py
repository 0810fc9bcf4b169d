"""From a request to a run in the ledger; the same request again continues the run.

A local script's run brings the modules that the script imports from its folder, packed as Python finds them there:
``python job.py`` and spark-submit have this folder on the path, so ``import helpers`` means the file or the package of
this name beside the script, before any other.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sparklet.errors import NothingNewError, ObjectNotFoundError, PlanError, RunExistsError
from sparklet.job.bundle import packed
from sparklet.job.catalogs import catalog_properties
from sparklet.job.fields import INFER, SCHEMA
from sparklet.model import (
    CONF_FILE,
    FOLLOWER_ID,
    INPUT,
    MIB,
    MODULES,
    PY_FILE_SUFFIXES,
    RUN_ID,
    SCHEME,
    NextRun,
    Run,
    ScriptRef,
    follower_id,
    split_uri,
)
from sparklet.model.options import NO_LIMIT_BYTES, REFUSE
from sparklet.planning import routes
from sparklet.planning.inputs.list_requests import TABLE, stored_source
from sparklet.planning.inventory import refuse_other_regions
from sparklet.planning.output_claims import refuse_another_open, refuse_outputs, take_outputs
from sparklet.planning.packing import PackedInput, too_large
from sparklet.planning.request import RUN_ID_IN_OUTPUT, RunRequest, output_folder
from sparklet.ports import ObjectStore
from sparklet.ports.deployment import Deployment, put_once
from sparklet.spark.script import Script

MAX_SLUG = 40  # characters of a name, so that time and suffix fit into the 63 of a run id


def new_run(
    deployment: Deployment, request: RunRequest, packed: PackedInput | None = None, *, even_empty: bool = False
) -> Run:
    """Check a run's input, output and scripts, copy its scripts and lists, and enter the run into the ledger.

    The check reads the input into ``packed``, unless a preview did, so that ``plan`` need not read it again. If the
    ledger has the same run already, that is returned, and ``plan`` continues it; RunExistsError if the ledger has
    another run with this id. PlanError if input, output or script are not usable, or an incremental run of the same
    name has not ended. NothingNewError if earlier runs have done everything, unless the run is entered ``even_empty``.
    """
    run_id = run_id_of(request, deployment.clock.now_s())
    existing_run = deployment.known_run(run_id)
    sources = filter(None, (request.script, request.check, request.next))
    extra_files = files_beside(request.py_files, request.spark_files, request.conf, deployment.store)
    scripts = {source: read_script(deployment, run_id, source, extra_files) for source in sources}
    if request.params.get(SCHEMA) == INFER:
        _refuse_script_without_reader(request, scripts[request.script].script)
    spark_lines = {source: routes.requested_spark(source, files.script) for source, files in scripts.items()}
    if any(spark_lines.values()) and not existing_run:
        routes.refuse_wrong_spark(deployment, spark_lines)
    earlier_options = existing_run.options if existing_run else None
    options = routes.with_chosen_engines(
        deployment, request.options, request.table, spark_lines.values(), earlier_options
    )
    output = request.output_uri or (f"s3://{deployment.bucket}/output/{RUN_ID_IN_OUTPUT}/" if request.table else "")
    next_output = request.next_output or f"s3://{deployment.bucket}/output/{RUN_ID_IN_OUTPUT}-next/"
    request = replace(
        request,
        run_id=run_id,
        options=options,
        output_uri=output_folder(output, run_id),
        next_output=output_folder(next_output, run_id) if request.next else "",
    )
    if existing_run:
        return _check_same_run(existing_run, request, scripts)
    if request.table.startswith("iceberg:"):
        _refuse_unusable_iceberg(deployment, request)
    if request.options.incremental:
        refuse_another_open(deployment, request.run_name, run_id)
    with nullcontext(packed) if packed else closing(PackedInput()) as packed_input:
        run = _checked_run(deployment, request, scripts, even_empty, packed_input)
        lists = zip(run.lists, packed_input.lists, strict=True)
    refuse_outputs(deployment, run)
    # Files first, then the run, then its claim. A kill in between leaves files that no run names, but their names are
    # digests, so that the next try uses them; or it leaves a run without a claim, which its planner makes.
    put_once(deployment.store, *(file for script in scripts.values() for file in script.files))
    put_once(deployment.store, *((source.uri, reader.body) for source, reader in lists if reader.body is not None))
    try:
        deployment.ledger.runs.create(run)
    except RunExistsError:
        # Either another request was faster, or the run was deleted: the ledger never accepts its id again.
        if not (existing_run := deployment.known_run(run_id)):
            raise
        return _check_same_run(existing_run, request, scripts)
    take_outputs(deployment, run)
    return run


def _refuse_script_without_reader(request: RunRequest, script: Script) -> None:
    if not (request.py_files or script.infers_a_schema):
        raise PlanError(
            f"the script {request.script} does not call job.read_csv(spark), which infers a schema; let it do so, "
            "or leave out --schema infer"
        )


def enter_follower(deployment: Deployment, parent: Run, follower: Run) -> Run:
    """Enter the run, of a kind and number, that follows its parent; return it, or the run that was entered before.

    It gets its parent's environment, the parent's schema unless it has one, and a folder of its own unless it names an
    output. CheckpointConflictError if the parent was cancelled, has ended or has another generation.
    """
    run_id = follower_id(parent.run_id, follower.kind, follower.number)
    run = replace(
        follower,
        run_id=run_id,
        output_uri=follower.output_uri or f"s3://{deployment.bucket}/output/{run_id}/",
        name=f"{parent.name}-{follower.kind}",
        env=parent.env,
        schema=follower.schema or parent.schema,
        parent=parent.run_id,
        created_s=deployment.clock.now_s(),
    )
    return deployment.ledger.runs.follow(parent, run)


def _refuse_unusable_iceberg(deployment: Deployment, request: RunRequest) -> None:
    """PlanError if no commit to the run's Iceberg table can succeed.

    So it is if no setting names a catalog, or if the stack sets WriteEncryption. If the functions' settings are not
    known, nothing is checked.
    """
    if (functions := deployment.function_settings()) is None:
        return
    if functions.get("SPARKLET_WRITE_ENCRYPTION"):
        raise PlanError(
            f"{request.table} cannot be committed with the stack's WriteEncryption, which Iceberg's client of S3 does "
            "not use; take delta, hudi or parquet, or a bucket that encrypts by default"
        )
    properties = catalog_properties({**functions, **request.env}, request.params.get("warehouse"))
    if not properties.keys() & {"type", "uri"}:
        raise PlanError(
            f"no catalog is set for {request.table}: use Glue's with --param warehouse=glue:s3://BUCKET/LAKE, or "
            "another one with --env PYICEBERG_CATALOG__ICEBERG__TYPE=… and further variables, or set one when you "
            "deploy (docs/guide/tables.md)"
        )


def run_id_of(request: RunRequest, now_s: float) -> str:
    """The run's id: the requested one, or else one that begins with the run's name.

    With an idempotency key it ends with the key's digest, ``flights-5f2b8c1d9e07``, else with the time (UTC) and a
    random suffix, ``flights-20130101t120000-3f9a1c``.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", request.run_name.lower()).strip("-")[:MAX_SLUG].rstrip("-") or "run"
    if request.idempotency_key:
        return f"{slug}-{hashlib.sha256(request.idempotency_key.encode()).hexdigest()[:12]}"
    if not (run_id := request.run_id):
        return f"{slug}-{datetime.fromtimestamp(now_s, UTC):%Y%m%dt%H%M%S}-{secrets.token_hex(3)}"
    if not RUN_ID.fullmatch(run_id):
        raise PlanError(f"the run id {run_id!r} must be 1 to 63 of a-z, 0-9 and -, beginning with a letter or digit")
    if FOLLOWER_ID.search(run_id):
        raise PlanError(f"the run id {run_id!r} ends like the id of a run that follows another run; choose another id")
    return run_id


def _checked_run(
    deployment: Deployment,
    request: RunRequest,
    scripts: "dict[str, ScriptFiles]",
    even_empty: bool,
    packed: PackedInput,
) -> Run:
    """The run as it enters the ledger, after the checks of its input and output."""
    store, options, inputs = packed.open(deployment, request), request.options, packed.inputs
    if (packed.lists or len(inputs) > 1) and any(INPUT in argument for argument in request.args):
        raise PlanError(
            f"{INPUT} in the script's arguments stands for the run's input, and this run has several or a list: give "
            "it one --input, or let the script read job.inputs"
        )
    sparklets_folder = {"Sparklet's own folder": deployment.runs_uri}
    refuse_own_output(inputs, {"the output": request.output_uri, **sparklets_folder})
    if request.next:
        refuse_own_output((*inputs, request.output_uri), {"the output": request.next_output, **sparklets_folder})
        if request.output_uri.startswith(request.replaced_folders[1:]):
            raise PlanError(
                f"the output {request.output_uri}, which the next run reads, lies inside {request.next_output}, which "
                "it replaces: name another next output"
            )
    refuse_other_regions(store, {split_uri(uri)[0] for uri in inputs})
    run = Run(
        run_id=request.run_id,
        inputs=inputs,
        output_uri=request.output_uri,
        local_output=request.local_output,
        scripts=(scripts[request.script].ref,),
        args=request.args,
        params=request.params,
        env=request.env,
        options=options,
        name=request.run_name,
        lists=tuple(
            stored_source(deployment, request.run_id, number, reader) for number, reader in enumerate(packed.lists)
        ),
        access=request.access,
        dispatch=request.dispatch,
        table=request.table,
        check=scripts[request.check].ref if request.check else None,
        next=_next_run(request, scripts),
        created_s=deployment.clock.now_s(),
    )
    # Whether the run is refused for a shard that is too large for a function: no engine does it, whatever its size.
    refuses_large = options.too_large == REFUSE and routes.of_size(options, NO_LIMIT_BYTES) == (True, "")
    try:
        # Shards can start before the whole input is listed, unless a later object may be a reason to refuse the run.
        may_refuse = refuses_large or options.output_per or "refuse" in (options.archived, options.missing)
        preview = packed.read(deployment, request, limit=options.limit, to_end=bool(may_refuse) or options.limit > 0)
    except NothingNewError:
        # The request of an event, such as a schedule's, gets a run without shards; a user gets the error.
        if not even_empty:
            raise
        return run
    if refuses_large and preview.too_large:
        raise too_large(packed, options)
    # The buckets of lists are known only now that the lists were read.
    if packed.lists:
        refuse_other_regions(store, {bucket for reader in packed.lists for bucket in reader.buckets})
    return replace(run, partitions=packed.partitions.examples)


def refuse_own_output(inputs: Iterable[str], places: Mapping[str, str]) -> None:
    """PlanError if one of the places to which a run writes is in an input; folders end with a slash."""
    for folder in (uri for uri in inputs if uri.endswith("/")):
        for description, place in places.items():
            if place.startswith(folder):
                raise PlanError(
                    f"{description} {place} lies inside the input {folder}, so files that are written there "
                    f"would be planned as input; choose another input or output"
                )


def _check_same_run(existing_run: Run, request: RunRequest, scripts: "dict[str, ScriptFiles]") -> Run:
    """The existing run; RunExistsError, which names the differences, if the request is for another run.

    Differences in an input's closing slash and in the size of the stack's functions do not count.
    """
    options = replace(request.options, max_shard_bytes=existing_run.options.max_shard_bytes)
    differences = {
        "inputs": _without_slash(existing_run.inputs) != _without_slash(request.inputs),
        "output": (existing_run.output_uri, existing_run.local_output) != (request.output_uri, request.local_output),
        "script": existing_run.scripts[0] != scripts[request.script].ref,
        "arguments": existing_run.args != request.args,
        "parameters": dict(existing_run.params) != dict(request.params),
        "environment": dict(existing_run.env) != dict(request.env),
        "options": existing_run.options != options,
        "name": bool(request.name) and existing_run.name != request.name,
        "lists": not _same_lists(existing_run, request),
        "access": existing_run.access != request.access,
        "dispatch": existing_run.dispatch is not request.dispatch,
        "table": existing_run.table != request.table,
        "check": existing_run.check != (scripts[request.check].ref if request.check else None),
        "next": existing_run.next != _next_run(request, scripts),
    }
    if any(differences.values()):
        names = " and ".join(name for name, differs in differences.items() if differs)
        raise RunExistsError(f"the run {existing_run.run_id} exists with other {names}; choose another run id")
    return existing_run


def _next_run(request: RunRequest, scripts: "dict[str, ScriptFiles]") -> NextRun | None:
    options = request.next_output, request.next_shards, request.next_items
    return NextRun(scripts[request.next].ref, *options) if request.next else None


def _same_lists(existing_run: Run, request: RunRequest) -> bool:
    """Whether the request has the run's lists; a change of their content is detected when they are read."""
    if len(existing_run.lists) != len(request.lists):
        return False
    for source, list_request in zip(existing_run.lists, request.lists, strict=True):
        if source.table and list_request.source == f"{TABLE}{source.table['name']}":
            continue  # partitions that were added later are not this run's
        if source.items != list_request.items or (list_request.format and list_request.format != source.format):
            return False
        if list_request.body is None and source.uri != f"{SCHEME}{list_request.source.partition('://')[2]}":
            return False
        # The name of a stored list has its digest (`stored_source`), so its content need not be read.
        if list_request.body is not None and hashlib.sha256(list_request.body).hexdigest()[:16] not in source.uri:
            return False
    return True


def _without_slash(inputs: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{SCHEME}{uri.partition('://')[2].rstrip('/')}" for uri in inputs)


# --- scripts: copied to runs/<run_id>/script/<sha256>/, so that the script of a generation never changes ---


@dataclass(frozen=True, slots=True)
class ScriptFiles:
    """A script and the files that come with it, as they were read: the address and the bytes of each copy."""

    ref: ScriptRef
    script: Script
    files: tuple[tuple[str, bytes], ...]


def read_script(
    deployment: Deployment, run_id: str, source: str, extra_files: Sequence[tuple[str, bytes]] = ()
) -> ScriptFiles:
    """Read a script from ``s3://`` or local disk, and name its copy and those of the ``extra_files`` beside it.

    PlanError if the script cannot be read, is not a .py file or does not compile.
    """
    body = script_body(source, deployment.store)
    bodies = [(source, body), *extra_files, *modules_of(source, body, [name for name, _ in extra_files])]
    files: list[tuple[str, bytes]] = []
    for location, body in bodies:
        name = location.rstrip("/").rpartition("/")[2]
        files.append((deployment.run_uri(run_id, f"script/{hashlib.sha256(body).hexdigest()}/{name}"), body))
    (uri, body), *others = files
    address = source if source.startswith(SCHEME) else str(Path(source).resolve())
    ref = ScriptRef(uri, hashlib.sha256(body).hexdigest(), address, tuple(file_uri for file_uri, _ in others))
    return ScriptFiles(ref, Script(body), tuple(files))


def modules_of(source: str, body: bytes, extra_names: Iterable[str]) -> list[tuple[str, bytes]]:
    """The archive, if any, of modules that a local script imports from its folder, without those in ``extra_names``."""
    py_file_modules = [Path(name).stem for name in extra_names if name.endswith(".py")]
    modules = None if source.startswith(SCHEME) else modules_beside(Path(source), body, py_file_modules)
    return [(MODULES, modules)] if modules else []


def files_beside(
    py_files: Sequence[str], files: Sequence[str], conf: Mapping[str, Any], store: ObjectStore | None = None
) -> list[tuple[str, bytes]]:
    """The files that come with a script: the name of each as the user gave it, and its bytes; last that of ``conf``.

    PlanError if a file is not usable. Without a store, files in S3 are left out.
    """
    names = {CONF_FILE}
    for file in py_files:
        if not file.endswith(PY_FILE_SUFFIXES):
            raise PlanError(
                f"the py-file {file} must be a {' or '.join(PY_FILE_SUFFIXES)} file; give others by --files"
            )
    for file in files:
        if (name := file.rpartition("/")[2]) in names or name.endswith(PY_FILE_SUFFIXES):
            reason = "another file has the same name" if name in names else "give it by --py-files"
            raise PlanError(f"the file {file} cannot come with the script: {reason}")
        names.add(name)
    for key in conf:
        if not key.startswith("spark."):
            raise PlanError(f"--conf {key}: the names of Spark's options begin with spark.")
    kinds = [*((file, "py-file") for file in py_files), *((file, "file") for file in files)]
    bodies = [(file, script_body(file, store, kind)) for file, kind in kinds if store or "://" not in file]
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in sorted(conf.items())}
    return [*bodies, *([(CONF_FILE, json.dumps(texts).encode())] if texts else [])]


def script_body(source: str, store: ObjectStore | None = None, kind: str = "script") -> bytes:
    """The bytes of a script, or of a file beside it; without a store it is a local file.

    PlanError if it cannot be read; for a script also if it is not a .py file or does not compile.
    """
    if kind == "script" and not source.endswith(".py"):
        raise PlanError(f"the script {source} must be a .py file")
    try:
        body = store.get(source) if store and source.startswith(SCHEME) else Path(source).read_bytes()
    except (ObjectNotFoundError, FileNotFoundError):
        raise PlanError(f"the {kind} {source} is not there; check its spelling") from None
    except OSError as error:
        raise PlanError(f"the {kind} {source} cannot be read: {error.strerror}") from error
    if kind == "script" and (problem := Script(body).syntax_error(source)):
        raise PlanError(problem)  # no shard could ever succeed
    return body


def repaired_script(deployment: Deployment, run: Run, source: str) -> ScriptRef:
    """Copy a repaired script for the next generation of a run, with the files that came with the last script."""
    script = read_script(deployment, run.run_id, source)
    put_once(deployment.store, *script.files)
    # The repaired script has an archive of its own modules; the last script's archive has the old ones.
    py_files = (uri for uri in run.scripts[-1].py_files if not uri.endswith(f"/{MODULES}"))
    return replace(script.ref, py_files=(*py_files, *script.ref.py_files))


# Packages that the worker has, even if the script's folder has a module of the same name.
SERVED = frozenset({"pyspark", "py4j", "sparklet", "awsglue", "awsgluedq"})
MAX_FILES, MAX_MIB = 2000, 50


def modules_beside(script: Path, body: bytes, py_file_modules: Collection[str] = ()) -> bytes | None:
    """A zip archive of the modules that a script, or one of these modules, imports from the script's folder; else None.

    Parameters
    ----------
    py_file_modules
        Names of modules that come with the script by ``--py-files``.

    Raises
    ------
    PlanError
        If the modules have more than MAX_FILES files, or MAX_MIB.
    """
    folder, files, names = script.parent, dict[str, Path](), [*Script(body).imports]
    skipped_names = {*SERVED, *py_file_modules}
    while names:
        if (name := names.pop()) in skipped_names:
            continue
        skipped_names.add(name)
        for path in _files_of(folder, name):
            files[path.relative_to(folder).as_posix()] = path
            if path.suffix == ".py":
                names += Script(path.read_bytes()).imports
            if len(files) > MAX_FILES:
                raise _too_large(script, name, f"more than {MAX_FILES} files")
    if sum(path.stat().st_size for path in files.values()) > MAX_MIB * MIB:
        largest = max(files, key=lambda name: files[name].stat().st_size)
        raise _too_large(script, largest, f"more than {MAX_MIB} MiB")
    return packed(files) if files else None


def _files_of(folder: Path, name: str) -> Iterator[Path]:
    """The files of a module, or of a package with all files in its folder."""
    # As in Python, a package without ``__init__.py`` comes after a module.
    package, module = folder / name, folder / f"{name}.py"
    if module.is_file() and not (package / "__init__.py").is_file():
        yield module
        return
    inside = [path for path in sorted(package.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    if any(path.suffix == ".py" for path in inside):
        yield from inside


def _too_large(script: Path, name: str, excess: str) -> PlanError:
    return PlanError(
        f"the modules that {script} imports from its folder have {excess}, for example {name}: keep data apart from "
        "modules, or give the modules by --py-files"
    )
