"""The stack on AWS, from this installation: the ``deploy`` command."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sparklet.app.deploy import STACK, propose_deployment
from sparklet.app.project import deploy_options
from sparklet.app.reporter import count_text
from sparklet.app.start import parse_pairs
from sparklet.cli import options as opt
from sparklet.cli.console import Screen, confirm

HOLDING = ("AWS::DynamoDB::Table", "AWS::S3::Bucket", "AWS::SQS::Queue")


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
    proposed = propose_deployment(name, image or str(project.get("image", "")), parameters, bucket)
    document = {"stack": name, "changes": [change._asdict() for change in proposed.changes], "outputs": None}
    if not proposed.change_set:
        screen.result(document, f"the stack {name} is as it should be: nothing changes")
        return
    table = Table(
        "", "resource", "type", title=f"{'a new stack' if proposed.is_new else 'changes of the stack'} {name}"
    )
    for change in proposed.changes:
        replaced = {"True": "Replace", "Conditional": f"{change.action} or replace"}.get(change.replaced, change.action)
        table.add_row(replaced, change.resource, change.kind)
    (screen.err if as_json else screen.out).print(table)
    for change in proposed.changes:
        if change.kind in HOLDING and (change.action == "Remove" or change.replaced == "True"):
            screen.warn(f"{change.resource} ({change.kind}) would be another one: what it holds now stays behind")
    if dry_run:
        proposed.drop()
        screen.result(document)
        return
    try:
        confirm(screen, f"Make {count_text(len(proposed.changes), 'change')}?", yes=yes, undone="changed")
    # Also Ctrl-C: a change set that nobody carries out would stay in the account.
    except BaseException:
        proposed.drop()
        raise
    outputs = dict(proposed.carry_out(screen.say))
    screen.result({**document, "outputs": outputs}, f"the stack {name} is deployed: sparklet doctor --stack {name}")
