"""Print what pip is to install for a stack: ``python requirements_of.py stacks/spark-3.5.toml delta kafka``.

Each distribution with the sha256 of every file it may come as, so that ``pip install --require-hashes --no-deps -r``
takes nothing else. Only the standard library: this runs in the image's build before anything is installed.
"""

import sys
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any


def groups_of(stack: dict[str, Any]) -> set[str]:
    """All groups of a stack file, of jars and of distributions."""
    jars = {jar["group"] for jar in stack["jar"]}
    return jars.union(*(entry["groups"] for entry in stack.get("distribution", ())))


def requirements(stack: dict[str, Any], groups: Collection[str]) -> Iterator[str]:
    """Lines of a requirements file for ``groups`` and those that are always there.

    Raises
    ------
    ValueError
        If there is no such group, or a distribution has no hash yet.
    """
    if unknown := sorted(set(groups) - groups_of(stack)):
        known = ", ".join(sorted(groups_of(stack)))
        raise ValueError(f"stack {stack['name']} has no group {', '.join(unknown)}; it has {known}")
    wanted = {*stack["always"], *groups}
    for entry in stack.get("distribution", ()):
        if wanted.isdisjoint(entry["groups"]):
            continue
        if not entry["files"]:
            raise ValueError(f"{entry['name']} has no hash in stack {stack['name']}: make lock-stacks")
        hashes = " ".join(f"--hash=sha256:{file['sha256']}" for file in entry["files"])
        yield f"{entry['name']}=={entry['version']} {hashes}"


def main(arguments: list[str]) -> str:
    """The requirements file as a text; the arguments are a stack file and groups, which commas may join."""
    if not arguments:
        raise ValueError("usage: requirements_of.py STACK_FILE [GROUP…]")
    stack = tomllib.loads(Path(arguments[0]).read_text())
    groups = [group for argument in arguments[1:] for group in argument.split(",") if group]
    return "".join(f"{line}\n" for line in requirements(stack, groups))


if __name__ == "__main__":
    try:
        sys.stdout.write(main(sys.argv[1:]))
    except (OSError, ValueError) as error:
        sys.exit(f"requirements_of.py: {error}")
