from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from headland_edge.home import Home, Local, Settings, SettingsError, Updates, UplinkSettings, make


def test_settings_come_back_as_they_were_written(tmp_path: Path) -> None:
    settings = Settings(
        "field-1",
        "wheat",
        Updates(folder='/media/a "stick"\\x', daily_bytes=5),
        UplinkSettings(fields=("rain_mm", "lai"), random_share=0.5, keep_raw=False),
        Local(http_port=0, poll_s=0.5),
    )
    assert make(tmp_path, settings).settings() == settings


def test_making_a_home_again_keeps_what_is_in_it(tmp_path: Path) -> None:
    settings = Settings("field-1", "maize")
    home = make(tmp_path, settings)
    (home.slots / "state.json").write_text("kept")
    assert make(tmp_path, replace(settings, crop="wheat")).settings().crop == "wheat"
    assert (home.slots / "state.json").read_text() == "kept"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('crop = "maize"', "device_id"),
        ('device_id = "Field 1"\ncrop = "maize"', "device_id"),
        ('device_id = "field-1"\ncrop = "rice"', "crop"),
        ('device_id = "field-1"\ncrop = "maize"\ncolour = 1', "colour: unknown"),
        ('device_id = "field-1"\ncrop = "maize"\n[updates]\nurls = ""', "updates.urls: unknown"),
        ('device_id = "field-1"\ncrop = "maize"\n[updates]\ndaily_bytes = -1', "updates.daily_bytes"),
        ('device_id = "field-1"\ncrop = "maize"\n[updates]\ndaily_bytes = true', "updates.daily_bytes"),
        ('device_id = "field-1"\ncrop = "maize"\n[uplink]\nkind = "pigeon"', "uplink.kind"),
        ('device_id = "field-1"\ncrop = "maize"\n[uplink]\nrandom_share = 0.05', "uplink.random_share"),
        ('device_id = "field-1"\ncrop = "maize"\nlocal = 3', "local: must be a table"),
        ("device_id = ", "not TOML"),
    ],
)
def test_settings_that_cannot_be_used_name_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "device.toml").write_text(text)
    with pytest.raises(SettingsError) as found:
        Home(tmp_path).settings()
    assert "device.toml" in str(found.value)
    assert said in str(found.value)


def test_a_home_that_is_not_there_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="device_id and crop"):
        Home(tmp_path / "nowhere").settings()
