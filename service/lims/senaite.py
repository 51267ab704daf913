"""SENAITE: reads what a sample holds, writes what is missing, reads again.

Source: senaite.jsonapi 2.x: `search` by the indexes of a catalog, `update` with `transition`. What
a request that fails leaves behind is not relied on: it may answer 200 with `success: false`, and
may have kept the fields whose transition it refused.
"""

import asyncio
import base64
import re
from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import urlencode
from weakref import WeakValueDictionary

import orjson

from service.lims.destinations import SenaiteDestination
from service.lims.http_exchange import HttpReply, exchange
from service.lims.messages import Message, report_of
from service.lims.outcome import Outcome
from service.lims.senaite_filing import Analysis, Update, Wanted, next_step
from service.records.results import RecordedResult, ResultVersion

API: Final = "/@@API/senaite/v1"
_SAMPLE_CATALOG: Final = "senaite_catalog_sample"
_ANALYSIS_CATALOG: Final = "senaite_catalog_analysis"
_SAMPLE_INDEX: Final = {"client_sample_id": "getClientSampleID", "sample_id": "getId"}
_VOID_SAMPLE: Final = frozenset({"cancelled", "rejected", "invalid"})
_UID: Final = re.compile(r"[0-9a-f]{32}")
_MOST_FOUND: Final = 100
# Of one keyword: retract an earlier value, write the new one, see that it stands; and once over.
_MOST_STEPS: Final = 4


class UnusableAnswerError(OSError):
    """What answers is not SENAITE's JSON API, or not as documented."""


class _FailedRequestError(Exception):
    """SENAITE did not do it."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.said)
        self.outcome = outcome


class SenaiteAdapter:
    """Files count and density as results of analyses, each once."""

    def __init__(self, destination: SenaiteDestination) -> None:
        self._destination = destination
        credential = f"{destination.user}:{destination.password.get_secret_value()}".encode()
        self._headers = {
            "Accept": "application/json",
            "Authorization": f"Basic {base64.b64encode(credential).decode('ascii')}",
        }
        # Two results of one sample must not both find its analysis empty.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def message(self, key: str, result: RecordedResult, version: ResultVersion) -> Message:
        """Build what is wanted to stand under which keyword."""
        report = report_of(result, version)
        figures = {self._destination.count_keyword: str(report.count)}
        if self._destination.density_keyword is not None and report.density_per_mm2 is not None:
            figures[self._destination.density_keyword] = f"{report.density_per_mm2:.1f}"
        body = {
            "sample": getattr(report.identity, self._destination.sample_from),
            "result_id": result.id,
            "version": version.version,
            "figures": dict.fromkeys(figures) if report.status == "cancelled" else figures,
        }
        return Message(key, "", orjson.dumps(body))

    async def send(self, message: Message) -> Outcome:
        """Bring the sample's analyses to where they should be."""
        body = orjson.loads(message.body)
        sample = body["sample"]
        if sample is None:
            missing = self._destination.sample_from
            return Outcome("refused", f"the result has no {missing}: SENAITE cannot tell whose")
        turn = self._turns.setdefault(sample, asyncio.Lock())
        async with turn:
            try:
                outcome = Outcome("retry", "no figures")
                for keyword, value in body["figures"].items():
                    wanted = Wanted(keyword, value, body["result_id"], body["version"], message.key)
                    outcome = await self._file(sample, wanted)
                    if outcome.kind != "accepted":
                        break
            except _FailedRequestError as error:
                return error.outcome
            return outcome

    async def _file(self, sample: str, wanted: Wanted) -> Outcome:
        """Write and read until nothing is left to be written."""
        last: Update | None = None
        for _ in range(_MOST_STEPS):
            step = next_step(await self._analyses(sample, wanted.keyword), wanted)
            if isinstance(step, Outcome):
                written = step.kind == "accepted" and last is not None
                return Outcome("accepted", "filed") if written else step
            if step == last:
                break
            await self._update(step)
            last = step
        return Outcome("retry", "SENAITE said yes and did not do it")

    async def _analyses(self, sample: str, keyword: str) -> list[Analysis]:
        index = _SAMPLE_INDEX[self._destination.sample_by]
        samples = await self._search("AnalysisRequest", _SAMPLE_CATALOG, {index: sample})
        if not samples:
            raise _FailedRequestError(Outcome("retry", "SENAITE shows no such sample yet"))
        found = []
        for item in samples:
            wanted = {"getRequestID": str(item["id"]), "getKeyword": keyword}
            void = item["review_state"] in _VOID_SAMPLE
            found += [
                _analysis(one, in_void_sample=void)
                for one in await self._search("Analysis", _ANALYSIS_CATALOG, wanted, complete="yes")
            ]
        return found

    async def _search(
        self, portal_type: str, catalog: str, wanted: Mapping[str, str], **more: str
    ) -> list[dict[str, Any]]:
        query = urlencode(
            {
                "portal_type": portal_type,
                "catalog": catalog,
                **wanted,
                "limit": str(_MOST_FOUND),
                **more,
            }
        )
        answer = await self._ask("GET", f"/search?{query}", b"")
        items = answer.get("items")
        if not isinstance(items, list) or len(items) >= _MOST_FOUND:
            raise UnusableAnswerError("no list, or too long a list")
        # A search by an index that the catalog does not have finds everything.
        for item in items:
            if not isinstance(item, dict) or not {"id", "review_state"} <= item.keys():
                raise UnusableAnswerError("an item without id or state")
            for name, value in wanted.items():
                if item.get("id" if name == "getId" else name) != value:
                    raise UnusableAnswerError("an item that was not asked for")
        return items

    async def _update(self, step: Update) -> None:
        body: dict[str, str] = {"uid": step.uid, **step.fields}
        if step.transition is not None:
            body["transition"] = step.transition
        await self._ask("POST", "/update", orjson.dumps(body))

    async def _ask(self, method: Literal["GET", "POST"], path: str, body: bytes) -> dict[str, Any]:
        destination = self._destination
        reply = await exchange(
            method,
            destination.url + API + path,
            {**self._headers, **({"Content-Type": "application/json"} if body else {})},
            body,
            allow_private=destination.allow_private,
        )
        return _answer(reply, path)


def _answer(reply: HttpReply, path: str) -> dict[str, Any]:
    outcome = reply.outcome()
    if outcome.kind != "accepted":
        raise _FailedRequestError(outcome)
    try:
        answer = orjson.loads(reply.body)
    except orjson.JSONDecodeError as error:
        raise UnusableAnswerError("no JSON") from error
    if not isinstance(answer, dict):
        raise UnusableAnswerError("no JSON object")
    if answer.get("success") is False:
        # Its message may quote the laboratory's data. A conflict of writers is told like this too.
        what = "search" if path.startswith("/search") else "update"
        raise _FailedRequestError(Outcome("retry", f"SENAITE refused the {what}"))
    return answer


def _analysis(item: dict[str, Any], *, in_void_sample: bool) -> Analysis:
    uid, result = str(item.get("uid", "")), item.get("Result", item.get("getResult"))
    if not _UID.fullmatch(uid):
        raise UnusableAnswerError("an analysis without a uid")
    retest_of = item.get("getRetestOfUID") or item.get("RetestOf")
    if isinstance(retest_of, dict):
        retest_of = retest_of.get("uid")
    return Analysis(
        uid=uid,
        state=str(item["review_state"]),
        result="" if result is None else str(result).strip(),
        remarks=str(item.get("Remarks") or item.get("getRemarks") or ""),
        retest_of=retest_of or None,
        in_void_sample=in_void_sample,
    )
