"""The image that `make image` built, and the programs that run it as Lambda would; an error says what is missing."""

import ctypes
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparklet.local.spark_installation import stack_file

ROOT = Path(__file__).parents[2]
HERE = {"aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
ARCH = os.environ.get("ARCH") or HERE  # the image of another architecture runs by qemu
SLOWER = 1 if ARCH == HERE else 15  # the factor by which time limits are longer then
DOCUMENT = ROOT / "build" / "image" / f"{stack_file().stem}{'' if ARCH == HERE else f'-{ARCH}'}.json"
EMULATOR = f"lib/python*/site-packages/samcli/local/rapid/aws-lambda-rie-{HERE}"
CLONE_NEWNET = 0x40000000


class NotHereError(Exception):
    """Something that the tests of the image need is missing; the message has the remedy."""


@dataclass(frozen=True)
class BuiltImage:
    """An image in the container storage of the checkout."""

    name: str
    document: Mapping[str, Any]  # the content of the file DOCUMENT
    engine_env: Mapping[str, str]  # environment variables for podman
    emulator: Path

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables with which podman must be called."""
        return {**os.environ, **self.engine_env}


def built_image() -> BuiltImage:
    """The image that was built last.

    Raises
    ------
    NotHereError
        If the image, podman, the emulator or the permission to make a network namespace is missing.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        raise NotHereError("containers are locked down by root on Linux: run the tests as root")
    if shutil.which("podman") is None:
        raise NotHereError("there is no podman: install it, or let `make image` do so (Debian, Ubuntu, as root)")
    if not DOCUMENT.is_file():
        raise NotHereError(f"there is no image ({DOCUMENT.relative_to(ROOT)}): run `make image` first")
    emulators = sorted((ROOT / ".venv-deploy").glob(EMULATOR))
    if not emulators:
        raise NotHereError("there is no runtime interface emulator: run `make deploy-venv` first")
    document = json.loads(DOCUMENT.read_text())
    return BuiltImage(document["image"], document, document["engine_env"], emulators[0])


def libc_call(name: str, *arguments: int) -> None:
    """Call a function of the C library that Python 3.11 does not have yet; OSError if it fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
