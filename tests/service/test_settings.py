from pathlib import Path

import pytest
from pydantic import ValidationError

from service.outputs.codes import ReportCodes
from service.settings import Settings, load_settings


def test_defaults_are_valid_and_local() -> None:
    settings = load_settings(environment={})
    assert settings.host == "127.0.0.1"
    assert settings.max_body_bytes == 64 * 1024 * 1024
    assert settings.max_pixels == 64_000_000


def test_every_setting_has_a_docstring() -> None:
    undocumented = [name for name, field in Settings.model_fields.items() if not field.description]
    assert undocumented == []


def test_the_environment_is_read_and_options_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KARYON_PORT", "9000")
    monkeypatch.setenv("KARYON_MODELS_DIR", "somewhere")
    assert load_settings().port == 9000
    assert load_settings().models_dir == Path("somewhere")
    assert load_settings({"port": 9001, "host": None}).port == 9001


def test_settings_are_frozen_and_closed() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        load_settings({"prot": 9000}, environment={})


def test_a_misspelt_variable_is_an_error() -> None:
    with pytest.raises(ValueError, match="KARYON_MAX_PIXELS"):
        load_settings(environment={"KARYON_MAX_PIXEL": "1000000"})


def test_codes_are_named_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    code = '{"code": "NUC", "display": "Nuclei", "hl7_system": "99LAB"}'
    monkeypatch.setenv("KARYON_RESULT_CODES", f'{{"count": {code}}}')
    monkeypatch.setenv("KARYON_IDENTIFIER_SYSTEMS", '{"order": "urn:oid:1.2"}')
    monkeypatch.setenv("KARYON_HL7_PARTIES", '{"receiving_facility": "HOSP"}')
    reporting = load_settings().reporting
    assert (reporting.codes.count.code, reporting.codes.count.hl7_system) == ("NUC", "99LAB")
    assert reporting.codes.density == ReportCodes().density
    assert (reporting.systems.order, reporting.systems.accession) == ("urn:oid:1.2", None)
    assert reporting.parties.sending_application == "KARYON"
    monkeypatch.setenv("KARYON_RESULT_CODES", f'{{"counts": {code}}}')
    with pytest.raises(ValidationError, match="counts"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 70000),
        ("workers", -1),
        ("provider", "tpu"),
        ("threads", -1),
        # What a calendar has no date for.
        ("retention_days", 999_999),
        ("image_retention_days", "inf"),
        ("idempotency_lifetime_s", "inf"),
        ("delivery_give_up_days", 999_999),
        ("otlp_endpoint", "collector:4318"),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        load_settings({name: value}, environment={})


def test_the_variable_of_the_app_is_none_of_the_services_business() -> None:
    assert load_settings(environment={"KARYON_URL": "http://127.0.0.1:8000"}).port == 8000


def test_what_is_no_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KARYON_DELIVERIES", '[{"name": "lims", "secret": "whsec_abc"')
    with pytest.raises(ValueError, match=r"^KARYON_DELIVERIES is not valid JSON: .*column") as said:
        load_settings()
    assert "whsec" not in str(said.value)
