# The whole local stack: `sparklet run`, its emulator of AWS, Spark and all table formats. For a Mac, since Sparklet needs
# Linux, and where nothing shall be installed. The context is the repository; `make image ARGS=--local` builds it, too:
#   docker build -f docker/local.Dockerfile -t sparklet-local .
#   docker run --rm -v "$PWD:/work" sparklet-local sparklet run job.py --input data --output out
ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim

FROM ${BASE_IMAGE} AS base
USER 0
COPY docker/packages.sh /tmp/
RUN sh /tmp/packages.sh local

FROM base AS installed
COPY pyproject.toml README.md LICENSE CHANGELOG.md /src/
COPY requirements /src/requirements
COPY docker /src/docker
COPY sam /src/sam
COPY examples/github-actions.yml /src/examples/
COPY runtime /src/runtime
ARG STACK=spark-3.5
# Mirrors; an empty one is none.
ARG SPARKLET_MAVEN_MIRROR=
ARG PIP_INDEX_URL=
RUN sh /src/docker/install_local.sh "${STACK}"

FROM base
COPY --from=installed /opt/sparklet /opt/sparklet
COPY --from=installed /var/cache/sparklet /var/cache/sparklet
ENV PATH=/opt/sparklet/bin:/usr/local/bin:/usr/bin:/bin \
    SPARKLET_CACHE_DIR=/var/cache/sparklet \
    HOME=/home/sparklet \
    LANG=C.UTF-8
ARG STACK=spark-3.5
ARG VERSION=unknown
LABEL org.opencontainers.image.title="Sparklet, local stack" \
      org.opencontainers.image.description="sparklet run with its emulator of AWS and Spark" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      io.sparklet.stack="${STACK}"
USER sparklet
WORKDIR /work
ENTRYPOINT ["tini", "--"]
CMD ["sparklet", "--help"]
