"""AWS clients without an account, and the worker's bench fixtures."""

import pytest

from sparklet.aws.clients import AwsClients
from tests.unit.aws.conftest import _no_account as _no_account
from tests.unit.worker.conftest import bench as bench
from tests.unit.worker.conftest import settings as settings


@pytest.fixture
def clients() -> AwsClients:
    return AwsClients(attempts=1)
