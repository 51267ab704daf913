import re

from fastapi.testclient import TestClient


def test_the_root_leads_to_the_documentation(client: TestClient) -> None:
    response = client.get("/")
    assert response.status_code == 307
    assert response.headers["location"] == "docs"


def test_the_documentation_needs_no_other_host(client: TestClient) -> None:
    response = client.get("/docs")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    assert not re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", response.text)
    assert not re.findall(
        r"<(?:script|img|iframe)[^>]+src=|<link[^>]+href=\"(?!data:)", response.text
    )
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert client.head("/docs").status_code == 200
