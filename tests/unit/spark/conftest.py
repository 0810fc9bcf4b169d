"""The worker's bench, from which a runner gets its calls."""

from tests.unit.worker.conftest import bench as bench
from tests.unit.worker.conftest import settings as settings
