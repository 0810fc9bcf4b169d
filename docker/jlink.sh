#!/bin/sh
# Cut a Java runtime out of the distribution's JDK: jlink.sh TARGET
# All of Java SE, since a job may use any of it, and those of the JDK's own modules that something here asks for:
# unsupported (Unsafe), security.auth (Hadoop's login), crypto (TLS with elliptic curves), management (Spark's metrics),
# charsets and localedata (dates in languages other than English), zipfs, naming.dns, httpserver, net, jfr, jcmd (jstack).
set -eu
javac=$(readlink -f "$(command -v javac)")
jdk=$(dirname "$(dirname "$javac")")
modules=java.se,jdk.charsets,jdk.crypto.cryptoki,jdk.crypto.ec,jdk.httpserver,jdk.jcmd,jdk.jfr,jdk.localedata,jdk.management
modules=$modules,jdk.naming.dns,jdk.net,jdk.nio.mapmode,jdk.security.auth,jdk.security.jgss,jdk.unsupported,jdk.xml.dom,jdk.zipfs
for optional in jdk.incubator.vector; do # named in Spark 4's options
    [ -e "$jdk/jmods/$optional.jmod" ] && modules=$modules,$optional
done
# Classes that matter for a start are in the class-data archive, so these may be compressed. The plug-in that works the
# modules out ahead writes its sets in another order each time.
"$jdk/bin/jlink" --module-path "$jdk/jmods" --add-modules "$modules" --output "$1" --no-header-files --no-man-pages \
    --compress=2 --disable-plugin system-modules
find "$1" -exec touch -h -d @0 {} +
