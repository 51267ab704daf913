"""docker-compose.yml: valid by the Compose Specification's own schema, and confined as promised."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from service.settings import Settings

SERVICES = ("karyon", "karyon-gpu", "app", "prometheus", "grafana", "locust")


def resolved(text: str) -> str:
    """Replace ${NAME:-default} by its default, as compose does before it reads the types."""
    return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", text)


@pytest.fixture(scope="module")
def compose(repository: Path) -> dict[str, Any]:
    text = (repository / "docker-compose.yml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(resolved(text))
    return document


def test_the_compose_specification_accepts_it(compose: dict[str, Any]) -> None:
    schema_file = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(schema_file.read_text(encoding="utf-8"))
    jsonschema.validate(compose, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"services": {"karyon": {"imagge": "x"}}}, schema)


def test_it_has_the_services_and_profiles_that_are_documented(compose: dict[str, Any]) -> None:
    profiles = {name: item.get("profiles", []) for name, item in compose["services"].items()}
    assert profiles == {
        "karyon": [],
        "karyon-gpu": ["gpu"],
        "app": ["app"],
        "prometheus": ["observe"],
        "grafana": ["observe"],
        "locust": ["load"],
    }


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    limits = service["deploy"]["resources"]["limits"]
    assert set(limits) == {"cpus", "memory", "pids"}
    for port in service["ports"]:
        assert port.startswith("127.0.0.1:"), "there is no login: loopback alone"


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_health_check(
    compose: dict[str, Any], repository: Path, name: str
) -> None:
    service = compose["services"][name]
    if "build" in service and "healthcheck" not in service:
        assert "HEALTHCHECK" in (repository / "Dockerfile").read_text(encoding="utf-8")
    else:
        assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", ["prometheus", "grafana", "locust"])
def test_images_of_others_are_pinned_by_a_version(compose: dict[str, Any], name: str) -> None:
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", compose["services"][name]["image"])


def test_mounted_files_exist_and_are_read_only(compose: dict[str, Any], repository: Path) -> None:
    mounts = [
        volume
        for service in compose["services"].values()
        for volume in service.get("volumes", ())
        if volume.startswith("./")
    ]
    assert mounts
    for mount in mounts:
        source, _, mode = mount.split(":")
        assert (repository / source).exists(), source
        assert mode == "ro", mount


@pytest.mark.parametrize("name", ["karyon", "karyon-gpu"])
def test_the_environment_is_made_of_settings(compose: dict[str, Any], name: str) -> None:
    environment: dict[str, str] = compose["services"][name]["environment"]
    fields = {key.removeprefix("KARYON_").lower(): value for key, value in environment.items()}
    settings = Settings(**fields)  # type: ignore[arg-type]  # as text, like the environment
    grace_s = float(compose["services"][name]["stop_grace_period"].removesuffix("s"))
    assert grace_s > settings.drain_delay_s + settings.shutdown_timeout_s


def test_the_gpu_is_reserved_and_the_processor_no_way_out(compose: dict[str, Any]) -> None:
    service = compose["services"]["karyon-gpu"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
    assert service["environment"]["KARYON_PROVIDER"] == "cuda"
    assert service["build"]["args"]["RUNTIME"] == "gpu"
