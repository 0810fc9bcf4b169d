"""The catalog ``iceberg`` for pyiceberg, which needs no JVM: for the plan, and for Glue's entries of other tables."""

from __future__ import annotations

import os

from pyiceberg.catalog import Catalog, load_catalog

from sparklet.job.catalogs import ICEBERG_CATALOG, catalog_properties
from sparklet.job.session import s3_environment


def load(warehouse: str | None = None) -> Catalog:
    """Return the catalog of PYICEBERG_CATALOG__ICEBERG__* in the environment, or else the one of the warehouse.

    The region is passed on for catalogs in AWS, too, since boto3 does not read ``AWS_REGION``.
    """
    endpoint, region = s3_environment(os.environ)
    properties = {name: value for name, value in (("s3.endpoint", endpoint), ("client.region", region)) if value}
    return load_catalog(ICEBERG_CATALOG, **{**properties, **catalog_properties(os.environ, warehouse)})
