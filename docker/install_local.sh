#!/bin/sh
# Sparklet's local stack into /opt/sparklet, and what its first run would fetch into /var/cache/sparklet: install_local.sh STACK
set -eu
[ -n "${PIP_INDEX_URL:-}" ] && export UV_DEFAULT_INDEX="$PIP_INDEX_URL" || unset PIP_INDEX_URL
[ -n "${SPARKLET_MAVEN_MIRROR:-}" ] || unset SPARKLET_MAVEN_MIRROR
certificates=/mnt/ca-certificates.crt # of docker/build.py, behind a proxy that inspects TLS
[ ! -f "$certificates" ] || export SSL_CERT_FILE="$certificates" PIP_CERT="$certificates"
lock=local
[ "$1" = spark-3.5 ] || lock="local-$1"

cd / # not /src, whose pyproject has constraints for uv
python3 -m venv /opt/sparklet
export PATH="/opt/sparklet/bin:$PATH"
pip install --quiet --no-cache-dir --disable-pip-version-check --require-hashes -r /src/requirements/bootstrap.lock
set -- uv pip install --quiet --system-certs --no-cache --no-build-isolation --python /opt/sparklet/bin/python
"$@" --require-hashes -r "/src/requirements/$lock.lock"
"$@" --no-deps /src
export SPARKLET_CACHE_DIR=/var/cache/sparklet
python -P -c 'from sparklet.app.doctor import fetch_now; fetch_now(print)' # not by its command, which judges this machine
chmod -R a+rwX /var/cache/sparklet # whoever runs it: docker run --user
