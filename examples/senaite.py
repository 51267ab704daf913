"""A stand-in for SENAITE: as much of its JSON API as filing a result needs, held in memory.

    python examples/senaite.py --port 9002 --sample S26-1234 --keyword NUC

It knows samples by Client Sample ID, each with one analysis for each keyword, and does what the
documentation of senaite.jsonapi and the analysis workflow of senaite.core say: `search` by the
indexes of a catalog, `update` with fields and a `transition`. Try the adapter on it before you
touch your laboratory's own. Standard library only.
"""

import argparse
import base64
import contextlib
import json
import threading
import uuid
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

PREFIX = "/senaite/@@API/senaite/v1"
INDEXES = {
    "senaite_catalog_sample": {"portal_type", "getId", "getClientSampleID", "review_state"},
    "senaite_catalog_analysis": {"portal_type", "getRequestID", "getKeyword", "review_state"},
}
# Transition: from which states, to which.
ANALYSIS = {
    "initialize": ({"registered"}, "unassigned"),
    "submit": ({"unassigned", "assigned"}, "to_be_verified"),
    "retract": ({"to_be_verified"}, "retracted"),
    "reject": ({"unassigned", "assigned", "to_be_verified"}, "rejected"),
    "verify": ({"to_be_verified"}, "verified"),
}
SAMPLE = {
    "receive": ({"sample_due"}, "sample_received"),
    "invalidate": ({"sample_received"}, "invalid"),
}
EDITABLE = {"unassigned", "assigned"}


class RefusedError(Exception):
    """What SENAITE answers with `success: false`."""

    def __init__(self, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.status = status


class Laboratory:
    """Samples and their analyses, as the JSON API shows them."""

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any]] = {}
        self.updates: list[dict[str, Any]] = []
        self._lock = threading.RLock()

    def register(self, client_sample_id: str, *keywords: str, received: bool = True) -> str:
        """Add a sample with its analyses; return its uid."""
        with self._lock:
            number = sum(item["portal_type"] == "AnalysisRequest" for item in self.items.values())
            sample = self._add(
                portal_type="AnalysisRequest",
                id=f"HE-{number + 1:04d}",
                getClientSampleID=client_sample_id,
                review_state="sample_due",
            )
            for keyword in keywords:
                self._add(
                    portal_type="Analysis",
                    id=keyword,
                    getRequestID=sample["id"],
                    getKeyword=keyword,
                    getRetestOfUID="",
                    Result="",
                    Remarks="",
                    review_state="registered",
                )
            if received:
                self.update({"uid": sample["uid"], "transition": "receive"})
            return str(sample["uid"])

    def analyses(self, client_sample_id: str, keyword: str) -> list[dict[str, Any]]:
        """Return copies of the analyses of a keyword, the oldest first."""
        with self._lock:
            samples = {
                item["id"]
                for item in self.items.values()
                if item.get("getClientSampleID") == client_sample_id
            }
            return [
                dict(item)
                for item in self.items.values()
                if item.get("getRequestID") in samples and item.get("getKeyword") == keyword
            ]

    def search(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        """Find by the indexes of a catalog; what is no index of it is not looked at."""
        indexes = INDEXES.get(query.get("catalog", ""), {"portal_type"})
        wanted = {name: value for name, value in query.items() if name in indexes}
        with self._lock:
            found = [
                dict(item)
                for item in self.items.values()
                if all(
                    item.get("id" if name == "getId" else name) == value
                    for name, value in wanted.items()
                )
            ]
        if query.get("complete") not in {"yes", "y", "1", "True"}:
            for item in found:
                item.pop("Result", None)
                item.pop("Remarks", None)
        return found[: int(query.get("limit", "25"))]

    def update(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Set fields, then do the transition: a refused one leaves the fields set."""
        with self._lock:
            item = self.items.get(record.get("uid", ""))
            if item is None:
                raise RefusedError("No Objects could be updated", 400)
            fields = {name: record[name] for name in ("Result", "Remarks") if name in record}
            if fields and item["review_state"] not in EDITABLE:
                raise RefusedError(f"Not allowed to set the field '{min(fields)}'", 401)
            item.update(fields)
            if "transition" in record:
                self._transition(item, record["transition"])
            self.updates.append(dict(record))
            return dict(item)

    def _add(self, **members: Any) -> dict[str, Any]:
        item = {"uid": uuid.uuid4().hex, **members}
        self.items[item["uid"]] = item
        return item

    def _copy_sample(self, sample: dict[str, Any]) -> None:
        """What follows an invalidated sample: the same once more, results and remarks too."""
        copied = {"id": f"{sample['id']}-R01", "review_state": "sample_received"}
        self._add(**{**sample, **copied, "uid": uuid.uuid4().hex})
        for item in list(self.items.values()):
            if item.get("getRequestID") == sample["id"] and item["review_state"] != "retracted":
                again = {"getRequestID": copied["id"], "review_state": "unassigned"}
                self._add(**{**item, **again, "uid": uuid.uuid4().hex})

    def _transition(self, item: dict[str, Any], name: str) -> None:
        known = SAMPLE if item["portal_type"] == "AnalysisRequest" else ANALYSIS
        sources, target = known.get(name, (set(), ""))
        if item["review_state"] not in sources or (name == "submit" and not item["Result"]):
            raise RefusedError(f"Failed to perform transition '{name}' on {item['id']}")
        item["review_state"] = target
        if name == "retract":
            # The retest is a copy, Remarks and all, but for the Result.
            copied = {key: value for key, value in item.items() if key != "uid"}
            copied |= {"Result": "", "review_state": "unassigned", "getRetestOfUID": item["uid"]}
            self._add(**copied)
        if name == "invalidate":
            self._copy_sample(item)
        if name == "receive":
            for analysis in self.items.values():
                if analysis.get("getRequestID") == item["id"]:
                    self._transition(analysis, "initialize")
        if name in {"submit", "retract"}:
            print(f"senaite  {item['getRequestID']} {item['id']} is {target}", flush=True)


def senaite_server(
    port: int, laboratory: Laboratory, user: str, password: str
) -> ThreadingHTTPServer:
    """Return a server of the JSON API on loopback; port 0 takes a free one."""
    expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def respond(target: str, authorization: str | None, body: bytes | None) -> list[Any]:
        parts = urlsplit(target)
        if authorization != expected:
            raise RefusedError("Unauthorized", 401)
        if body is None and parts.path == f"{PREFIX}/search":
            return laboratory.search(dict(parse_qsl(parts.query)))
        if body is not None and parts.path == f"{PREFIX}/update":
            return [laboratory.update(json.loads(body))]
        raise RefusedError("Not Found", 404)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(None)

        def do_POST(self) -> None:
            self.answer(self.rfile.read(int(self.headers.get("content-length", 0))))

        def answer(self, body: bytes | None) -> None:
            status = 200
            document: dict[str, Any]
            try:
                items = respond(self.path, self.headers.get("authorization"), body)
                document = {"count": len(items), "items": items}
            except RefusedError as refusal:
                status = refusal.status
                document = {"success": False, "message": str(refusal)}
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Keep quiet; the laboratory tells."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=9002)
    parser.add_argument("--user", default="karyon")
    parser.add_argument("--password", default="secret")
    parser.add_argument("--sample", action="append", default=[], help="Client Sample ID")
    parser.add_argument("--keyword", action="append", default=[], help="of an analysis of each")
    options = parser.parse_args()
    laboratory = Laboratory()
    for sample in options.sample:
        laboratory.register(sample, *(options.keyword or ["NUC"]))
    print(f"http://127.0.0.1:{options.port}/senaite, {len(options.sample)} sample(s)")
    server = senaite_server(options.port, laboratory, options.user, options.password)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
