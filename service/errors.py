"""The one family of errors of the service.

Core code raises these; none of them knows of HTTP. The statuses live in one table,
`service/api/problems.py`. Every message is written for the caller: it says what is wrong and what
to do, and holds no machine path, secret or patient data that the caller did not send.
"""

from collections.abc import Sequence


class KaryonError(Exception):
    """Base of everything Karyon raises on purpose; its message is safe to show to a caller."""


# --- the caller's fault ---------------------------------------------------------------------


class InvalidParameterError(KaryonError):
    """An option is out of its range, or contradicts another.

    Attributes:
        parameter: Name of the option as the caller knows it, for example `"mpp"`.
        place: Where the caller gave it: `query`, `header` or `body`.
    """

    def __init__(self, message: str, *, parameter: str, place: str = "query") -> None:
        super().__init__(message)
        self.parameter = parameter
        self.place = place


class PatientDataError(InvalidParameterError):
    """A field would identify a patient; its value was not looked at."""


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


class NothingToRollBackError(KaryonError):
    """The model has had no other version active."""


class ModelRefusedError(KaryonError):
    """A version that was to become active is refused; the message says why."""


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


class UnknownResultError(KaryonError):
    """No result of that id is recorded, or it was purged."""


class UnknownDeliveryError(KaryonError):
    """No delivery of that id is recorded, or its result was purged."""


class DeliverySupersededError(KaryonError):
    """A later state of the result is on its way, or there, already; the older would undo it."""


class DeliveryHeldError(KaryonError):
    """The result of the delivery waits for its order and is sent nowhere before that comes."""


class UnknownOrderError(KaryonError):
    """No order of that id is recorded, or it was purged."""


class UnknownAccessionError(KaryonError):
    """No order that still stands has the image's accession number, and the settings ask for one."""


class AmbiguousOrderError(UnknownAccessionError):
    """Several orders have the accession number, and nothing tells which one the image answers."""


class UnusableOrderError(KaryonError):
    """An order message can be read, but not be carried out.

    Attributes:
        location: Where in the message, such as `OBR^1^18` or `entry.0.resource.identifier`.
        code: HL7's error code, table 0357.
    """

    def __init__(self, message: str, *, location: str = "", code: int = 101) -> None:
        super().__init__(message)
        self.location = location
        self.code = code


class OrderConflictError(UnusableOrderError):
    """The order stands in a way that does not allow this."""

    def __init__(self, message: str, *, location: str = "") -> None:
        super().__init__(message, location=location, code=205)


class MalformedOrderError(UnusableOrderError):
    """The message cannot be read, or is of another kind, version or mode than is taken here."""


class IdempotencyKeyReusedError(KaryonError):
    """The idempotency key was used before, for a request with another content."""


class IdempotencyKeyInFlightError(KaryonError):
    """Another request with the idempotency key is still being carried out.

    Attributes:
        retry_after_s: Whole seconds after which asking again is sensible.
    """

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StaleVersionError(KaryonError):
    """The request is about a version of a result that is no longer the present one."""


class PreconditionRequiredError(KaryonError):
    """The request does not say which version of a result it is about."""


class ReviewConflictError(KaryonError):
    """The status of the result does not allow the decision."""


class MissingCredentialError(KaryonError):
    """The request carries no credential."""


class InvalidCredentialError(KaryonError):
    """The credential is unknown, expired or revoked."""


class InsufficientScopeError(KaryonError):
    """The credential is good, but not for this.

    Attributes:
        scopes: What it lacks.
    """

    def __init__(self, message: str, *, scopes: Sequence[str]) -> None:
        super().__init__(message)
        self.scopes = tuple(scopes)


class ForeignPageError(KaryonError):
    """A web page of another site made a browser send the request."""


class RecordsOffError(KaryonError):
    """This service keeps no records, so there is nothing to answer with."""


# --- ours, or the operator's, fault ---------------------------------------------------------


class ModelContractError(KaryonError):
    """A model file is refused: it breaks the model contract, and the message says where."""


class ProviderError(KaryonError):
    """The execution provider that was asked for is not there, or does not really run."""


class PrecisionError(ProviderError):
    """The precision asked for was not accepted for the model, or the processor is no good at it."""


class SigningKeyError(KaryonError):
    """The key that signs results, or a public key, cannot be read, made or trusted."""


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


class FatalProviderError(NotReadyError):
    """The device is lost: no run will succeed any more in this process, which must end."""


# --- nobody's fault -------------------------------------------------------------------------


class ClientGoneError(Exception):
    """The client closed the connection before its work was done; nobody reads an answer."""


class ListenerError(KaryonError):
    """The MLLP listener cannot listen where it was told to."""


class DatabaseError(KaryonError):
    """The database of the records cannot be used; the message says what the operator can do."""


class RecordsUnavailableError(KaryonError):
    """The records cannot be written or read now; nothing was answered that is not recorded."""


class IdentityProviderError(KaryonError):
    """The issuer of access tokens does not answer, so that no token can be checked."""
