"""The user's own code and requirements for the workers of Python functions: the ``package`` command."""

import shlex
import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from sparklet.app.reporter import size_text
from sparklet.app.requirements import install_requirements
from sparklet.cli.console import Screen
from sparklet.errors import SettingsError
from sparklet.spark.owned import delete_own, make_own

MAX_LAYER_BYTES = 250 * 1024 * 1024  # unzipped, all layers and the function's own code together
WRITTEN = ("Dockerfile", "layer.zip")
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
            within = target / source.resolve().name if (source / "__init__.py").is_file() else target
            shutil.copytree(source, within, dirs_exist_ok=True, ignore=LEFT_OUT)
        elif source.is_file():
            shutil.copy2(source, target)
        else:
            raise SettingsError(f"{source} is not there")
    size_bytes, path = sum(path.stat().st_size for path in target.rglob("*") if path.is_file()), output
    if kind == "image":
        (output / "Dockerfile").write_text(DOCKERFILE)
        # docker would add a provenance attestation, which makes an index of the image; Lambda takes none.
        further = (
            f"docker build --provenance=false --build-arg IMAGE=IMAGE_URI -t NEW_IMAGE_URI {shlex.quote(str(path))}"
        )
    elif size_bytes > MAX_LAYER_BYTES:
        raise SettingsError(f"{size_text(size_bytes)} are more than layers hold ({size_text(MAX_LAYER_BYTES)})")
    else:
        path = Path(shutil.make_archive(str(output / "layer"), "zip", output, "python"))
        further = f"aws lambda publish-layer-version --layer-name NAME --zip-file {shlex.quote(f'fileb://{path}')}"
    document = {"path": str(path), "size_bytes": size_bytes, "next": further}
    Screen(as_json).result(document, f"{path}: {size_text(size_bytes)} unzipped; next:", f"  {further}")
