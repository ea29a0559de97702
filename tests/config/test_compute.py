"""Precision follows the hardware unless a recipe's command says otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from slamray.config import compute
from slamray.config.compute import Compute
from slamray.config.profiles import PROFILES
from slamray.errors import BadInput
from slamray.recipe.check import check_compute


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx avx2", "float32"), ("avx512f avx512_bf16", "bfloat16"), ("fp asimd bf16", "bfloat16")],
)
def test_a_cpu_without_bfloat16_instructions_trains_in_float32(
    monkeypatch: pytest.MonkeyPatch, flags: str, expected: str
) -> None:
    compute.cpu_has_bfloat16.cache_clear()
    monkeypatch.setattr(Path, "read_text", lambda path: f"flags\t: {flags}\n")
    assert Compute().precision == expected
    compute.cpu_has_bfloat16.cache_clear()


def test_attention_over_packed_rows_follows_the_device_unless_it_is_named() -> None:
    assert Compute().packed_attention == "blockwise"
    assert Compute(device="cuda").packed_attention == "varlen"
    assert Compute(device="cuda", dtype="float32").packed_attention == "sdpa"
    assert Compute(device="cuda", attention="sdpa").packed_attention == "sdpa"
    assert all(profile.packed_attention == "varlen" for profile in PROFILES.values() if profile.device == "cuda")


def test_attention_in_bfloat16_is_refused_where_training_is_in_float32() -> None:
    with pytest.raises(BadInput, match=r"compute\.attention=varlen: .*; say compute\.dtype=bfloat16, or"):
        check_compute(Compute(device="cuda", dtype="float32", attention="varlen"))
    check_compute(Compute(device="cuda", attention="varlen"))


def test_a_gpu_trains_in_bfloat16_and_a_named_dtype_is_kept() -> None:
    assert Compute(device="cuda").precision == "bfloat16"
    assert Compute(device="cuda", dtype="float32").precision == "float32"
    assert Compute(dtype="bfloat16").precision == "bfloat16"
