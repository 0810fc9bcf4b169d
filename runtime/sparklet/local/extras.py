"""What to type when the local mode's packages are not there."""

import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution


def install_command(extra: str = "local") -> str:
    """The command that installs Sparklet with an extra, from where this installation came: a file, git, or an index."""
    try:
        origin = json.loads(distribution("sparklet").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        origin = {}
    vcs = origin.get("vcs_info", {}).get("vcs", "")
    url = f"{vcs}+{origin['url']}" if vcs else origin.get("url", "")
    return shlex.join(["pip", "install", f"sparklet[{extra}]" + (f" @ {url}" if url else "")])


def missing(package: str) -> str:
    """What to tell who has not got a package of the local mode."""
    return f"the package {package} is missing, which the local stack needs: {install_command()}"
