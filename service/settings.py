"""Every knob of the service: one frozen class, one prefix, no instance at import time.

A setting is an environment variable `KARYON_<NAME>`, or an option of `python -m service serve`,
which wins. A misspelt variable is an error: a bound that an operator believes to be in force and is
not would be worse than a service that does not start.
"""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from service.lims.destinations import Destination
from service.outputs.codes import Hl7Parties, IdentifierSystems, ReportCodes, Reporting

ENVIRONMENT_PREFIX = "KARYON_"

# The web app's own; one shell or one file of variables may well serve both.
_OF_THE_APP: Final = frozenset({"KARYON_URL"})

# A hundred years: dates so far from now still have four digits, which records sort by.
_GREATEST_DAYS: Final = 36_500.0


class Settings(BaseSettings):
    """The configuration of one service process; immutable once made."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        frozen=True,
        extra="forbid",
        validate_default=True,
        use_attribute_docstrings=True,
        # What is wrong may be a secret; the message names the setting.
        hide_input_in_errors=True,
        # `model_` is pydantic's own namespace; `models_dir` is no attempt to enter it.
        protected_namespaces=(),
    )

    # --- where it listens ---
    host: str = "127.0.0.1"
    """Address to listen on. `0.0.0.0` opens it to the network, which `auth` must then guard."""
    port: int = Field(default=8000, ge=0, le=65535)
    """TCP port; 0 takes a free one, and the start-up line says which."""
    keep_alive_timeout_s: int = Field(default=75, ge=1)
    """Seconds an idle connection is kept, and may take to send a request's line and headers; more
    than the usual 60 s of load balancers."""
    drain_delay_s: float = Field(default=0.0, ge=0.0, le=600.0)
    """Seconds from failing readiness on SIGTERM to refusing connections: load balancers lag."""
    shutdown_timeout_s: int = Field(default=20, ge=1, le=600)
    """Seconds that running requests are given to finish after SIGTERM."""

    # --- what it runs ---
    models_dir: Path | None = None
    """Model repository, `<name>/<version>/model.onnx`; unset serves the models in the package."""
    default_model: str | None = None
    """Model for requests that name none; unset takes the repository's own choice."""
    provider: Literal["auto", "cpu", "openvino", "cuda", "tensorrt"] = "auto"
    """Execution provider; one that is named must run or the start is refused, `auto` takes the
    best."""
    precision: Literal["auto", "fp32", "bf16", "int8", "fp16"] = "auto"
    """What models compute in; `auto` takes the fastest that the model's contract accepts and the
    processor is good at, `fp32` is what was verified against Keras and the same at every start."""
    threads: int = Field(default=0, ge=0, le=512)
    """Threads of one inference; 0 shares the processors of this process between the lanes."""
    concurrency: int = Field(default=0, ge=0, le=64)
    """Lanes: inferences of one model at once. 0 on the default CPU provider, while `threads` is 0,
    too: one a processor under load, one with all of them for a tile that is alone; 0 elsewhere: one
    (docs/performance.md)."""
    alone_threads: int = Field(default=0, ge=0, le=512)
    """Threads of a tile that is alone, where there are several lanes; 0 chooses. Set, it holds on
    OpenVINO as well, which then needs its memory twice."""
    device_id: int = Field(default=0, ge=0, le=255)
    """Number of the GPU."""
    gpu_mem_limit_bytes: int | None = Field(default=None, ge=256 * 1024 * 1024)
    """Most bytes of the GPU's memory for onnxruntime; unset for all."""
    use_tf32: bool = True
    """Let the GPU multiply float32 with the 10-bit mantissa of TF32; off, results are reproducible
    to float32 on every card, and slower."""
    engine_cache_dir: Path | None = None
    """Where TensorRT keeps its engines, which take half a minute and more to build; unset builds
    them at each start."""
    load_versions: Literal["all", "active"] = "all"
    """`all` keeps every version loaded, for requests that name one; `active` only the one that
    answers to the bare name, and the default and shadow models."""
    shadow_model: str | None = None
    """Candidate, as name or name:version, that is run on a share of the images after their answers,
    while the service is idle; its counts are compared in metrics and logs and never returned."""
    shadow_share: float = Field(default=0.1, gt=0.0, le=1.0)
    """Share of the images that the candidate sees."""
    admin_routes: bool = False
    """Serve the routes that change which version is active. With `auth` required they need the
    scope `admin`; with it off, open them only where none but the operator reaches the service."""
    test_time_augmentation: Literal["none", "flips4", "dihedral8"] = "none"
    """Turned and mirrored copies of each tile whose maps are averaged: a little more accurate, for
    four (`flips4`) or eight (`dihedral8`) times the computing of every request."""

    # --- what it accepts ---
    max_body_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)
    """Most bytes of a request body; over it 413, from the Content-Length or while streaming."""
    max_pixels: int = Field(default=64_000_000, ge=1024)
    """Most pixels of an image, from its header, before anything is decoded (64e6 = 8000 x 8000)."""
    min_side_px: int = Field(default=16, ge=1)
    """Shortest side of an image in pixels; below it no nucleus fits."""
    max_header_bytes: int = Field(default=32 * 1024, ge=1024)
    """Most bytes of a request line and headers together; over it 431."""
    upload_timeout_s: float = Field(default=60.0, gt=0.0)
    """Seconds a client may take to send a body; over it 408. A slow sender holds a queue place."""

    # --- how much at once ---
    workers: int = Field(default=0, ge=0, le=256)
    """Requests decoded, segmented and encoded at once; the rest wait. Bounds peak memory. 0 takes
    one more than there are processors, at least 2 and at most 8."""
    max_waiting: int = Field(default=32, ge=0, le=100_000)
    """Most requests that wait (or upload) while all workers are busy; one more gets 503."""
    max_queued_tiles: int = Field(default=1024, ge=1)
    """Most tiles of all requests that are admitted and not answered, from the images' headers; one
    more gets 503. An image that alone has more is taken when nothing else is queued."""
    max_decoded_bytes: int = Field(default=2 * 1024**3, ge=1024)
    """Most bytes of their decoded images, likewise."""
    quota_requests_per_minute: int = Field(default=0, ge=0)
    """Most requests of one caller in 60 seconds; one more gets 429. 0 sets no quota."""
    cache_bytes: int = Field(default=0, ge=0)
    """Bytes of results kept for the same file, model and parameters; 0 computes every answer."""
    max_batch_tiles: int = Field(default=4, ge=1, le=64)
    """Most tiles, of any images, in one run on a GPU; and of one image in the queue twice over."""
    batch_delay_ms: float = Field(default=2.0, ge=0.0, le=1000.0)
    """Longest wait in milliseconds for a GPU's batch to fill while other requests are at work."""

    # --- what it signs with ---
    signing_key: Path | None = None
    """Ed25519 private key (PEM, PKCS #8) that signs results; unset makes one in `data_dir`."""

    # --- what laboratory messages say ---
    result_codes: ReportCodes = ReportCodes()
    """Codes of FHIR and HL7 results, a JSON object; what is not named keeps its local code."""
    identifier_systems: IdentifierSystems = IdentifierSystems()
    """Namespaces of accession, specimen and order in FHIR, a JSON object of URIs."""
    hl7_parties: Hl7Parties = Hl7Parties()
    """Sender, receiver and processing id of HL7 messages, a JSON object."""

    # --- who may use it ---
    auth: Literal["off", "required"] = "off"
    """`required`: an API key or access token on all routes but health and documentation."""
    allow_anonymous: bool = False
    """Whether it may listen beyond this machine with `auth` off; otherwise it refuses to start."""
    oidc_issuer: str | None = None
    """Issuer of access tokens, as in their `iss`; unset takes API keys alone."""
    oidc_audience: str | None = None
    """What the `aud` of a token must hold; required with an issuer."""
    oidc_jwks_url: str | None = None
    """Where the issuer's keys are; unset asks its `/.well-known/openid-configuration`."""
    oidc_scope_claim: str = "scope"
    """Claim of a token that holds the scopes, as a list or separated by blanks."""

    # --- what it keeps, and signs with ---
    records: bool = True
    """Whether results are recorded and audited; off, there are no /results and no /audit."""
    data_dir: Path = Path("karyon-data")
    """Folder of the service's own data (SQLite file, signing key), relative to where it starts;
    made where missing, and must be writable."""
    database_url: SecretStr | None = None
    """Instead of that file: `postgresql://user:password@host/name`, or `sqlite:///path`."""
    migrate: bool = True
    """Whether start-up brings the database's schema up to date; off, an old schema is refused."""
    keep_images: bool = False
    """Whether images and labels are kept with the results; needed to export reviewed cases."""
    retention_days: float | None = Field(default=None, gt=0.0, le=_GREATEST_DAYS)
    """Days after which results are removed; unset keeps them. The audit trail is always kept."""
    image_retention_days: float | None = Field(default=None, gt=0.0, le=_GREATEST_DAYS)
    """Days after which kept images are removed; unset keeps them as long as their results."""

    idempotency_lifetime_s: float = Field(default=86_400.0, ge=1.0, le=_GREATEST_DAYS * 86_400.0)
    """Seconds that an Idempotency-Key and its answer are kept."""
    idempotency_wait_s: float = Field(default=30.0, ge=0.0)
    """Seconds that a request waits for another with its Idempotency-Key; after them 409."""

    # --- which orders it takes ---
    unknown_accession: Literal["accept", "refuse", "hold"] = "accept"
    """What becomes of an image with an accession number that no order has: `accept` answers and
    delivers it, `refuse` answers 422, `hold` delivers nothing before the order comes."""
    max_order_bytes: int = Field(default=1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    """Most bytes of an order message, over HTTP (over it 413) and MLLP."""
    mllp_listen: Annotated[str | None, Field(pattern=r"^[^\s/@]+:[0-9]{1,5}$")] = None
    """`host:port` on which order messages are taken over MLLP; unset takes none."""
    mllp_allow_anonymous: bool = False
    """Whether that may be beyond this machine: MLLP has no logins, whatever `auth` says."""
    mllp_frame_timeout_s: float = Field(default=30.0, gt=0.0, le=600.0)
    """Seconds that a message may take to arrive over MLLP."""
    mllp_idle_timeout_s: float = Field(default=3600.0, gt=0.0)
    """Seconds that a connection may be silent between two messages."""
    mllp_max_connections: int = Field(default=32, ge=1, le=10_000)
    """Most MLLP connections at once; one more is closed."""

    # --- whom it delivers to ---
    deliveries: tuple[Destination, ...] = ()
    """Where results and reviews are delivered, a JSON list of objects with `name`, `kind`
    (`webhook`, `fhir`, `mllp`, `senaite`) and what the kind needs (docs/lims.md); empty delivers
    nothing."""
    delivery_timeout_s: float = Field(default=20.0, gt=0.0, le=600.0)
    """Seconds that an attempt to deliver may take."""
    delivery_first_retry_s: float = Field(default=5.0, gt=0.0, le=3600.0)
    """Seconds to the second attempt; each later wait is twice as long, up to six hours."""
    delivery_give_up_days: float = Field(default=3.0, gt=0.0, le=_GREATEST_DAYS)
    """Days after which a delivery that always failed is dead, until somebody resends it."""

    # --- what it tells ---
    otlp_endpoint: Annotated[str | None, Field(pattern=r"^https?://[^\s/]+")] = None
    """URL to which traces are sent by OTLP/HTTP, `http://collector:4318/v1/traces`; unset keeps
    none. Needs the extra `otel`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged; probes and metrics scrapes are logged at `debug`."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """`json` is one object a line on standard error; `auto` is `console` on a terminal."""

    @property
    def reporting(self) -> Reporting:
        """All that laboratory messages are built with."""
        return Reporting(self.result_codes, self.identifier_systems, self.hl7_parties)

    @model_validator(mode="after")
    def _check_auth(self) -> Self:
        """Refuse combinations that would guard less than they seem to."""
        if self.auth == "required" and not self.records:
            raise ValueError("auth=required needs records: API keys lie in their database")
        if (self.oidc_issuer is None) != (self.oidc_audience is None):
            raise ValueError("oidc_issuer and oidc_audience go together")
        if self.oidc_issuer is not None and self.auth == "off":
            raise ValueError("oidc_issuer is of no effect with auth=off; set auth=required")
        return self

    @property
    def mllp_address(self) -> tuple[str, int] | None:
        """Host and port of the MLLP listener; None where there is none."""
        if self.mllp_listen is None:
            return None
        host, _, port = self.mllp_listen.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)

    @model_validator(mode="after")
    def _check_orders(self) -> Self:
        """Refuse an order's listener without a place to file them, or without a port."""
        if self.mllp_address is not None and self.mllp_address[1] > 65_535:
            raise ValueError("mllp_listen names a port beyond 65535")
        if not self.records and (self.mllp_listen or self.unknown_accession != "accept"):
            raise ValueError("mllp_listen and unknown_accession need records: orders lie there")
        return self

    @model_validator(mode="after")
    def _check_deliveries(self) -> Self:
        """Refuse destinations that could not be told apart, or that nothing would reach."""
        names = [destination.name for destination in self.deliveries]
        if len(set(names)) < len(names):
            raise ValueError("two deliveries have the same name")
        if names and not self.records:
            raise ValueError("deliveries need records: what is delivered is what is recorded")
        return self


def load_settings(
    overrides: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """Read the settings from the environment, with `overrides` on top.

    Args:
        overrides: Settings by field name; None values are ignored (an option that was not given).
        environment: Variables in which misspelt names are looked for; default `os.environ`.

    Returns:
        The frozen settings.

    Raises:
        ValueError: A value is out of its range (pydantic's ValidationError), or a variable with
            the prefix is none of ours; the message proposes the nearest.
    """
    known = {f"{ENVIRONMENT_PREFIX}{name.upper()}" for name in Settings.model_fields}
    for variable in os.environ if environment is None else environment:
        name = variable.upper()
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known | _OF_THE_APP:
            nearest = difflib.get_close_matches(variable.upper(), known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else "see --help for the settings"
            raise ValueError(f"{variable} is no setting of Karyon; {hint}")
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    try:
        return Settings(**given)
    except SettingsError as error:
        # pydantic names its source of values; the value itself may hold a secret.
        field = re.search(r'field "(\w+)"', str(error))
        variable = ENVIRONMENT_PREFIX + (field[1].upper() if field else "...")
        raise ValueError(f"{variable} is not valid JSON: {error.__cause__}") from None
