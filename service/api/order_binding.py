"""Which order an image answers, before it is segmented: the answer carries the order's numbers."""

from service.api.parameters import SegmentParameters
from service.api.state import ServiceState
from service.errors import AmbiguousOrderError, UnknownAccessionError
from service.outputs.identity import OrderReference
from service.records.orders import match_order


async def bind_to_order(
    state: ServiceState, asked: SegmentParameters
) -> tuple[SegmentParameters, OrderReference | None]:
    """Return the parameters with the numbers of the order that the image answers, and that order.

    An order that comes or goes while the image is at work changes nothing here: the transaction
    that files the result looks again (`service.records.bindings`).

    Args:
        state: The open service.
        asked: What the caller asked for; without an accession number there is no order.

    Raises:
        UnknownAccessionError: There is none, or more than one, and the settings ask for one.
    """
    accession = asked.accession
    if accession is None or state.recorder is None:
        return asked, None
    strict = state.settings.unknown_accession == "refuse"
    try:
        order = await state.recorder.read(
            lambda connection: match_order(
                connection,
                accession,
                order_number=asked.order_id,
                specimen_id=asked.specimen_id,
            )
        )
    except AmbiguousOrderError:
        if strict:
            raise
        return asked, None
    if order is None:
        if strict:
            raise UnknownAccessionError(
                "No order that stands has this accession number (and order_id, if you sent one)."
            )
        return asked, None
    numbers = {"order_id": order.placer_number}
    if asked.specimen_id is None and order.specimen_id is not None:
        numbers["specimen_id"] = order.specimen_id
    reference = OrderReference(order.id, order.placer_number, order.filler_number)
    return asked.model_copy(update=numbers), reference
