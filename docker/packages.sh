#!/bin/sh
# Every step that needs a distribution's package manager: apt (Debian, Ubuntu) or dnf (Amazon Linux 2023).
#   packages.sh builder   a JDK to cut a Java runtime from, and pip; nothing of it reaches the image
#   packages.sh local     what the local stack and `make` need, and its user, in Debian alone
#   packages.sh runtime   Python 3.11, then whatever an image must not have is taken away
# The dnf branch has never been run: no Amazon Linux could be had where this was written.
set -eu

with_apt() {
    export DEBIAN_FRONTEND=noninteractive
    mkdir -p /usr/share/man/man1 # Java's package links its manual there, where there may be no manuals
    apt-get update -qq
    kept=/mnt/apt # mounted by docker/build.py: a second build downloads nothing
    [ -d "$kept" ] || kept=/var/cache/apt/archives
    mkdir -p "$kept/partial"
    apt-get install -y -qq --no-install-recommends -o "Dir::Cache::archives=$kept" -o APT::Keep-Downloaded-Packages=true "$@"
    apt-get clean
    rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/log/alternatives.log
}

with_dnf() {
    dnf=$(command -v dnf || command -v microdnf)
    "$dnf" install -y --setopt=install_weak_deps=0 --setopt=tsflags=nodocs "$@"
    "$dnf" clean all
    rm -rf /var/cache/dnf /var/cache/yum /var/log/dnf* /var/log/hawkey* /var/log/yum* /var/lib/dnf/history*
    ln -sf /usr/bin/python3.11 /usr/local/bin/python3 # the system's own python3 is 3.9
}

case "$1" in
    builder)
        if command -v apt-get >/dev/null; then
            with_apt openjdk-17-jdk-headless python3 python3-pip python3-setuptools python3-wheel ca-certificates
        else
            with_dnf java-17-amazon-corretto-devel java-17-amazon-corretto-jmods \
                python3.11 python3.11-pip python3.11-setuptools findutils ca-certificates
        fi
        ;;
    runtime)
        if command -v apt-get >/dev/null; then
            with_apt python3 ca-certificates
        else
            with_dnf python3.11 ca-certificates
        fi
        # Different in each build, or rewritten at need.
        rm -rf /var/cache/ldconfig/aux-cache /var/cache/debconf/*-old /var/lib/dpkg/*-old /tmp/* /var/tmp/*
        # Nothing may become root: Lambda sets no_new_privs, other hosts may not.
        python3 - <<'PYTHON'
import os, stat
for folder, _, names in os.walk("/"):
    if folder.startswith(("/proc", "/sys", "/dev")):
        continue
    for path in (os.path.join(folder, name) for name in names):
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode) and mode & 0o6000:
            os.chmod(path, stat.S_IMODE(mode) & ~0o6000)
PYTHON
        # A real line, so that Hadoop can name its user; Lambda's own user has this number.
        grep -q '^sparklet:' /etc/passwd || echo 'sparklet:x:993:990:Sparklet:/tmp:/bin/sh' >>/etc/passwd
        grep -q '^sparklet:' /etc/group || echo 'sparklet:x:990:' >>/etc/group
        ;;
    local)
        with_apt python3 python3-venv make git procps tini ca-certificates
        rm -rf /tmp/*
        useradd --uid 1000 --create-home --shell /bin/bash sparklet
        chmod 777 /home/sparklet # whoever runs it: docker run --user
        install -d -o sparklet -m 777 /work /work/.venv # the latter for a volume in its place
        ;;
    *)
        echo "packages.sh: builder, local or runtime, not '$1'" >&2
        exit 2
        ;;
esac
