"""Create the ledger's table in a stand-in, as sam/template.yaml defines it."""

from contextlib import suppress
from functools import cache
from typing import Any

from sparklet.local.deploy import load_template

COPIED = ("BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes")


@cache
def _properties() -> dict[str, Any]:
    properties: dict[str, Any] = load_template()["Resources"]["Ledger"]["Properties"]
    return properties


def table_definition(name: str) -> dict[str, Any]:
    """CreateTable's parameters for a ledger's table."""
    return {"TableName": name, **{key: _properties()[key] for key in COPIED}}


def create_table(dynamodb: Any, name: str) -> None:
    """Create a ledger's table. It is no error if it exists: a client retries if it got no response in time."""
    with suppress(dynamodb.exceptions.ResourceInUseException):
        dynamodb.create_table(**table_definition(name))
