"""Fitting: what no function can take on is refused before a plan."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from sparklet.errors import PlanError
from sparklet.inputs.selection import Found
from sparklet.model import InputObject, Position, RunOptions
from sparklet.planning.packing import Packed, pack_shards, refuse_oversize
from sparklet.planning.request import RunRequest
from tests.world import SOURCE

MIB = 1024 * 1024


def packed(sizes_mib: Iterable[int], options: RunOptions, name: str = "{}.csv") -> Iterator[Packed]:
    objects = [InputObject(f"s3://b/{name.format(n)}", size * MIB) for n, size in enumerate(sizes_mib)]
    return pack_shards((Found(item, Position()) for item in objects), options)


def options_of(**changes: Any) -> RunOptions:
    return RunOptions(**{"target_bytes": 10 * MIB, "max_shard_bytes": 10 * MIB, **changes})


def test_an_oversized_shard_refuses_the_run_with_advice() -> None:
    options = options_of()
    with pytest.raises(PlanError) as refused:
        refuse_oversize(packed([5, 20, 30, 40, 5, 50], options), options)

    told = str(refused.value)
    assert "4 shards are above the 10 MiB" in told
    assert "s3://b/1.csv (20 MiB), s3://b/2.csv (30 MiB), s3://b/3.csv (40 MiB) and 1 more" in told
    assert all(word in told for word in ("--split", "--too-large engine", "--too-large fail", "--exclude"))


def test_a_compressed_object_is_measured_decompressed() -> None:
    options = options_of()
    refuse_oversize(packed([2], options, "{}.csv.gz"), options)
    with pytest.raises(PlanError, match=r"1 shard is above .* s3://b/0\.csv\.gz \(3 MiB, decompressed about 12 MiB\)"):
        refuse_oversize(packed([3], options, "{}.csv.gz"), options)


@pytest.mark.parametrize(
    "changes", [{"max_shard_bytes": 0}, {"too_large": "fail"}, {"too_large": "engine"}, {"engine": "glue"}]
)
def test_nothing_is_packed_if_no_shard_is_refused(changes: dict[str, Any]) -> None:
    unread = packed([50], options_of())

    refuse_oversize(unread, options_of(**changes))

    assert len(list(unread)) == 1


def test_an_exact_fit_is_no_excess() -> None:
    options = options_of()
    refuse_oversize(packed([10, 10], options), options)


@pytest.mark.parametrize(
    ("memory_mb", "scratch_mib", "least_mib", "most_mib"),
    [(3008, 512, 400, 512), (1769, 512, 128, 512), (3008, 10240, 400, 1100), (10240, 10240, 3000, 3500)],
)
def test_the_default_limit_lets_pass_what_must_work(
    memory_mb: int, scratch_mib: int, least_mib: int, most_mib: int
) -> None:
    asked = RunRequest("job.py", (SOURCE,), "s3://out/", options=RunOptions())
    fitted = asked.fitted(memory_mb, scratch_mib * MIB)
    assert least_mib * MIB <= fitted.options.max_shard_bytes <= most_mib * MIB


def test_slices_that_do_not_fit_into_scratch_are_refused() -> None:
    def fit(**options: Any) -> RunRequest:
        return RunRequest("job.py", (SOURCE,), "s3://out/", options=RunOptions(**options)).fitted(3008, 512 * MIB)

    fit(split="auto", target_bytes=256 * MIB)
    fit(target_bytes=1024 * MIB)  # nothing is fetched
    with pytest.raises(PlanError, match="256 MiB or less"):
        fit(split="auto", target_bytes=257 * MIB)
