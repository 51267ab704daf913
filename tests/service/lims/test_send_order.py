"""The example sender of orders, as its users run it."""

import argparse
import asyncio
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from fhir.resources.R4B.bundle import Bundle
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message

from service.lims.mllp_listener import Bounds, MllpListener
from service.lims.order_fhir import parse_bundle
from service.lims.order_hl7 import parse_orders
from service.lims.order_intake import OrderIntake
from service.outputs.codes import Hl7Parties
from service.records.database import Database
from service.records.recorder import Recorder


@pytest.fixture(scope="module")
def sender(repository: Path) -> ModuleType:
    """The module examples/send_order.py."""
    path = repository / "examples" / "send_order.py"
    specification = importlib.util.spec_from_file_location("karyon_example_sender", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def options(*, cancel: bool = False) -> argparse.Namespace:
    return argparse.Namespace(order="O-1", accession="S26-1", specimen="S26-1-A1", cancel=cancel)


@pytest.mark.parametrize("cancel", [False, True])
def test_its_messages_are_valid_and_the_same_order(sender: ModuleType, cancel: bool) -> None:
    message = sender.oml_o21(options(cancel=cancel), "m-1")
    parse_message(message.decode(), validation_level=VALIDATION_LEVEL.STRICT, find_groups=True)
    bundle = sender.bundle(options(cancel=cancel))
    Bundle.model_validate_json(bundle)
    (by_hl7,) = parse_orders(message, processing_id="P")
    (by_fhir,) = parse_bundle(bundle)
    assert by_hl7.action == by_fhir.action == ("cancel" if cancel else "place")
    assert (by_hl7.placer_number, by_hl7.accession, by_hl7.specimen_id) == (
        by_fhir.placer_number,
        by_fhir.accession,
        by_fhir.specimen_id,
    )


def test_it_reads_what_the_listener_says(sender: ModuleType, tmp_path: Path) -> None:
    recorder = Recorder(Database.open(None, tmp_path))

    async def talk() -> list[tuple[bool, str]]:
        intake = OrderIntake(recorder, Hl7Parties(), lifetime_s=60.0)
        listener = MllpListener(intake, Bounds())
        address = f"127.0.0.1:{await listener.open('127.0.0.1', 0)}"
        messages = [sender.oml_o21(options(cancel=flag), "m-1") for flag in (True, False)]
        said = [
            await asyncio.to_thread(sender.send_by_mllp, address, message) for message in messages
        ]
        await listener.close()
        return said

    refused, accepted = asyncio.run(talk())
    recorder.close()
    assert (refused[0], accepted[0]) == (False, True)
    assert "MSA|AE|m-1" in refused[1]
    assert "MSA|AA|m-1" in accepted[1]
