"""What the client raises: the service's problem documents (RFC 9457), and silence."""

from collections.abc import Mapping
from typing import Any, Self


class ClientError(Exception):
    """Base of what the client raises about a call."""


class UnreachableError(ClientError):
    """No answer came, in any of the attempts."""


class ProblemError(ClientError):
    """The service refused the call and said why.

    Attributes:
        status: The HTTP status.
        name: Last segment of the problem's type, such as `invalid-parameter`. Empty where something
            before the service answered.
        title: The kind of problem in words.
        detail: What was wrong with this call.
        remedy: What to do about this kind of problem; empty where the answer tells none.
        instance: The request id, which finds the line in the service's log.
        errors: Each wrong parameter: `location` and `message`.
        retry_after_s: Seconds the service asks to wait; None where it names none.
    """

    def __init__(
        self,
        *,
        status: int,
        name: str,
        title: str,
        detail: str,
        instance: str,
        errors: list[Mapping[str, Any]],
        retry_after_s: float | None,
        remedy: str = "",
    ) -> None:
        super().__init__(f"{status} {title}: {detail}" if detail else f"{status} {title}")
        self.status = status
        self.name = name
        self.title = title
        self.detail = detail
        self.instance = instance
        self.errors = errors
        self.retry_after_s = retry_after_s
        self.remedy = remedy

    @classmethod
    def from_document(
        cls, status: int, document: object, *, retry_after_s: float | None = None
    ) -> Self:
        """Return the error of an answer.

        Args:
            status: The HTTP status.
            document: The parsed body; what is no problem document (a proxy's page) counts as empty.
            retry_after_s: Seconds of the header Retry-After.
        """
        members = document if isinstance(document, dict) else {}
        return cls(
            status=status,
            name=str(members.get("type", "")).rpartition("/")[2],
            title=str(members.get("title", "The answer is no problem document")),
            detail=str(members.get("detail", "")),
            instance=str(members.get("instance", "")),
            errors=list(members.get("errors") or []),
            retry_after_s=retry_after_s,
            remedy=str(members.get("remedy", "")),
        )
