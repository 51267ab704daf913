from pathlib import Path

import pytest
from pydantic import ValidationError

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


@pytest.mark.parametrize(
    ("name", "value"), [("port", 70000), ("workers", -1), ("provider", "tpu"), ("threads", -1)]
)
def test_values_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        load_settings({name: value}, environment={})
