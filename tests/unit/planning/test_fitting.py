"""Fitting: shards that no function could do are refused before a plan."""

from typing import Any

import pytest

from sparklet.errors import PlanError
from sparklet.model import Run, RunOptions, RunState
from sparklet.planning.new_run import new_run
from sparklet.planning.request import RunRequest
from tests.world import SOURCE, World

MIB = 1024 * 1024


def enter(sizes: list[int], name: str = "{}.csv", **options: Any) -> Run:
    """Create a run of objects of these sizes. By default a function can take shards of up to 10 bytes."""
    world = World()
    for number, size_bytes in enumerate(sizes):
        world.store.put(f"{SOURCE}{name.format(number)}", b"x" * size_bytes)
    changes = {"target_bytes": 10, "max_shard_bytes": 10, **options}
    return new_run(world.deployment, world.request(options=RunOptions(**changes)))


def test_an_oversized_shard_refuses_the_run_with_advice() -> None:
    with pytest.raises(PlanError) as refused:
        enter([size * MIB for size in (5, 20, 30, 40, 5, 50)], target_bytes=10 * MIB, max_shard_bytes=10 * MIB)

    told = str(refused.value)
    assert "4 shards above the 10 MiB" in told
    assert f"{SOURCE}1.csv (20 MiB), {SOURCE}2.csv (30 MiB), {SOURCE}3.csv (40 MiB) and 1 more" in told
    assert all(word in told for word in ("--split", "--too-large engine", "--too-large fail", "--exclude"))


def test_a_compressed_object_is_measured_decompressed() -> None:
    enter([2], "{}.csv.gz")
    with pytest.raises(PlanError, match=r"1 shard above .*/0\.csv\.gz \(3 MiB, decompressed about 12 MiB\)"):
        enter([3 * MIB], "{}.csv.gz", max_shard_bytes=10 * MIB)


@pytest.mark.parametrize(
    ("sizes", "changes"), [([50], {"max_shard_bytes": 0}), ([50], {"too_large": "fail"}), ([10, 10], {})]
)
def test_a_run_that_fits_or_may_fail_is_accepted(sizes: list[int], changes: dict[str, Any]) -> None:
    assert enter(sizes, **changes).state is RunState.PLANNING


@pytest.mark.parametrize(
    ("memory_mb", "scratch_mib", "least_mib", "most_mib"),
    [(3008, 512, 400, 512), (1769, 512, 128, 512), (3008, 10240, 400, 1100), (10240, 10240, 3000, 3500)],
)
def test_the_default_shard_limit_follows_the_functions_size(
    memory_mb: int, scratch_mib: int, least_mib: int, most_mib: int
) -> None:
    request = RunRequest("job.py", (SOURCE,), "s3://out/", options=RunOptions())
    fitted = request.fitted(memory_mb, scratch_mib * MIB)
    assert least_mib * MIB <= fitted.options.max_shard_bytes <= most_mib * MIB


def test_slices_that_do_not_fit_into_scratch_are_refused() -> None:
    def fit(**options: Any) -> RunRequest:
        return RunRequest("job.py", (SOURCE,), "s3://out/", options=RunOptions(**options)).fitted(3008, 512 * MIB)

    fit(split="auto", target_bytes=256 * MIB)
    fit(target_bytes=1024 * MIB)  # nothing is fetched
    with pytest.raises(PlanError, match="256 MiB or less"):
        fit(split="auto", target_bytes=257 * MIB)
