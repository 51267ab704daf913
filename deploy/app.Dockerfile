# The web app alone, a client of the service:
#   docker build -t karyon:app -f deploy/app.Dockerfile .
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
COPY requirements/ui.txt /tmp/requirements.txt
RUN python3 -m venv /opt/karyon-app \
 && /opt/karyon-app/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
      --require-hashes --only-binary=:all: -r /tmp/requirements.txt \
 && /opt/karyon-app/bin/python -m pip uninstall --quiet --yes pip setuptools
COPY LICENSE /app/
COPY service/__init__.py /app/service/__init__.py
COPY service/ui /app/service/ui
RUN /opt/karyon-app/bin/python -m compileall -q /app/service

FROM ${BASE_IMAGE} AS app
COPY --from=build /opt/karyon-app /opt/karyon-app
COPY --from=build /app /app
WORKDIR /app
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8501
ENTRYPOINT ["/opt/karyon-app/bin/python", "-m", "service.ui"]
# Open to the container's network; the port mapping or a proxy decides who reaches it.
CMD ["--server.address=0.0.0.0"]
