"""How Spark cuts a task's input: no partition needs more than a core's share of the heap."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from sparklet.model import InputObject
from sparklet.settings import spark_settings
from sparklet.spark.runner import Deadline, ScriptCall
from sparklet.spark.script import Script
from sparklet.spark.spark_options import (
    EXPANSION,
    core_count,
    heap_mb,
    partitioning_conf,
    spark_defaults,
    task_conf,
    task_memory_bytes,
)
from tests.unit.worker.conftest import Bench

MIB = 1024 * 1024
GIB = 1024 * MIB

memory_mbs = st.integers(512, 10_240)
object_bytes = st.one_of(st.integers(0, 4096), st.integers(0, 64 * MIB), st.integers(0, 5 * GIB))
names = st.sampled_from(["a.csv", "a.csv.gz", "a.parquet"])
inputs = st.lists(st.builds(InputObject, names.map("s3://b/{}".format), object_bytes), max_size=60)


@dataclass(frozen=True)
class Cut:
    """The partitioning settings as numbers."""

    partition_bytes: int
    open_cost_bytes: int
    shuffle_partitions: int

    @classmethod
    def of(cls, objects: list[InputObject], memory_mb: int) -> "Cut":
        conf = partitioning_conf(objects, *function(memory_mb))
        assert all(key.startswith("spark.sql.") for key in conf)  # other settings cannot be changed in a kept context
        return cls(
            int(conf["spark.sql.files.maxPartitionBytes"].removesuffix("b")),
            int(conf["spark.sql.files.openCostInBytes"].removesuffix("b")),
            int(conf["spark.sql.shuffle.partitions"]),
        )

    def tasks(self, lengths: list[int], cores: int) -> list[int]:
        """The bytes of each Spark task, as Spark's FilePartition cuts splittable files."""
        total = sum(length + self.open_cost_bytes for length in lengths)
        most = min(self.partition_bytes, max(self.open_cost_bytes, total // cores))
        pieces = [min(most, length - at) for length in lengths for at in range(0, length, most)]
        tasks, held, cost = [], 0, 0
        for piece in sorted(pieces, reverse=True):
            if held and cost + piece > most:
                tasks.append(held)
                held = cost = 0
            held, cost = held + piece, cost + piece + self.open_cost_bytes
        return [*tasks, held] if held else tasks


def function(memory_mb: int) -> tuple[int, int]:
    settings = spark_settings({"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory_mb)})
    return heap_mb(settings), core_count(settings, cpus=6)


def plain(*lengths: int) -> list[InputObject]:
    return [InputObject(f"s3://b/{n}.csv", length) for n, length in enumerate(lengths)]


@given(inputs, memory_mbs)
@example([InputObject("s3://b/a.csv.gz", 5368709)], 2654)  # pieces shorter than the cost of opening a file
def test_each_piece_fits_a_cores_share_of_the_heap(objects: list[InputObject], memory_mb: int) -> None:
    cut = Cut.of(objects, memory_mb)
    share_bytes = task_memory_bytes(*function(memory_mb))

    assert 0 < cut.open_cost_bytes <= cut.partition_bytes <= 128 * MIB
    assert cut.partition_bytes * EXPANSION <= share_bytes
    assert 2 <= cut.shuffle_partitions <= 200


@given(st.lists(object_bytes, max_size=60), memory_mbs, st.integers(0, 5 * GIB))
def test_more_input_never_gives_fewer_partitions(lengths: list[int], memory_mb: int, more_bytes: int) -> None:
    smaller, larger = Cut.of(plain(*lengths), memory_mb), Cut.of(plain(*lengths, more_bytes), memory_mb)

    assert smaller.shuffle_partitions <= larger.shuffle_partitions


@given(st.integers(0, 5 * GIB), memory_mbs, memory_mbs)
def test_more_heap_for_each_core_never_gives_more_partitions(length: int, one_mb: int, other_mb: int) -> None:
    small, large = sorted((one_mb, other_mb))
    assume(function(small)[1] == function(large)[1])

    assert Cut.of(plain(length), large).shuffle_partitions <= Cut.of(plain(length), small).shuffle_partitions


@given(st.integers(1, 4 * MIB), memory_mbs)
def test_a_small_object_is_one_task(length: int, memory_mb: int) -> None:
    assert len(Cut.of(plain(length), memory_mb).tasks([length], function(memory_mb)[1])) == 1


@given(st.lists(st.integers(1, 64 * 1024), min_size=1, max_size=1000), memory_mbs)
def test_many_small_objects_are_one_task_per_core(lengths: list[int], memory_mb: int) -> None:
    cores = function(memory_mb)[1]

    assert len(Cut.of(plain(*lengths), memory_mb).tasks(lengths, cores)) <= cores + 1


@given(st.integers(129 * MIB, 5 * GIB), memory_mbs)
def test_a_large_object_is_cut_evenly_for_all_cores(length: int, memory_mb: int) -> None:
    cores = function(memory_mb)[1]
    cut = Cut.of(plain(length), memory_mb)
    tasks = cut.tasks([length], cores)

    assert sum(tasks) == length
    assert len(tasks) % cores == 0
    assert max(tasks) - min(tasks) <= 4 * MIB + len(tasks)  # the cost of opening the file


@pytest.mark.parametrize(
    ("memory_mb", "length", "tasks", "partitions"),
    [(1769, 1 * MIB, 1, 2), (1769, 128 * MIB, 1, 2), (3008, 400 * MIB, 4, 4), (3008, 20 * MIB, 2, 2)],
)
def test_typical_shards_are_cut_as_documented(memory_mb: int, length: int, tasks: int, partitions: int) -> None:
    cut = Cut.of(plain(length), memory_mb)

    assert (len(cut.tasks([length], function(memory_mb)[1])), cut.shuffle_partitions) == (tasks, partitions)


def test_compressed_objects_get_smaller_tasks() -> None:
    packed = Cut.of([InputObject("s3://b/a.csv.gz", 100 * MIB)], 3008)

    assert packed.partition_bytes <= 32 * MIB
    assert packed.shuffle_partitions == Cut.of(plain(400 * MIB), 3008).shuffle_partitions


def test_the_operators_settings_win_except_over_the_scripts() -> None:
    own = spark_settings({"SPARKLET_SPARK_CONF": '{"spark.sql.shuffle.partitions": "7"}'})
    large = InputObject("s3://b/a", 5 * GIB)
    call = ScriptCall(Path("/s/job.py"), Script(b""), (), Path("/tmp/task-1"), Deadline(0, 0), inputs=(large,))

    conf = {**spark_defaults(own, Path("/tmp")), **task_conf(call, {}, own)}

    assert conf["spark.sql.shuffle.partitions"] == "7"
    assert "spark.sql.files.maxPartitionBytes" in conf


def test_the_runner_gets_the_sizes_of_the_shards_inputs(bench: Bench) -> None:
    bench.plan()

    bench.deliver()

    assert [item.size_bytes for item in bench.runner.calls[0].inputs] == [10]
