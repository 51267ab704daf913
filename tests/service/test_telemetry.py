import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from service.settings import Settings
from service.telemetry import Metrics, configure_logging


@pytest.fixture
def untouched_logging() -> Iterator[None]:
    """Give the process its logging back after a test that configures it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("untouched_logging")
def test_logs_are_json_without_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    # What Streamlit does to uvicorn's loggers when it is imported into the same process.
    taken = logging.getLogger("uvicorn.error")
    taken.propagate = False
    taken.addHandler(logging.NullHandler())
    configure_logging(Settings(log_format="json"))

    def fail(patient: str) -> None:
        raise ValueError(len(patient))

    try:
        fail("Jane" + " Doe")
    except ValueError:
        structlog.get_logger("karyon.http").exception("unhandled", route="/segment")
    logging.getLogger("uvicorn.error").error("from a library")
    structlog.get_logger("karyon.http").debug("too quiet")
    captured = capsys.readouterr()
    assert captured.out == ""
    ours, foreign = (json.loads(line) for line in captured.err.splitlines())
    assert (ours["event"], ours["level"], ours["route"]) == ("unhandled", "error", "/segment")
    assert ours["exception"][0]["exc_type"] == "ValueError"
    assert "Jane" not in captured.err
    assert (foreign["event"], foreign["logger"]) == ("from a library", "uvicorn.error")
    assert ours["timestamp"].endswith("Z")


def test_registries_are_separate_and_methods_bounded() -> None:
    first, second = Metrics(), Metrics()
    first.request_started()
    first.request_finished("BREW", "/segment", 405, 0.01)
    assert b'method="other"' in first.render()
    assert b"karyon_http_requests_total{" not in second.render()
