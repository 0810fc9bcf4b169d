"""The catalog ``iceberg`` for pyiceberg, which needs no JVM: for the plan, and for Glue's entries of other tables."""

from __future__ import annotations

import os
from contextlib import suppress

from pydantic import ValidationError
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import NoSuchTableError

from sparklet.connectors.tables.declaration import refuse_iceberg, refuse_part
from sparklet.job.catalogs import ICEBERG_CATALOG, catalog_properties
from sparklet.job.errors import TableError
from sparklet.job.fields import Table
from sparklet.job.session import s3_environment


def load(warehouse: str | None = None) -> Catalog:
    """The catalog that the environment names, or else the warehouse.

    The region is that of catalogs in AWS, too: boto3 does not read ``AWS_REGION``.
    """
    endpoint, region = s3_environment(os.environ)
    properties = {name: value for name, value in (("s3.endpoint", endpoint), ("client.region", region)) if value}
    return load_catalog(ICEBERG_CATALOG, **{**properties, **catalog_properties(os.environ, warehouse)})


def check(table: Table, warehouse: str | None) -> None:
    """TableError if the table has a feature that no commit can respect; a table of another kind is the JVM's matter."""
    catalog = load(warehouse)
    with suppress(ValidationError):
        try:
            metadata = catalog.load_table(table.place).metadata
        except NoSuchTableError:
            refuse_part(table.place, catalog.table_exists)
        else:
            refuse_iceberg(table, metadata.format_version, metadata.properties)


def refusal(table: str, warehouse: str) -> str:
    """Why no commit can write to an Iceberg table; "" if one can."""
    try:
        check(Table.parse(table), warehouse or None)
    except TableError as error:
        return str(error)
    return ""
