"""HL7 messages in, orders filed, acknowledgements out: what the MLLP listener does with frames."""

import asyncio
import contextlib
import hashlib
from typing import Final

import structlog

from service.errors import (
    IdempotencyKeyReusedError,
    KaryonError,
    MalformedOrderError,
    RecordsUnavailableError,
)
from service.lims.acknowledgement import acknowledge
from service.lims.order_hl7 import Hl7Header, parse_orders, read_header
from service.outputs.codes import Hl7Parties
from service.records.audit import Transaction
from service.records.bindings import file_orders
from service.records.idempotency import Claimed, IdempotencyKey, StoredAnswer, claim, complete
from service.records.orders import OrderRequest
from service.records.recorder import Recorder

HL7_MEDIA_TYPE: Final = "x-application/hl7-v2+er7"
ACTOR: Final = "mllp"
"""What records and the audit trail call whoever is connected: MLLP knows no logins."""

_logger = structlog.get_logger("karyon.orders")


class OrderIntake:
    """Carries out order messages, each once by MSH-10 and sender."""

    def __init__(self, recorder: Recorder, parties: Hl7Parties, *, lifetime_s: float) -> None:
        """Take where orders are filed.

        Args:
            recorder: Where.
            parties: Names of this service in acknowledgements, and its processing id.
            lifetime_s: Seconds that an acknowledgement is kept for a message that comes again.
        """
        self._recorder = recorder
        self._parties = parties
        self._lifetime_s = lifetime_s

    async def receive(self, message: bytes) -> bytes:
        """Carry out a message and return its acknowledgement; AR where that cannot be done.

        Args:
            message: The message without MLLP's frame.
        """
        header = Hl7Header()
        try:
            header = await asyncio.to_thread(read_header, message)
            requests = await asyncio.to_thread(
                parse_orders, message, processing_id=self._parties.processing_id
            )
            answer = await self._file(message, header, requests)
        except KaryonError as error:
            # The error's type and place alone: its words are for the sender.
            where = getattr(error, "location", "")
            _logger.warning("order message refused", error=type(error).__name__, location=where)
            return acknowledge(message, header, self._parties, error)
        except Exception:
            _logger.exception("order message failed unexpectedly")
            failure = RecordsUnavailableError("The service failed; send the message again.")
            return acknowledge(message, header, self._parties, failure)
        _logger.info("order message carried out", orders=len(requests))
        return answer

    def refuse(self, data: bytes, reason: str) -> bytes:
        """Return the acknowledgement of what came in no proper frame."""
        header = Hl7Header()
        with contextlib.suppress(MalformedOrderError):
            header = read_header(data)
        error = MalformedOrderError(reason, code=100)
        return acknowledge(data, header, self._parties, error)

    async def _file(self, message: bytes, header: Hl7Header, requests: list[OrderRequest]) -> bytes:
        sender = f"{header.sending_application}|{header.sending_facility}".encode()
        caller = f"{ACTOR}:{hashlib.sha256(sender).hexdigest()[:32]}"
        key = IdempotencyKey(caller, header.control_id)
        digest = hashlib.sha256(message).hexdigest()
        accepted = acknowledge(message, header, self._parties)

        def work(transaction: Transaction) -> bytes:
            try:
                claimed = claim(
                    transaction, key, fingerprint=digest, owner=digest[:32],
                    lifetime_s=self._lifetime_s,
                )  # fmt: skip
            except IdempotencyKeyReusedError:
                # A sender that counts anew, or writes another time into a repetition: an order
                # must not be lost over that, and one that is filed already is not filed again.
                claimed = None
            if isinstance(claimed, StoredAnswer):
                return claimed.body
            file_orders(transaction, requests, actor=ACTOR)
            if isinstance(claimed, Claimed):
                answer = StoredAnswer(200, HL7_MEDIA_TYPE, {}, accepted)
                complete(transaction, key, digest[:32], answer)
            return accepted

        return await self._recorder.write(work)
