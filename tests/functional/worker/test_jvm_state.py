"""A script's changes to the whole JVM do not reach the next script: they are undone, or the JVM is replaced."""

import json
from typing import Any

import pytest

from tests.functional.worker.conftest import SPARK, Bench

pytestmark = pytest.mark.spark

TOOLS = (
    SPARK
    + """
import json
jvm = spark._jvm
java, ssl, log, hadoop, sql = (jvm.java, jvm.javax.net.ssl, jvm.java.util.logging, jvm.org.apache.hadoop,
    jvm.org.apache.spark.sql)
security, drivers, system = java.security.Security, java.sql.DriverManager, java.lang.System
identifier = sql.catalyst.FunctionIdentifier

def static(name, field):
    found = java.lang.Class.forName(name).getDeclaredField(field)
    found.setAccessible(True)
    return found.get(None)

def functions(kind):
    return getattr(getattr(sql.catalyst.analysis, f"{kind}Registry$"), "MODULE$").builtin()

def made(code):
    compiler = jvm.org.codehaus.janino.SimpleCompiler()
    compiler.setParentClassLoader(java.lang.Thread.currentThread().getContextClassLoader())
    compiler.cook("public class Mine " + code)
    return compiler.getClassLoader().loadClass("Mine").newInstance()

def logger(name):
    found = log.Logger.getLogger(name)
    return [str(found.getLevel()), len(found.getHandlers()), found.getUseParentHandlers()]
"""
)
LOOK = """
names = [thread.getName() for thread in java.lang.Thread.getAllStackTraces().keySet()]
drivers.getDrivers()
print(json.dumps([java.lang.ProcessHandle.current().pid(), {
    "loggers": [logger(name) for name in ("", "org.codehaus.janino.UnitCompiler")],
    "streams": [system.identityHashCode(static("java.lang.System", name)) for name in ("in", "out", "err")],
    "uncaught": str(java.lang.Thread.getDefaultUncaughtExceptionHandler()),
    "proxies": java.net.ProxySelector.getDefault().toString(),
    "http": [str(java.net.Authenticator.getDefault()), str(java.net.CookieHandler.getDefault()),
        java.net.HttpURLConnection.getFollowRedirects()],
    "https": [ssl.HttpsURLConnection.getDefaultHostnameVerifier().toString(),
        str(static("javax.net.ssl.HttpsURLConnection", "defaultSSLSocketFactory")),
        str(static("javax.net.ssl.SSLContext", "defaultContext"))],
    "jdbc": [drivers.getLoginTimeout(), str(drivers.getLogWriter())],
    "locale": [java.util.Locale.getDefault().toString(), java.util.TimeZone.getDefault().getID()],
    "security properties": security.getProperty("networkaddress.cache.ttl"),
    "first provider": security.getProviders()[0].getName(),
    "trust": system.getProperty("javax.net.ssl.trustStore"),
    "drivers": static("java.sql.DriverManager", "registeredDrivers").size(),
    "dialect": sql.jdbc.JdbcDialects.get("jdbc:postgresql:x").getClass().getSimpleName(),
    "host": hadoop.net.NetUtils.getStaticResolution("mine"),
    "resource": "mine.xml" in static("org.apache.hadoop.conf.Configuration", "defaultResources"),
    "function": functions("Function").functionExists(identifier("upper")),
    "table function": functions("TableFunction").functionExists(identifier("range")),
    "threads": len([name for name in names if name.startswith("pool-")]),
}]))
"""
PUT_BACK = {
    "streams": """
system.setOut(java.io.PrintStream(java.io.ByteArrayOutputStream()))
system.setErr(java.io.PrintStream(java.io.ByteArrayOutputStream()))
system.setIn(java.io.StringBufferInputStream(""))""",
    "uncaught": """
java.lang.Thread.setDefaultUncaughtExceptionHandler(made(
    "implements Thread.UncaughtExceptionHandler { public void uncaughtException(Thread of, Throwable error) {} }"))""",
    "proxies": """
java.net.ProxySelector.setDefault(made("extends java.net.ProxySelector {"
    "public java.util.List select(java.net.URI uri) { return null; }"
    "public void connectFailed(java.net.URI uri, java.net.SocketAddress to, java.io.IOException error) {} }"))""",
    "http": """
java.net.Authenticator.setDefault(made("extends java.net.Authenticator {}"))
java.net.CookieHandler.setDefault(java.net.CookieManager())
java.net.HttpURLConnection.setFollowRedirects(False)""",
    "https": """
context = ssl.SSLContext.getInstance("TLS")
context.init(None, None, None)
ssl.SSLContext.setDefault(context)
ssl.HttpsURLConnection.setDefaultSSLSocketFactory(context.getSocketFactory())
ssl.HttpsURLConnection.setDefaultHostnameVerifier(made("implements javax.net.ssl.HostnameVerifier {"
    "public boolean verify(String name, javax.net.ssl.SSLSession session) { return true; } }"))""",
    "jdbc": "\ndrivers.setLoginTimeout(1)\ndrivers.setLogWriter(java.io.PrintWriter(java.io.StringWriter()))",
    "locale": """
java.util.Locale.setDefault(java.util.Locale("tr", "TR"))
java.util.TimeZone.setDefault(java.util.TimeZone.getTimeZone("Asia/Tokyo"))""",
}
PROVIDER = 'made("extends java.security.Provider { public Mine() { super(\\"mine\\", \\"1\\", \\"\\"); } }")'
REPLACED = {
    "loggers": """
for each in map(log.Logger.getLogger, ("", "org.codehaus.janino.UnitCompiler")):
    each.setLevel(log.Level.CONFIG)
    each.setUseParentHandlers(False)
    each.addHandler(log.ConsoleHandler())""",
    "security properties": "security.setProperty('networkaddress.cache.ttl', '7')",
    "first provider": f"security.insertProviderAt({PROVIDER}, 1)",
    "trust": "system.setProperty('javax.net.ssl.trustStore', '/mine')",
    "drivers": "drivers.deregisterDriver(drivers.getDrivers().nextElement())",
    "dialect": """
sql.jdbc.JdbcDialects.registerDialect(made("extends org.apache.spark.sql.jdbc.JdbcDialect {"
    "public boolean canHandle(String url) { return true; } }"))""",
    "host": "hadoop.net.NetUtils.addStaticResolution('mine', '127.0.0.1')",
    "resource": "hadoop.conf.Configuration.addDefaultResource('mine.xml')",
    "function": "functions('Function').dropFunction(identifier('upper'))",
    "table function": "functions('TableFunction').dropFunction(identifier('range'))",
    "threads": """
pool = java.util.concurrent.Executors.newFixedThreadPool(20)
for _ in range(20):
    pool.submit(java.lang.Thread())""",
}


def look(bench: Bench, change: str = "") -> Any:
    """Run a script that changes and prints the JVM's settings; return the JVM's process id and the settings."""
    return bench.run(f"{TOOLS}\n{change}\n{LOOK}").printed()


def test_a_script_finds_the_jvms_settings_as_they_were(warm: Bench) -> None:
    """The settings are restored and read within one script, as Java itself can change its providers after a script."""
    restore = """
entry = py4j.java_gateway.JavaObject("t", spark.sparkContext._gateway._gateway_client)
kept = entry.getClass().getDeclaredField("first")
kept.setAccessible(True)
kept.get(entry).restore()
"""
    change = "\n".join((*PUT_BACK.values(), f"security.addProvider({PROVIDER})"))

    ran = warm.run(f"{TOOLS}\nimport py4j.java_gateway\n{LOOK}\n{change}\n{LOOK}\n{restore}\n{LOOK}")

    assert ran.code == 0, ran.text("stderr")
    first, changed, later = [json.loads(line)[1] for line in ran.text("stdout").splitlines()]
    assert [name for name in PUT_BACK if changed[name] == first[name]] == []
    assert later == first  # an addition at the end of a list stays, as the provider of a library must


@pytest.mark.parametrize("setting", REPLACED)
def test_a_change_that_cannot_be_undone_replaces_the_jvm(warm: Bench, setting: str) -> None:
    jvm, first = look(warm)

    _, changed = look(warm, REPLACED[setting])

    assert changed[setting] != first[setting]
    next_jvm, later = look(warm)
    assert (next_jvm != jvm, later[setting]) == (True, first[setting])
