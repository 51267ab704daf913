"""The one table of what can go wrong: exception, HTTP status, title and remedy."""

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi.exceptions import RequestValidationError

from service import errors
from service.api.upload import (
    ACCEPTED_BODIES,
    MalformedBodyError,
    UnsupportedBodyError,
    UploadTimeoutError,
)


class UnknownProblemError(errors.KaryonError):
    """No problem type has that name."""


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One row of the table.

    Attributes:
        name: Last segment of the type URI, `/problems/<name>`.
        status: HTTP status.
        title: What went wrong, the same for every occurrence.
        remedy: What the caller can do.
        raised: Exceptions that become this problem.
    """

    name: str
    status: int
    title: str
    remedy: str
    raised: tuple[type[Exception], ...] = ()

    @property
    def uri(self) -> str:
        """The `type` member: a relative reference to this problem's own page."""
        return f"/problems/{self.name}"


PROBLEM_TYPES: tuple[ProblemType, ...] = (
    ProblemType(
        "malformed-request",
        400,
        "The request is malformed",
        "Check the syntax of the body: its multipart boundary, its end.",
        (MalformedBodyError, errors.MalformedOrderError),
    ),
    ProblemType(
        "missing-credential",
        401,
        "The request carries no credential",
        "Send an API key in X-API-Key, or a key or access token as `Authorization: Bearer`.",
        (errors.MissingCredentialError,),
    ),
    ProblemType(
        "invalid-credential",
        401,
        "The credential is unknown, expired or revoked",
        "Ask the operator for a new key (`python -m service keys create`), or renew the token.",
        (errors.InvalidCredentialError,),
    ),
    ProblemType(
        "insufficient-scope",
        403,
        "The credential is not good for this",
        "WWW-Authenticate names the scope that is needed; ask the operator for a key with it.",
        (errors.InsufficientScopeError,),
    ),
    ProblemType(
        "foreign-page",
        403,
        "A page of another site sent the request",
        "Send it from a program, or from a page of this service; a proxy must pass Host on. With"
        " `auth` required, an API key says who asks and pages of other sites may send it.",
        (errors.ForeignPageError,),
    ),
    ProblemType("not-found", 404, "No such resource", "See / or /docs for what there is."),
    ProblemType(
        "unknown-model",
        404,
        "No such model is loaded",
        "GET /models lists the models; leave `model` out to use the default one.",
        (errors.UnknownModelError,),
    ),
    ProblemType(
        "unknown-problem",
        404,
        "No such problem type",
        "GET /problems lists the problem types.",
        (UnknownProblemError,),
    ),
    ProblemType(
        "unknown-result",
        404,
        "No such result is recorded",
        "GET /results lists the results; one that is older than the retention time is gone.",
        (errors.UnknownResultError,),
    ),
    ProblemType(
        "unknown-delivery",
        404,
        "No such delivery is recorded",
        "GET /deliveries lists them; those of a result that was purged are gone with it.",
        (errors.UnknownDeliveryError,),
    ),
    ProblemType(
        "unknown-order",
        404,
        "No such order is recorded",
        "GET /orders lists the orders; one that is older than the retention time is gone.",
        (errors.UnknownOrderError,),
    ),
    ProblemType(
        "records-off",
        404,
        "The service keeps no records",
        "Start it with KARYON_RECORDS=true.",
        (errors.RecordsOffError,),
    ),
    ProblemType(
        "method-not-allowed",
        405,
        "The resource does not know this method",
        "The Allow header names the methods it knows.",
    ),
    ProblemType(
        "not-acceptable",
        406,
        "No acceptable representation",
        "Accept application/json, or another representation that the detail names.",
        (errors.NotAcceptableError,),
    ),
    ProblemType(
        "model-refused",
        409,
        "The version cannot become active",
        "The detail says what is wrong with it; what was active still is.",
        (errors.ModelRefusedError,),
    ),
    ProblemType(
        "nothing-to-roll-back",
        409,
        "No other version was active",
        "Activate a version by its number instead.",
        (errors.NothingToRollBackError,),
    ),
    ProblemType(
        "upload-timeout",
        408,
        "The body took too long to arrive",
        "Send the image faster, or compress it; the bound is KARYON_UPLOAD_TIMEOUT_S.",
        (UploadTimeoutError,),
    ),
    ProblemType(
        "review-conflict",
        409,
        "The status of the result does not allow this decision",
        "Accept takes preliminary results, edit and reject all but cancelled ones.",
        (errors.ReviewConflictError,),
    ),
    ProblemType(
        "delivery-superseded",
        409,
        "A later version of the result goes to the same destination",
        "Resend the delivery of the latest version: GET /deliveries?result_id=... lists them.",
        (errors.DeliverySupersededError,),
    ),
    ProblemType(
        "delivery-held",
        409,
        "The result waits for its order",
        "Send the order: POST /orders. The result is then delivered by itself.",
        (errors.DeliveryHeldError,),
    ),
    ProblemType(
        "order-conflict",
        409,
        "The order stands in a way that does not allow this",
        "GET /orders?placer_number=... shows the order of that number.",
        (errors.OrderConflictError,),
    ),
    ProblemType(
        "idempotency-key-in-flight",
        409,
        "A request with this Idempotency-Key is still being carried out",
        "Try again with the same key after the seconds in Retry-After.",
        (errors.IdempotencyKeyInFlightError,),
    ),
    ProblemType(
        "stale-version",
        412,
        "The result has changed since it was read",
        "GET the result again, look at it, and give its new ETag as If-Match.",
        (errors.StaleVersionError,),
    ),
    ProblemType(
        "body-too-large",
        413,
        "The body has too many bytes",
        "Send a smaller region or a compressed image; the bound is KARYON_MAX_BODY_BYTES.",
        (errors.BodyTooLargeError,),
    ),
    ProblemType(
        "image-too-large",
        413,
        "The image has too many pixels",
        "Cut the image into regions; the bound is KARYON_MAX_PIXELS.",
        (errors.ImageTooLargeError,),
    ),
    ProblemType(
        "unsupported-body",
        415,
        "The body is of a content type that is not read",
        f"Send an image as {ACCEPTED_BODIES}, a review as application/json, an order as"
        " application/fhir+json or x-application/hl7-v2+er7; no Content-Encoding.",
        (UnsupportedBodyError,),
    ),
    ProblemType(
        "unreadable-image",
        415,
        "The bytes are no image that is read",
        "Send a whole PNG, JPEG, TIFF, WebP or BMP file.",
        (errors.UnreadableImageError,),
    ),
    ProblemType(
        "unsupported-image",
        422,
        "The image is of a kind that is refused",
        "The detail says how to convert it.",
        (errors.UnsupportedImageError,),
    ),
    ProblemType(
        "image-too-small",
        422,
        "The image is too small to hold nuclei",
        "Send a larger region at the resolution it was scanned with.",
        (errors.ImageTooSmallError,),
    ),
    ProblemType(
        "invalid-parameter",
        422,
        "A parameter is invalid",
        "`errors` names each parameter and what it may be.",
        (errors.InvalidParameterError, RequestValidationError),
    ),
    ProblemType(
        "unusable-order",
        422,
        "The order cannot be carried out",
        "The detail says what is missing or wrong, `errors` where in the message.",
        (errors.UnusableOrderError,),
    ),
    ProblemType(
        "unknown-accession",
        422,
        "No order has this accession number",
        "Send the order first (POST /orders), check the number, or ask the operator about"
        " KARYON_UNKNOWN_ACCESSION.",
        (errors.UnknownAccessionError, errors.AmbiguousOrderError),
    ),
    ProblemType(
        "patient-data-refused",
        422,
        "Patient data is refused",
        "Send accession, specimen_id and order_id; never a name, a birth date or a record number.",
        (errors.PatientDataError,),
    ),
    ProblemType(
        "quota-exceeded",
        429,
        "Your quota is used up",
        "Try again after Retry-After; the bound is KARYON_QUOTA_REQUESTS_PER_MINUTE.",
        (errors.QuotaExceededError,),
    ),
    ProblemType(
        "idempotency-key-reused",
        422,
        "The Idempotency-Key was used for another request",
        "Use a new key for each new request, and the same only for a repetition.",
        (errors.IdempotencyKeyReusedError,),
    ),
    ProblemType(
        "precondition-required",
        428,
        "The request must say which version it is about",
        "Send the ETag of the result as If-Match.",
        (errors.PreconditionRequiredError,),
    ),
    ProblemType(
        "headers-too-large",
        431,
        "The request line and headers have too many bytes",
        "Send fewer headers; the bound is KARYON_MAX_HEADER_BYTES. The connection is closed.",
    ),
    ProblemType(
        "internal-error",
        500,
        "The service failed",
        "It is not your fault. Tell the operator the `instance`, which finds the log line.",
        (
            errors.ListenerError,
            errors.ModelContractError,
            errors.ProviderError,
            errors.PrecisionError,
            errors.SigningKeyError,
            errors.DatabaseError,
        ),
    ),
    ProblemType(
        "overloaded",
        503,
        "The queue is full",
        "Try again after the seconds in Retry-After.",
        (errors.OverloadedError,),
    ),
    ProblemType(
        "not-ready",
        503,
        "The service is starting up or draining",
        "Try again after the seconds in Retry-After, or another replica.",
        (errors.NotReadyError, errors.FatalProviderError),
    ),
    ProblemType(
        "deadline-exceeded",
        504,
        "The request's own time ran out",
        "Allow more in X-Request-Timeout-Ms, or try again when the queue is shorter.",
        (errors.DeadlineExceededError,),
    ),
    ProblemType(
        "records-unavailable",
        503,
        "The database of the records does not answer",
        "Try again after the seconds in Retry-After. No result is given out that is not recorded.",
        (errors.RecordsUnavailableError,),
    ),
    ProblemType(
        "identity-provider-unavailable",
        503,
        "The issuer of access tokens does not answer",
        "Try again after the seconds in Retry-After, or use an API key.",
        (errors.IdentityProviderError,),
    ),
)

PROBLEMS_BY_NAME: Mapping[str, ProblemType] = {problem.name: problem for problem in PROBLEM_TYPES}
