"""The ledger's table, as sam/template.yaml defines it, for the stand-ins."""

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
    """Create a ledger's table. A client that got no answer in time asks again, though the table is there."""
    with suppress(dynamodb.exceptions.ResourceInUseException):
        dynamodb.create_table(**table_definition(name))
