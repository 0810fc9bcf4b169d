"""Which revisions of a module a Maven repository has, asked through the Ivy inside pyspark in a Java of its own."""

import os
from collections.abc import Collection
from pathlib import Path

from py4j.java_gateway import JavaGateway
from py4j.protocol import Py4JError

from sparklet.errors import LocalStackError
from sparklet.local import ivy
from sparklet.local.java import find_java


def revisions(modules: Collection[ivy.Coordinate], folder: Path) -> list[list[str]]:
    """For each module what there is of it, in no order; LocalStackError if there is nothing.

    Parameters
    ----------
    folder
        An empty folder for Ivy's settings and cache.
    """
    java = find_java()
    jars = ivy.ivy_jar().parent
    gateway = JavaGateway.launch_gateway(
        classpath=os.pathsep.join(map(str, (ivy.ivy_jar(), *jars.glob("py4j-*.jar")))),
        jarpath=str(next(jars.glob("py4j-*.jar"))),
        java_path=str(java),
        javaopts=ivy.network_options(java, folder),
        die_on_exit=True,
    )
    try:
        settings = folder / "settings.xml"
        settings.write_text(ivy.settings_xml(ivy.mirror(), poms=True))
        resolver = gateway.jvm.org.apache.ivy.Ivy.newInstance()
        resolver.configure(gateway.jvm.java.io.File(str(settings)))
        resolver.getSettings().setDefaultCache(gateway.jvm.java.io.File(str(folder / "cache")))
        found = [list(resolver.listRevisions(module.organisation, module.artifact)) for module in modules]
    except Py4JError as error:
        raise LocalStackError(f"Ivy could not list revisions: {error}") from error
    finally:
        gateway.shutdown()
    for module, there in zip(modules, found, strict=True):
        if not there:
            raise LocalStackError(
                f"the repository lists nothing of {module.organisation}:{module.artifact}: no network, or a mirror"
                f" without listings ({ivy.MIRROR_VARIABLE})"
            )
    return found
