"""Compares the manifests of two runs: each shard's inputs and its outcome must be equal, but not ids and times."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
STATES = ("SUCCEEDED", "FAILED", "PENDING")

# Not compared: attempts and durations, which differ by chance, and addresses, which contain the run's id.
RUN_FIELDS = ("state", "generation", "counts", "objects", "input_bytes", "output_bytes", "rows", "causes")
OWN_FOLDER = re.compile(r"^shard=.+_(?=\d{6})")  # a shard's folder up to its number: the run's id and time
SHARD_FIELDS = ("Status", "RedriveCount", "Objects", "InputBytes", "OutputBytes", "Rows", "Error", "Cause")


def keep_manifests(read: Callable[[str], bytes], run_folder: str, kept: Path) -> None:
    """Copy a run's manifest, and the result files that it names, to a local folder.

    Parameters
    ----------
    read
        Returns the bytes at an ``s3://`` address.
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
    """Yield a line for each difference between two kept runs; none if they are equal up to ids and times."""
    manifests = [json.loads((folder / MANIFEST).read_text()) for folder in (one, other)]
    yield from _unequal("the run", RUN_FIELDS, *(manifest["run"] for manifest in manifests))
    yield from _unequal("its script", ("sha256",), *(manifest["run"]["scripts"][-1] for manifest in manifests))
    shards = [_shards(folder, manifest) for folder, manifest in zip((one, other), manifests, strict=True)]
    for number in sorted(shards[0].keys() | shards[1].keys()):
        first, second = (shards_of_run.get(number) for shards_of_run in shards)
        if first is None or second is None:
            yield f"shard {number} is in one of them only"
        else:
            yield from _unequal(f"shard {number}", (*SHARD_FIELDS, "outputs"), first, second)


def shard_count(kept: Path) -> int:
    """How many shards a kept run has in its result files."""
    return len(_shards(kept, json.loads((kept / MANIFEST).read_text())))


def _shards(folder: Path, manifest: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """All shards of the result files, by number; a shard must be in exactly one file."""
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


def _unequal(subject: str, fields: tuple[str, ...], one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    for field in fields:
        if one.get(field) != other.get(field):
            yield f"{subject}: {field} is {one.get(field)!r} and {other.get(field)!r}"
