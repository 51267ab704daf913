"""Board and alerts name only metrics and labels that the service really exposes."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from service.api.problem_table import PROBLEM_TYPES
from service.app import create_app
from service.settings import Settings

ADDED_BY_PROMETHEUS = {"instance", "job"}
SAMPLES = {
    "counter": ("_total", "_created"),
    "histogram": ("_bucket", "_sum", "_count", "_created"),
    "gauge": ("",),
}
NAME = re.compile(r"\bkaryon_[a-z0-9_]+\b")


def expressions_of_board(repository: Path) -> dict[str, str]:
    path = repository / "deploy" / "grafana" / "dashboards" / "karyon.json"
    panels: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["panels"]
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels
        for target in panel.get("targets", ())
    }


def rules_of(repository: Path) -> list[dict[str, Any]]:
    text = (repository / "deploy" / "alerts.yml").read_text(encoding="utf-8")
    rules: list[dict[str, Any]] = yaml.safe_load(text)["groups"][0]["rules"]
    return rules


@pytest.fixture(scope="module")
def expressions(repository: Path) -> dict[str, str]:
    rules = {rule["alert"]: rule["expr"] for rule in rules_of(repository)}
    return {**expressions_of_board(repository), **rules}


@pytest.fixture(scope="module")
def exposed(
    tiny_models_dir: Path, test_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Metric]:
    """What a real application exposes after an answer, an error, a refusal and a comparison."""
    destinations: Any = [{"name": "fhir", "kind": "fhir", "url": "http://127.0.0.1:9/"}]
    settings = Settings(
        models_dir=tiny_models_dir,
        cache_bytes=1_000_000,
        quota_requests_per_minute=2,
        shadow_model="tiny_onechannel",
        shadow_share=1.0,
        data_dir=tmp_path_factory.mktemp("data"),
        deliveries=destinations,
    )
    image = (test_data / "images" / "nucls_test_1.png").read_bytes()
    with TestClient(create_app(settings)) as client:
        headers = {"Content-Type": "image/png"}
        statuses = [
            client.post("/segment", content=body, headers=headers).status_code
            for body in (image, b"no image", image)
        ]
        assert statuses == [200, 415, 429]
        assert client.get("/health/ready").status_code == 200
        deadline = time.monotonic() + 60.0
        text = ""
        while "karyon_shadow_nuclei_total{" not in text:
            assert time.monotonic() < deadline, "the candidate has seen the image"
            time.sleep(0.05)
            text = client.get("/metrics").text
    return {family.name: family for family in text_string_to_metric_families(text)}


@pytest.fixture(scope="module")
def sample_names(exposed: dict[str, Metric]) -> dict[str, Metric]:
    return {
        f"{family.name}{suffix}": family
        for family in exposed.values()
        for suffix in SAMPLES.get(family.type, ("",))
    }


def test_every_metric_named_is_exposed(
    expressions: dict[str, str], sample_names: dict[str, Metric]
) -> None:
    named = {name: where for where, text in expressions.items() for name in NAME.findall(text)}
    assert len(named) > 20
    unknown = {name: where for name, where in named.items() if name not in sample_names}
    assert not unknown


def test_every_label_named_is_exposed(
    expressions: dict[str, str], sample_names: dict[str, Metric]
) -> None:
    checked = 0
    for where, text in expressions.items():
        families = [sample_names[name] for name in NAME.findall(text)]
        known = ADDED_BY_PROMETHEUS | {
            label for family in families for sample in family.samples for label in sample.labels
        }
        selectors = " ".join(re.findall(r"\{([^}]*)\}", text))
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selectors))
        for group in re.findall(r"\b(?:by|without|ignoring|on)\s*\(([^)]*)\)", text):
            labels |= {label.strip() for label in group.split(",")}
        assert labels <= known | {"le"}, where
        checked += len(labels)
    assert checked > 50


def test_the_route_that_is_asked_for_exists(
    expressions: dict[str, str], sample_names: dict[str, Metric]
) -> None:
    asked = {
        route for text in expressions.values() for route in re.findall(r'route="([^"]+)"', text)
    }
    routes = {
        sample.labels["route"] for sample in sample_names["karyon_http_requests_total"].samples
    }
    assert asked
    assert asked <= routes


def test_no_way_to_answer_503_goes_unseen(expressions: dict[str, str]) -> None:
    """An overload is told by what it refuses; the others by their problem types or the probe."""
    types = {
        name
        for text in expressions.values()
        for names in re.findall(r'\btype=~?"([^"]+)"', text)
        for name in names.split("|")
    }
    alerts = " ".join(text for where, text in expressions.items() if where.startswith("Karyon"))
    if "karyon_requests_refused_total" in alerts:
        types.add("overloaded")
    if 'route="/health/ready", status="503"' in alerts:
        types.add("not-ready")
    assert types == {problem.name for problem in PROBLEM_TYPES if problem.status == 503}


def test_every_alert_has_its_paragraph(repository: Path) -> None:
    headings = {
        heading.lower()
        for heading in re.findall(
            r"^#+ (\w+)$",
            (repository / "docs" / "operations.md").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    }
    for rule in rules_of(repository):
        page, anchor = rule["annotations"]["runbook"].split("#")
        assert page == "docs/operations.md"
        assert anchor == rule["alert"].lower()
        assert anchor in headings


def test_the_board_is_provisioned_for_the_source_that_is(repository: Path) -> None:
    grafana = repository / "deploy" / "grafana"
    sources = yaml.safe_load(
        (grafana / "provisioning" / "datasources" / "prometheus.yml").read_text(encoding="utf-8")
    )
    board = json.loads((grafana / "dashboards" / "karyon.json").read_text(encoding="utf-8"))
    uids = {panel["datasource"]["uid"] for panel in board["panels"] if panel["type"] != "row"}
    assert uids == {source["uid"] for source in sources["datasources"]}
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


def test_promtool_reads_every_expression(
    expressions: dict[str, str], repository: Path, tmp_path: Path
) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool (Debian: apt-get install prometheus)")
    rules = [
        {
            "record": f"check:expression_{number}",
            "expr": text.replace("$__rate_interval", "1m").replace("$instance", ".*"),
        }
        for number, text in enumerate(expressions.values())
    ]
    collected = tmp_path / "rules.yml"
    collected.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    for path in (collected, repository / "deploy" / "alerts.yml"):
        done = subprocess.run(
            [promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
