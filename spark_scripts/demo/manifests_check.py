"""Are the manifests of two runs equal, up to ids and times? What each shard held and what became of it must be."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
STATES = ("SUCCEEDED", "FAILED", "PENDING")

# How often a shard was tried and how long it took is the machine's luck; where things lie has the run's id in it.
RUN_FIELDS = ("state", "generation", "counts", "objects", "input_bytes", "output_bytes", "rows", "causes")
OWN_FOLDER = re.compile(r"^shard=.+_(?=\d{6})")  # id and time of a run, which differ
SHARD_FIELDS = ("Status", "RedriveCount", "Objects", "InputBytes", "OutputBytes", "Rows", "Error", "Cause")


def keep_manifests(read: Callable[[str], bytes], run_folder: str, kept: Path) -> None:
    """Copy a run's manifest, and the result files that it names, into a folder of this machine.

    Parameters
    ----------
    read
        The bytes of an ``s3://`` address.
    run_folder
        ``s3://bucket/runs/RUN/``.
    """
    kept.mkdir(parents=True, exist_ok=True)
    for old in kept.glob("*.json"):
        old.unlink()
    manifest = read(run_folder + MANIFEST)
    for entries in json.loads(manifest)["ResultFiles"].values():
        for entry in entries:
            name = entry["Key"].rpartition("/")[2]
            (kept / name).write_bytes(read(run_folder + name))
    (kept / MANIFEST).write_bytes(manifest)


def differences(one: Path, other: Path) -> Iterator[str]:
    """What differs between two kept runs, a line each; nothing if they are equal up to ids and times."""
    manifests = [json.loads((folder / MANIFEST).read_text()) for folder in (one, other)]
    yield from _unequal("the run", RUN_FIELDS, *(manifest["run"] for manifest in manifests))
    yield from _unequal("its script", ("sha256",), *(manifest["run"]["scripts"][-1] for manifest in manifests))
    shards = [_shards(folder, manifest) for folder, manifest in zip((one, other), manifests, strict=True)]
    for number in sorted(shards[0].keys() | shards[1].keys()):
        pair = [of.get(number) for of in shards]
        if pair[0] is None or pair[1] is None:
            yield f"shard {number} is in one of them only"
        else:
            yield from _unequal(f"shard {number}", (*SHARD_FIELDS, "outputs"), pair[0], pair[1])


def shard_count(kept: Path) -> int:
    """How many shards a kept run has in its result files."""
    return len(_shards(kept, json.loads((kept / MANIFEST).read_text())))


def _shards(folder: Path, manifest: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """Every shard of the result files by its number; each is in exactly one of them."""
    found: dict[int, Mapping[str, Any]] = {}
    for path in sorted(path for state in STATES for path in folder.glob(f"{state}_*.json")):
        for entry in json.loads(path.read_text()):
            if entry["Shard"] in found:
                raise ValueError(f"shard {entry['Shard']} is in two result files of {folder}")
            outputs = json.loads(entry.get("Output", "{}")).get("outputs", [])
            relative = sorted(
                OWN_FOLDER.sub("shard=", f"{uri}/".removeprefix(manifest["run"]["output"])) for uri in outputs
            )
            found[entry["Shard"]] = {**entry, "outputs": relative}
    return found


def _unequal(what: str, fields: tuple[str, ...], one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    for field in fields:
        if one.get(field) != other.get(field):
            yield f"{what}: {field} is {one.get(field)!r} and {other.get(field)!r}"
