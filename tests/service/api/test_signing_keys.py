from fastapi.testclient import TestClient

from service.provenance.envelope import read_payload


def test_the_key_of_an_answer_is_published(client: TestClient, he_png: bytes) -> None:
    answer = client.post("/segment", files={"image": ("x.png", he_png)}).json()
    _, key_id, _ = read_payload(answer["provenance"])
    response = client.get("/.well-known/karyon-keys.json")
    assert response.status_code == 200
    active = [key for key in response.json()["keys"] if key["active"]]
    assert [key["kid"] for key in active] == [key_id]
    assert "d" not in active[0], "the private part stays at home"


def test_nothing_private_is_published(client: TestClient) -> None:
    for key in client.get("/.well-known/karyon-keys.json").json()["keys"]:
        assert set(key) == {"kty", "crv", "x", "kid", "alg", "use", "created_utc", "active"}
