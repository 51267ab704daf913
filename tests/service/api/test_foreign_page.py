"""Pages of other sites, which a browser lets send what it likes, change nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.records.database import Database
from service.records.keys import create_key
from service.settings import Settings

FOREIGN = [
    {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:3000"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://[broken"},
    {"Origin": "http://testserver:81"},
]
OWN: list[dict[str, str]] = [
    {},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://testserver"},
    # A proxy that rewrites Host, over https.
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://karyon.example"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "http://TestServer"},
]


@pytest.fixture(scope="module")
def client(
    api_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("foreign")
    changes = {"data_dir": folder, "admin_routes": True}
    settings = Settings.model_validate({**api_settings.model_dump(), **changes})
    with TestClient(create_app(settings), raise_server_exceptions=False) as opened:
        yield opened


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_page_of_another_site_changes_nothing(
    client: TestClient, headers: dict[str, str], he_png: bytes
) -> None:
    paths = ("/models/tiny/rollback", f"/deliveries/{'0' * 32}/resend", "/segment", "/orders")
    for path in paths:
        files = {"image": he_png} if path == "/segment" else None
        response = client.post(path, files=files, headers=headers)
        assert response.status_code == 403, (path, response.text)
        assert response.json()["type"] == "/problems/foreign-page"
    assert client.get("/results").json()["results"] == []
    assert client.get("/models", headers=headers).status_code == 200


@pytest.mark.parametrize("headers", OWN)
def test_programs_and_our_own_pages_are_served(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/models/tiny/rollback", headers=headers).status_code == 409


def test_with_logins_the_credential_says_who_asks(api_settings: Settings, tmp_path: Path) -> None:
    changes = {"data_dir": tmp_path, "admin_routes": True, "auth": "required"}
    settings = Settings.model_validate({**api_settings.model_dump(), **changes})
    with TestClient(create_app(settings), raise_server_exceptions=False) as opened:
        database = Database.open(None, tmp_path)
        with database.writing() as transaction:
            key, _ = create_key(transaction, name="t", scopes=["admin"], days=None, actor="test")
        database.close()
        headers = {**FOREIGN[0], "X-API-Key": key}
        assert opened.post("/models/tiny/rollback", headers=headers).status_code == 409
        del headers["X-API-Key"]
        assert opened.post("/models/tiny/rollback", headers=headers).status_code == 401
