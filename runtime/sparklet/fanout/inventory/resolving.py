"""Inputs made definite, and refused where that cannot be."""

from collections.abc import Collection, Sequence

from sparklet.errors import ObjectNotFoundError, PlanError
from sparklet.ports import ObjectStore
from sparklet.s3_uri import SCHEME, split_uri


def resolve_inputs(store: ObjectStore, inputs: Sequence[str]) -> tuple[str, ...]:
    """Make inputs definite: ``s3://bucket/name`` is that object if it is there, else the folder ``name/``.

    Raises
    ------
    PlanError
        If an input is no S3 address, if nothing lies there, or if two inputs overlap.
    """
    if not inputs:
        raise PlanError("no input was given; name at least one s3://bucket/folder/ or object")
    resolved = tuple(_resolve(store, _s3_address(given)) for given in inputs)
    refuse_overlap(resolved)
    return resolved


def refuse_overlap(inputs: Sequence[str]) -> None:
    """PlanError if an object could belong to two inputs: it would be processed twice."""
    folder = last = None
    for given in sorted(inputs):
        if given == last:
            raise PlanError(f"the input {given} was given twice; its objects would be processed twice")
        if folder is not None and given.startswith(folder):
            raise PlanError(
                f"the input {given} lies inside the input {folder}; its objects would be processed twice: leave one out"
            )
        if given.endswith("/"):
            folder = given
        last = given


def _s3_address(given: str) -> str:
    """The input as ``s3://bucket/...``; ``s3a://`` and ``s3n://`` mean the same."""
    scheme, separator, rest = given.partition("://")
    if not separator or scheme not in ("s3", "s3a", "s3n") or not rest.partition("/")[0]:
        raise PlanError(f"the input {given!r} cannot be listed; it must look like s3://bucket/folder/")
    return f"{SCHEME}{rest}" if "/" in rest else f"{SCHEME}{rest}/"


def _resolve(store: ObjectStore, uri: str) -> str:
    if not uri.endswith("/"):
        try:
            return store.head(uri).uri
        except ObjectNotFoundError:
            pass  # then it is a folder, or nothing
    folder = uri if uri.endswith("/") else f"{uri}/"
    if next(iter(store.list(folder)), None) is None:
        raise PlanError(
            f"the input {uri} is empty: there is no object below {folder} "
            f"(for keys that only begin alike, give their folder and --include 'beginning*')"
        )
    return folder


def refuse_other_regions(store: ObjectStore, buckets: Collection[str]) -> None:
    """PlanError naming a bucket that lies in another region: reading it from here is slow and is paid for."""
    for bucket in sorted(buckets):
        if region := store.foreign_region(f"{SCHEME}{bucket}/"):
            raise PlanError(
                f"the bucket {bucket} lies in {region}, not in this region: run Sparklet there, copy the objects, "
                f"or allow it (--other-region) and pay for the traffic between regions"
            )


def buckets_of(uris: Collection[str]) -> set[str]:
    """The buckets that addresses lie in."""
    return {split_uri(uri)[0] for uri in uris}
