"""What is to be done next so that SENAITE holds a value once: a decision from its state alone.

```
 the analyses of one keyword, as they stand ──► next_step ──► Update, then read again
                                                          └─► Outcome: done, later, or never
```
SENAITE knows no idempotency key, so the analysis itself holds one: a line in its Remarks that
names result, version and value, written by the same request as the value. Whoever is killed
between writing and taking note of it finds that line at the next attempt, and writes nothing. Where
line and Result differ, a person has changed it since, and it is theirs.

Source: senaite.jsonapi 2.x (`update` with `transition`) and the analysis workflow of senaite.core
2: submit leads from `unassigned` or `assigned` to `to_be_verified`; retract leads from there to
`retracted` and makes a retest, an open copy with the Remarks and without the Result. From
`verified` no way leads back, other than invalidating the sample, which makes a copy of it all.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from service.lims.outcome import Outcome

_OPEN: Final = frozenset({"unassigned", "assigned"})
_VOID: Final = frozenset({"retracted", "rejected", "cancelled"})
_NOT_RECEIVED: Final = "registered"
_UNSUBMITTED: Final = _OPEN | {_NOT_RECEIVED}
_SUBMITTED: Final = "to_be_verified"
_MARK: Final = re.compile(
    r"Karyon result ([0-9a-f]{32}) version ([0-9]{1,9}) value (\S+) delivery [0-9a-f]{32}"
)
_Mark = tuple[str, int, str]
_NO_MARK: Final[_Mark] = ("", 0, "")


@dataclass(frozen=True, slots=True)
class Analysis:
    """One analysis as SENAITE holds it.

    Attributes:
        uid: SENAITE's identifier.
        state: `review_state`.
        result: What stands in Result; empty where nothing does.
        remarks: What stands in Remarks.
        retest_of: `uid` of the analysis that this is a retest of; None where of none.
        in_void_sample: Whether its sample was cancelled, rejected or invalidated.
    """

    uid: str
    state: str
    result: str = ""
    remarks: str = ""
    retest_of: str | None = None
    in_void_sample: bool = False

    @property
    def is_void(self) -> bool:
        """Whether its result counts no more."""
        return self.in_void_sample or self.state in _VOID


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one state of a result wants to stand under one keyword.

    Attributes:
        keyword: Keyword of the analysis.
        value: The figure; None where the result was rejected, so that nothing of it may stand.
        result_id: The result.
        version: Which state of it.
        key: Id of the delivery.
    """

    keyword: str
    value: str | None
    result_id: str
    version: int
    key: str

    @property
    def mark(self) -> str:
        """The line by which the value is known again."""
        return (
            f"Karyon result {self.result_id} version {self.version} value {self.value}"
            f" delivery {self.key}"
        )


@dataclass(frozen=True, slots=True)
class Update:
    """One write: fields and transition in one request.

    Attributes:
        uid: Of the analysis.
        fields: Fields to set.
        transition: Transition to do after them, if any.
    """

    uid: str
    fields: Mapping[str, str] = field(default_factory=dict)
    transition: Literal["submit", "retract"] | None = None


def next_step(analyses: Sequence[Analysis], wanted: Wanted) -> Update | Outcome:
    """Return the write that is to be made now, or what came of it all if none is.

    Args:
        analyses: All analyses of the keyword in the sample, whatever their state.
        wanted: What is to stand there.
    """
    if not analyses:
        return Outcome(
            "refused", f"the sample has no analysis {wanted.keyword}: add it, then resend"
        )
    mine = [item for item in analyses if _is_from(item, wanted.result_id)]
    filed = [
        item for item in mine if item.state not in _UNSUBMITTED and not _is_copy(item, analyses)
    ]
    standing = [item for item in filed if not item.is_void]
    # What was written and not submitted, and what an invalidated sample handed on; a retest is
    # born without a Result, so what stands there was typed by somebody.
    left = [
        item
        for item in mine
        if item.state in _OPEN and not (item.retest_of and _is_copy(item, analyses))
    ]
    if wanted.value is None:
        return _withdraw(standing, left)
    if any(_read_mark(item.remarks)[1] == wanted.version for item in filed):
        return Outcome("accepted", "filed before")
    if standing:
        return _correct(standing[0], wanted.value)
    return _fill(analyses, left, wanted)


def _is_from(item: Analysis, result_id: str) -> bool:
    """Tell whether a value is one of a result, unchanged since."""
    mark = _read_mark(item.remarks)
    return mark[0] == result_id and item.result != "" and _same(item.result, mark[2])


def _is_copy(item: Analysis, analyses: Sequence[Analysis]) -> bool:
    """Tell whether an analysis has its mark from another.

    A retest begins as a copy, Remarks and all, and so does the sample that follows an invalidated
    one: the mark there proves nothing. No mark is ever written twice.
    """
    mark = _read_mark(item.remarks)
    return any(
        other.uid == item.retest_of or (other.is_void and not item.is_void)
        for other in analyses
        if other is not item and _read_mark(other.remarks) == mark
    )


def _read_mark(remarks: str) -> _Mark:
    found = _MARK.findall(remarks)
    return (found[-1][0], int(found[-1][1]), found[-1][2]) if found else _NO_MARK


def _withdraw(standing: Sequence[Analysis], left: Sequence[Analysis]) -> Update | Outcome:
    """Take a rejected result back: the analysis is then open again, for a person's count."""
    if standing:
        if standing[0].state != _SUBMITTED:
            return _too_late(standing[0])
        return Update(standing[0].uid, transition="retract")
    if left:
        return Update(left[0].uid, {"Result": "", "Remarks": _theirs(left[0].remarks)})
    return Outcome("accepted", "nothing of the rejected result stands")


def _correct(standing: Analysis, value: str) -> Update | Outcome:
    """Replace an earlier value of the same result by retracting it; its retest takes the new."""
    if _same(standing.result, value):
        return Outcome("accepted", f"holds the value, {standing.state}")
    if standing.state != _SUBMITTED:
        return _too_late(standing)
    return Update(standing.uid, transition="retract")


def _too_late(standing: Analysis) -> Outcome:
    return Outcome(
        "refused",
        f"an earlier value is {standing.state}: invalidate the sample in SENAITE, then resend",
    )


def _fill(
    analyses: Sequence[Analysis], left: Sequence[Analysis], wanted: Wanted
) -> Update | Outcome:
    live = [item for item in analyses if not item.is_void]
    free = [item for item in live if item.state in _OPEN]
    if len(free) > 1:
        return Outcome("refused", f"more than one analysis {wanted.keyword} is open")
    if free:
        (item,) = free
        if item.result and item not in left:
            return Outcome("refused", "the analysis holds a value of somebody else: clear it there")
        fields = {"Result": str(wanted.value), "Remarks": _remarks(item.remarks, wanted)}
        return Update(item.uid, fields, "submit")
    if any(item.state == _NOT_RECEIVED for item in live):
        return Outcome("retry", "the sample is not received yet")
    if live:
        return Outcome(
            "refused", "the analysis holds another result: retract it there, then resend"
        )
    return Outcome("refused", "the analysis was retracted and has no retest: add it, then resend")


def _remarks(present: str, wanted: Wanted) -> str:
    """Put our line below what people wrote."""
    theirs = _theirs(present)
    return f"{theirs}\n{wanted.mark}" if theirs else wanted.mark


def _theirs(remarks: str) -> str:
    """Return what people wrote; lines may have come back as HTML."""
    return _MARK.sub("", remarks).strip()


def _same(one: str, other: str) -> bool:
    try:
        return math.isclose(float(one), float(other), rel_tol=1e-9)
    except ValueError:
        return one == other
