"""The one family of errors of the service.

Core code raises these; none of them knows of HTTP. The statuses live in one table,
`service/api/problems.py`. Every message is written for the caller: it says what is wrong and what
to do, and holds no machine path, secret or patient data that the caller did not send.
"""


class KaryonError(Exception):
    """Base of everything Karyon raises on purpose; its message is safe to show to a caller."""


# --- the caller's fault ---------------------------------------------------------------------


class InvalidParameterError(KaryonError):
    """An option is out of its range, or contradicts another.

    Attributes:
        parameter: Name of the option as the caller knows it, for example `"mpp"`.
    """

    def __init__(self, message: str, *, parameter: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class UnreadableImageError(KaryonError):
    """The bytes are empty, truncated, or no image of a kind that is read here."""


class UnsupportedImageError(KaryonError):
    """The bytes are an image, but of a kind that is refused; the message names the remedy."""


class ImageTooLargeError(KaryonError):
    """The image has more pixels than the configured bound."""


class ImageTooSmallError(KaryonError):
    """The image has a side too short to hold nuclei."""


class BodyTooLargeError(KaryonError):
    """The request body has more bytes than the configured bound."""


class UnknownModelError(KaryonError):
    """No model of that name or version is loaded; the message lists those that are."""


class NotAcceptableError(KaryonError):
    """None of the representations that the client accepts can be made."""


class DeadlineExceededError(KaryonError):
    """The time that the caller gave the request ran out before its answer."""


class QuotaExceededError(KaryonError):
    """The caller has used up its own quota; others are served.

    Attributes:
        retry_after_s: Whole seconds until the quota is full again, at least 1.
        headers: What the answer says of the quota.
    """

    def __init__(self, message: str, *, retry_after_s: int, headers: dict[str, str]) -> None:
        super().__init__(message)
        self.retry_after_s = max(1, retry_after_s)
        self.headers = headers


# --- ours, or the operator's, fault ---------------------------------------------------------


class ModelContractError(KaryonError):
    """A model file is refused: it breaks the model contract, and the message says where."""


class ProviderError(KaryonError):
    """The execution provider that was asked for is not there, or does not really run."""


class OverloadedError(KaryonError):
    """The bounded queue is full; nothing was started for this request.

    Attributes:
        retry_after_s: Whole seconds after which trying again is sensible, at least 1.
    """

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = max(1, retry_after_s)


class NotReadyError(KaryonError):
    """The service is starting up or draining and takes no work now."""


# --- nobody's fault -------------------------------------------------------------------------


class ClientGoneError(Exception):
    """The client closed the connection before its work was done; nobody reads an answer."""
