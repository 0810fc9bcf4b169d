"""What ``tests/conftest.py`` promises of botocore's Stubber."""

import pytest
from botocore.stub import Stubber

from sparklet.aws.clients import AwsClients


def test_an_answer_that_nobody_asks_for_fails_the_test() -> None:
    """As the tests of ``stop()`` passed where it did nothing."""
    with pytest.raises(AssertionError), Stubber(AwsClients().glue) as glue:
        glue.add_response("batch_stop_job_run", {})
