"""What the client raises: the service's problem documents (RFC 9457), and silence."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Self


class ClientError(Exception):
    """Base of what the client raises about a call."""


class UnreachableError(ClientError):
    """No answer came, in any of the attempts."""


class UnreadableAnswerError(ClientError):
    """Something answered with success, but it is no answer of Karyon's: a proxy's page, perhaps.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), str(self), status=self.status), ()


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

    def __reduce__(self) -> tuple[Any, ...]:
        # Else what a worker process raises could not be handed to its parent.
        again = partial(
            type(self),
            status=self.status,
            name=self.name,
            title=self.title,
            detail=self.detail,
            instance=self.instance,
            errors=self.errors,
            retry_after_s=self.retry_after_s,
            remedy=self.remedy,
        )
        return again, ()

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
        # A gateway's JSON may have members of these names and of any shape.
        texts = {name: value for name, value in members.items() if isinstance(value, str)}
        errors = members.get("errors")
        return cls(
            status=status,
            name=texts.get("type", "").rpartition("/")[2],
            title=texts.get("title", "The answer is no problem document"),
            detail=texts.get("detail", ""),
            instance=texts.get("instance", ""),
            errors=[error for error in errors if isinstance(error, dict)]
            if isinstance(errors, list)
            else [],
            retry_after_s=retry_after_s,
            remedy=texts.get("remedy", ""),
        )
