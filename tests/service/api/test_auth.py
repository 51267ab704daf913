"""Who may do what: generated from the OpenAPI document, so that no route can be forgotten."""

import datetime as dt
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import APIRouter
from fastapi.testclient import TestClient
from pydantic import ValidationError

from service.api.auth import PUBLIC_PATHS, SCOPES, check_guards
from service.api.oidc import TokenVerifier
from service.app import create_app
from service.errors import IdentityProviderError, ProviderError
from service.records.database import Database
from service.records.keys import create_key, list_keys, revoke_key, rotate_key
from service.server import refuse_open_door
from service.settings import Settings

AUDIENCE = "karyon"
ANYWHERE = "0.0.0.0"  # noqa: S104  never bound here
ROUTES = [
    (method.upper(), path, [scope for item in operation.get("security", ()) for scope in item])
    for path, operations in create_app(Settings(records=False)).openapi()["paths"].items()
    for method, operation in operations.items()
]
GUARDED = [(method, path) for method, path, _ in ROUTES if path not in PUBLIC_PATHS]


class Issuer:
    """An OpenID Connect issuer on loopback: discovery, keys, tokens."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        documents: dict[str, Any] = {"/keys": {"keys": [{**public, "kid": "k1", "use": "sig"}]}}

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(documents[self.path]).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        discovery = "/.well-known/openid-configuration"
        documents[discovery] = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def token(self, *, key: Any = None, algorithm: str = "RS256", **changes: Any) -> str:
        now = dt.datetime.now(dt.UTC)
        claims: dict[str, Any] = {
            "iss": self.url, "aud": AUDIENCE, "sub": "lis", "scope": "segment results",
            "iat": now, "exp": now + dt.timedelta(minutes=5),
        }  # fmt: skip
        claims = {name: value for name, value in (claims | changes).items() if value is not None}
        return jwt.encode(claims, key or self.key, algorithm=algorithm, headers={"kid": "k1"})

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    opened = Issuer()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("auth")


@pytest.fixture(scope="module")
def guarded(api_settings: Settings, issuer: Issuer, folder: Path) -> Iterator[TestClient]:
    """The application with logins required, over a database of its own."""
    settings = Settings.model_validate(
        {
            **api_settings.model_dump(), "auth": "required", "oidc_issuer": issuer.url,
            "oidc_audience": AUDIENCE, "data_dir": folder,
        }
    )  # fmt: skip
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def database(folder: Path) -> Iterator[Database]:
    opened = Database.open(None, folder)
    yield opened
    opened.close()


MakeKey = Callable[..., str]


@pytest.fixture(scope="module")
def make_key(database: Database) -> MakeKey:
    """Makes a key: `make_key("segment", days=1)`."""

    def make(*scopes: str, days: float | None = None) -> str:
        with database.writing() as transaction:
            return create_key(transaction, name="t", scopes=scopes, days=days, actor="test")[0]

    return make


def call(client: TestClient, method: str, path: str, headers: dict[str, str]) -> Any:
    filled = path.replace("{id}", "0" * 32).replace("{name}", "tiny")
    return client.request(method, filled, headers=headers)


def assert_refused(response: Any, status: int, name: str) -> None:
    assert response.status_code == status, response.text
    assert response.json()["type"] == f"/problems/{name}"
    assert response.headers["www-authenticate"].startswith('Bearer realm="karyon"')


def test_every_route_is_either_public_or_says_its_scope() -> None:
    for method, path, scopes in ROUTES:
        if path in PUBLIC_PATHS:
            assert scopes == [], (method, path)
        else:
            assert set(scopes) <= {"apiKey", "bearer"}, (method, path)
            assert scopes, (method, path)
    assert {"/segment", "/results", "/audit", "/metrics", "/models"} <= {
        path for _, path in GUARDED
    }


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_every_route_refuses(
    guarded: TestClient, make_key: MakeKey, issuer: Issuer, method: str, path: str
) -> None:
    operation = guarded.app.openapi()["paths"][path][method.lower()]  # type: ignore[attr-defined]  # FastAPI
    (scope,) = {
        scope for item in operation["security"] for scopes in item.values() for scope in scopes
    }
    assert scope in SCOPES
    assert_refused(call(guarded, method, path, {}), 401, "missing-credential")
    expired = make_key(scope, days=0.0)
    wrong = make_key(scope)
    wrong = wrong[:-1] + ("A" if wrong[-1] != "A" else "B")
    past = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    for credential in (wrong, "karyon_nonsense", "x", expired, issuer.token(exp=past)):
        for headers in ({"X-API-Key": credential}, {"Authorization": f"Bearer {credential}"}):
            response = call(guarded, method, path, headers)
            assert_refused(response, 401, "invalid-credential")
            assert 'error="invalid_token"' in response.headers["www-authenticate"]
    others = sorted(set(SCOPES) - {scope})
    for credential in (make_key(*others), issuer.token(scope=" ".join(others))):
        response = call(guarded, method, path, {"Authorization": f"Bearer {credential}"})
        assert_refused(response, 403, "insufficient-scope")
        assert f'scope="{scope}"' in response.headers["www-authenticate"]
    good = call(guarded, method, path, {"X-API-Key": make_key(scope)})
    assert good.status_code not in (401, 403), good.text


@pytest.mark.parametrize("path", sorted(PUBLIC_PATHS))
def test_public_paths_ask_for_nothing(guarded: TestClient, path: str) -> None:
    assert guarded.get(path.replace("{name}", "overloaded")).status_code == 200


def test_a_route_without_a_guard_stops_the_application() -> None:
    router = APIRouter()
    router.add_api_route("/secrets", lambda: "everything")
    with pytest.raises(RuntimeError, match="/secrets takes no caller"):
        check_guards(router)


def test_revoked_and_rotated_keys(
    guarded: TestClient, database: Database, make_key: MakeKey
) -> None:
    old = make_key("segment")
    with database.writing() as transaction:
        new, _ = rotate_key(
            transaction, old.split("_")[1], overlap_days=1.0, days=None, actor="test"
        )
    for key in (old, new):
        assert guarded.get("/models", headers={"X-API-Key": key}).status_code == 200
    with database.writing() as transaction:
        revoke_key(transaction, old.split("_")[1], actor="test")
    response = guarded.get("/models", headers={"X-API-Key": old})
    assert_refused(response, 401, "invalid-credential")
    assert "revoked" in response.json()["detail"]
    with database.reading() as connection:
        kept = str(list_keys(connection)) + str(
            connection.exec_driver_sql("SELECT * FROM api_keys").all()
        )
    assert new not in kept
    assert new.rsplit("_", 1)[1] not in kept


def test_the_caller_is_on_record(
    guarded: TestClient, make_key: MakeKey, issuer: Issuer, he_png: bytes
) -> None:
    key = make_key("segment", "results", "admin")
    headers = {"X-API-Key": key}
    made = guarded.post("/segment", files={"image": he_png}, headers=headers).json()
    record = guarded.get(
        f"/results/{made['id']}", headers={"Authorization": f"Bearer {issuer.token()}"}
    ).json()
    assert record["caller"] == f"key:{key.split('_')[1]}"
    trail = [json.loads(line) for line in guarded.get("/audit", headers=headers).text.splitlines()]
    about = [(line["action"], line["actor"]) for line in trail if line["subject"] == made["id"]]
    assert about == [("result.created", record["caller"]), ("result.viewed", "oidc:lis")]


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "http://127.0.0.1:1"},
        {"aud": "another service"},
        {"sub": None},
        {"exp": None},
        {"key": "s" * 64, "algorithm": "HS256"},
    ],
)
def test_tokens_of_another_make_are_refused(
    guarded: TestClient, issuer: Issuer, changes: dict[str, Any]
) -> None:
    headers = {"Authorization": f"Bearer {issuer.token(**changes)}"}
    assert_refused(guarded.get("/models", headers=headers), 401, "invalid-credential")


def test_a_token_of_another_kind_of_key_is_refused(guarded: TestClient, issuer: Issuer) -> None:
    # It names the issuer's RSA key and an algorithm of elliptic curves; anybody can send that.
    forged = issuer.token(key=ec.generate_private_key(ec.SECP256R1()), algorithm="ES256")
    response = guarded.get("/models", headers={"Authorization": f"Bearer {forged}"})
    assert_refused(response, 401, "invalid-credential")


@pytest.mark.parametrize("body", [b"<html>down", b"\xff\xfe{", b"{}", b'{"keys": [5]}'])
@pytest.mark.parametrize("missing", [0, 10])
@pytest.mark.parametrize("discovers", [False, True])
def test_an_issuer_that_answers_nonsense_does_not_answer(
    issuer: Issuer, body: bytes, missing: int, discovers: bool
) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) + missing))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        verifier = TokenVerifier(
            issuer=url, audience=AUDIENCE, jwks_url=None if discovers else url, claim="scope"
        )
        with pytest.raises(IdentityProviderError):
            verifier.verify(issuer.token())
        server.shutdown()


def test_an_issuer_that_hangs_is_not_waited_for_by_every_token(issuer: Issuer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/keys"
        verifier = TokenVerifier(issuer=issuer.url, audience=AUDIENCE, jwks_url=url, claim="scope")
        began_s = time.monotonic()
        with ThreadPoolExecutor(4) as threads:
            waiting = [threads.submit(verifier.verify, issuer.token()) for _ in range(4)]
        assert all(isinstance(one.exception(), IdentityProviderError) for one in waiting)
    assert time.monotonic() - began_s < 9.0


def test_keys_that_are_held_outlast_an_issuer_that_is_away() -> None:
    issuer = Issuer()
    verifier = TokenVerifier(issuer=issuer.url, audience=AUDIENCE, jwks_url=None, claim="scope")
    good = issuer.token()
    assert verifier.verify(good)[0] == "lis"
    issuer.close()
    verifier._client.cooldown_duration = 0
    unknown = jwt.encode({"sub": "x"}, "s" * 64, algorithm="HS256", headers={"kid": "k2"})
    with pytest.raises(IdentityProviderError):
        verifier.verify(unknown)
    assert verifier.verify(good)[0] == "lis"


def test_scopes_may_come_as_a_list(issuer: Issuer) -> None:
    verifier = TokenVerifier(
        issuer=issuer.url, audience=AUDIENCE, jwks_url=f"{issuer.url}/keys", claim="roles"
    )
    assert verifier.verify(issuer.token(roles=["segment"])) == ("lis", frozenset({"segment"}))
    assert verifier.verify(issuer.token(roles=7)) == ("lis", frozenset())


def test_keys_are_not_fetched_over_plain_http() -> None:
    with pytest.raises(ProviderError, match="https"):
        TokenVerifier(issuer="http://id.example", audience="a", jwks_url=None, claim="scope")


def test_an_issuer_that_is_silent_is_a_503(api_settings: Settings, tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {
            **api_settings.model_dump(), "auth": "required", "data_dir": tmp_path,
            "oidc_issuer": "http://127.0.0.1:9", "oidc_audience": AUDIENCE,
        }
    )  # fmt: skip
    token = jwt.encode({"sub": "x"}, "s" * 64, algorithm="HS256", headers={"kid": "k1"})
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        response = client.get("/models", headers={"Authorization": f"Bearer {token}"})
    assert response.status_code == 503
    assert response.json()["type"] == "/problems/identity-provider-unavailable"
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"host": "127.0.0.1"}, False),
        ({"host": "::1"}, False),
        ({"host": "localhost"}, False),
        ({"host": ANYWHERE}, True),
        ({"host": "karyon.example"}, True),
        ({"host": ANYWHERE, "auth": "required"}, False),
        ({"host": ANYWHERE, "allow_anonymous": True}, False),
    ],
)
def test_an_open_door_must_be_meant(changes: dict[str, Any], refused: bool) -> None:
    assert (refuse_open_door(Settings.model_validate(changes)) is not None) == refused


@pytest.mark.parametrize(
    "changes",
    [
        {"auth": "required", "records": False},
        {"auth": "required", "oidc_issuer": "https://id.example"},
        {"oidc_issuer": "https://id.example", "oidc_audience": "a"},
    ],
)
def test_settings_that_guard_less_than_they_seem_to_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(changes)
