"""The worker's bench fixtures, with which tests make calls of a runner."""

from tests.unit.worker.conftest import bench as bench
from tests.unit.worker.conftest import settings as settings
