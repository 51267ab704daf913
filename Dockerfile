# The service alone: no TensorFlow, no compiler, no pip, no root.
#
#   docker build -t karyon .                            CPU
#   docker build -t karyon:gpu --build-arg RUNTIME=gpu .  NVIDIA: CUDA and cuDNN come as pip wheels,
#                                                       the driver from the host
#
# BASE_IMAGE may be any glibc image with Python 3.11 to 3.13 and its venv module; deploy/image_check.sh
# builds on one that it makes itself.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG RUNTIME=cpu
COPY requirements/serve-${RUNTIME}.txt /tmp/requirements.txt
# Wheels only: a source package would need a compiler, and its build would not be covered by a hash.
# pip leaves the environment again: nothing is installed into a running container.
RUN python3 -m venv /opt/karyon \
 && /opt/karyon/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes \
      --only-binary=:all: -r /tmp/requirements.txt \
 && /opt/karyon/bin/python -m pip uninstall --quiet --yes pip setuptools
COPY LICENSE deploy/healthcheck.py /app/
COPY service /app/service
COPY models /app/models
# The root file system is read-only later, so the bytecode is made now.
RUN /opt/karyon/bin/python -m compileall -q /app/service

FROM ${BASE_IMAGE} AS karyon
# A fixed number, so that volumes and Kubernetes' runAsUser can name it.
RUN groupadd --gid 10001 karyon \
 && useradd --uid 10001 --gid karyon --no-create-home --home-dir /nonexistent \
      --shell /usr/sbin/nologin karyon \
 && install -d -o karyon -g karyon /var/lib/karyon
COPY --from=build /opt/karyon /opt/karyon
COPY --from=build /app /app
WORKDIR /app
# Open to the container's network, so it starts only with KARYON_AUTH=required, or with
# KARYON_ALLOW_ANONYMOUS=true where the port mapping or a proxy decides who reaches it.
ENV KARYON_HOST=0.0.0.0 \
    KARYON_DATA_DIR=/var/lib/karyon \
    KARYON_LOG_FORMAT=json \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8000
# Readiness: a draining container is unhealthy, and the proxy in front sends its work elsewhere.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["/opt/karyon/bin/python", "/app/healthcheck.py"]
STOPSIGNAL SIGTERM
# Exec form: the signal reaches the service itself.
ENTRYPOINT ["/opt/karyon/bin/python", "-m", "service"]
CMD ["serve"]
