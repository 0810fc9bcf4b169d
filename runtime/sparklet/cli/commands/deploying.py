"""What is brought to AWS from here: the ``deploy`` command for the stack, ``package`` for a user's own code."""

import shlex
import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from sparklet.app.deploy import STACK, propose_deployment
from sparklet.app.project import deploy_options, install_requirements
from sparklet.app.reporter import count_text, size_text
from sparklet.app.start import parse_pairs
from sparklet.cli import options as opt
from sparklet.cli.console import Screen, confirm
from sparklet.errors import SettingsError
from sparklet.spark.owned import delete_own, make_own

HOLDING = ("AWS::DynamoDB::Table", "AWS::S3::Bucket", "AWS::SQS::Queue")  # types of resources that hold data


def deploy(
    stack: Annotated[
        str, typer.Option("--stack", envvar="SPARKLET_STACK", metavar="NAME", help="The stack (default: sparklet).")
    ] = "",
    image: Annotated[
        str,
        typer.Option("--image", metavar="URI", help="The worker's image, in ECR; a deployed stack may keep its own."),
    ] = "",
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="KEY=VALUE", help="Of the template; others keep their values."),
    ] = None,
    artifact_bucket: Annotated[
        str,
        typer.Option(
            "--artifact-bucket", metavar="NAME", help="For code and template (default: sparklet-deploy-ACCOUNT-REGION)."
        ),
    ] = "",
    dry_run: opt.DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before changing the stack.")] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Deploy this installation's template on AWS, or change a stack: what changes is shown before it is done.

    Needs no checkout and no SAM, but an image that was pushed to ECR. What the command line lacks is taken from
    sparklet.toml, whose table "deploy" has stack, image, artifact_bucket and a table of parameters.
    """
    screen, project = Screen(as_json), deploy_options(Path.cwd())
    parameters = {key: str(value) for key, value in project.get("parameters", {}).items()}
    parameters |= parse_pairs("--parameter", parameter)
    name = stack or str(project.get("stack", STACK))
    bucket = artifact_bucket or str(project.get("artifact_bucket", ""))
    proposal = propose_deployment(name, image or str(project.get("image", "")), parameters, bucket)
    document = {"stack": name, "changes": [change._asdict() for change in proposal.changes], "outputs": None}
    if not proposal.change_set:
        screen.result(document, f"the stack {name} is as it should be: nothing changes")
        return
    table = Table(
        "", "resource", "type", title=f"{'a new stack' if proposal.is_new else 'changes of the stack'} {name}"
    )
    for change in proposal.changes:
        action = {"True": "Replace", "Conditional": f"{change.action} or replace"}.get(change.replaced, change.action)
        table.add_row(action, change.resource, change.kind)
    (screen.err if as_json else screen.out).print(table)
    for change in proposal.changes:
        if change.kind in HOLDING and (change.action == "Remove" or change.replaced == "True"):
            screen.warn(f"{change.resource} ({change.kind}) would be replaced: what it holds now stays in the old one")
    if dry_run:
        proposal.drop()
        screen.result(document)
        return
    try:
        confirm(screen, f"Make {count_text(len(proposal.changes), 'change')}?", yes=yes, undone="changed")
    # Also Ctrl-C: a change set that nobody carries out would stay in the account.
    except BaseException:
        proposal.drop()
        raise
    outputs = dict(proposal.carry_out(screen.say))
    screen.result({**document, "outputs": outputs}, f"the stack {name} is deployed: sparklet doctor --stack {name}")


MAX_LAYER_BYTES = 250 * 1024 * 1024  # unzipped, all layers and the function's own code together
WRITTEN = ("Dockerfile", "layer.zip")  # files that `package` writes
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".git", ".venv")
DOCKERFILE = "ARG IMAGE\nFROM ${IMAGE}\nCOPY python/ /opt/python/\nENV PYTHONPATH=${PYTHONPATH}:/opt/python\n"


def package(
    code: Annotated[list[Path], typer.Argument(metavar="CODE", help="A module, a package, or a folder of such.")],
    requirements: Annotated[Path | None, typer.Option("--requirements", "-r", metavar="FILE", help="For pip.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where to.")] = Path("build/package"),
    kind: Annotated[
        Literal["image", "layer"],
        typer.Option("--as", help="For workers from an image, as those of sam/functions.yaml, or from a zip."),
    ] = "image",
    architecture: Annotated[Literal["x86_64", "arm64"], typer.Option(help="The workers' processor.")] = "x86_64",
    python: Annotated[str, typer.Option(metavar="VERSION", help="The workers' Python.")] = "3.11",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Package your own code and its requirements for workers of Python functions; nothing is deployed.

    Wheels of the workers' platform are fetched, whatever this machine is. FOLDER is made anew: it must be new,
    empty or of this command's making.
    """
    make_own(output, "--output")
    for name in WRITTEN:
        (output / name).unlink(missing_ok=True)
    delete_own(target := output / "python")
    target.mkdir()
    if requirements:
        install_requirements(target, requirements, architecture, python)
    for source in code:
        if source.is_dir():
            destination = target / source.resolve().name if (source / "__init__.py").is_file() else target
            shutil.copytree(source, destination, dirs_exist_ok=True, ignore=LEFT_OUT)
        elif source.is_file():
            shutil.copy2(source, target)
        else:
            raise SettingsError(f"{source} is not there")
    size_bytes, path = sum(path.stat().st_size for path in target.rglob("*") if path.is_file()), output
    if kind == "image":
        (output / "Dockerfile").write_text(DOCKERFILE)
        # docker would add a provenance attestation, which makes an index of the image; Lambda takes none.
        next_command = (
            f"docker build --provenance=false --build-arg IMAGE=IMAGE_URI -t NEW_IMAGE_URI {shlex.quote(str(path))}"
        )
    elif size_bytes > MAX_LAYER_BYTES:
        raise SettingsError(
            f"{size_text(size_bytes)} are more than a function's layers can hold ({size_text(MAX_LAYER_BYTES)})"
        )
    else:
        path = Path(shutil.make_archive(str(output / "layer"), "zip", output, "python"))
        next_command = f"aws lambda publish-layer-version --layer-name NAME --zip-file {shlex.quote(f'fileb://{path}')}"
    document = {"path": str(path), "size_bytes": size_bytes, "next": next_command}
    Screen(as_json).result(document, f"{path}: {size_text(size_bytes)} unzipped; next:", f"  {next_command}")
