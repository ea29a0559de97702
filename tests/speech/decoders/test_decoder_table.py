"""Decoders are recognised by their config.json, and a folder that holds none is refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from slamray.errors import BadInput
from slamray.speech.decoders.source_filter import Vocoder
from slamray.speech.decoders.table import check_decoder, load_decoder


def test_a_decoder_is_loaded_by_its_folder(tiny_vocoder: Path) -> None:
    assert isinstance(load_decoder(tiny_vocoder), Vocoder)
    check_decoder("assets:vocoder", "evaluate.vocoder")


def test_a_folder_without_a_decoder_is_named_with_the_key_of_the_recipe(tiny_lm: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"evaluate\.vocoder={tmp_path}: no config.json, so it is no vocoder"):
        check_decoder(str(tmp_path), "evaluate.vocoder")
    with pytest.raises(BadInput, match=r"frames_per_unit \(source_filter\), upsample_rates \(hifigan\)"):
        check_decoder(str(tiny_lm), "evaluate.vocoder")


def test_a_configuration_of_other_shape_is_one_line(tiny_vocoder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((tiny_vocoder / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text('{"frames_per_unit": 4}')
    with pytest.raises(BadInput, match="cannot be read as a vocoder") as caught:
        load_decoder(tmp_path)
    assert "\n" not in str(caught.value)
