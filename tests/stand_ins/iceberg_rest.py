"""A REST catalog: the server of Iceberg's own tests over a catalog in memory, which also keeps the metadata files."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from py4j.java_gateway import JavaGateway

from tests.stand_ins.jvm import jvm

STACK = Path(__file__).with_name("iceberg-rest.toml")
OF_PYSPARK = ("avro-1", "jackson-annotations", "jackson-core-2", "jackson-databind", "slf4j-api")  # jars from pyspark


@contextmanager
def iceberg_rest_jvm() -> Iterator[JavaGateway]:
    """Run a JVM in which ``iceberg_rest`` can start catalogs."""
    spec = importlib.util.find_spec("pyspark")
    assert spec is not None and spec.origin is not None
    jars = Path(spec.origin).with_name("jars").glob("*.jar")
    with jvm(STACK, [jar for jar in jars if jar.name.startswith(OF_PYSPARK)]) as gateway:
        yield gateway


@contextmanager
def iceberg_rest(gateway: JavaGateway, warehouse: str) -> Iterator[str]:
    """Run an empty catalog; yield its address. A table without a location of its own is below ``warehouse``."""
    java, jetty = gateway.jvm, gateway.jvm.org.eclipse.jetty
    catalog = java.org.apache.iceberg.inmemory.InMemoryCatalog()
    properties = java.java.util.HashMap()
    properties.put("warehouse", warehouse)
    catalog.initialize("rest", properties)
    servlet = java.org.apache.iceberg.rest.RESTCatalogServlet(java.org.apache.iceberg.rest.RESTCatalogAdapter(catalog))
    context = jetty.ee10.servlet.ServletContextHandler()
    context.addServlet(jetty.ee10.servlet.ServletHolder(servlet), "/*")
    server = jetty.server.Server(java.java.net.InetSocketAddress("127.0.0.1", 0))
    server.setHandler(context)
    server.start()
    try:
        yield f"http://127.0.0.1:{server.getURI().getPort()}"
    finally:
        server.stop()
