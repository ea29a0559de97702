"""What `--plan` says of the whole recipe, against sums that were made by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from slamray import store
from slamray.commands.run import main
from slamray.config.load import load_recipe
from slamray.config.rates import RATES, Rates
from slamray.recipe.slam import build
from slamray.stage.stage import order
from slamray.stages.estimate import About, Calibration, fitting

# The tiny model has 19,424 parameters: embeddings 22 x 32; in each of two layers q 32 x 32 + 32, k and v 32 x 16 + 16,
# o 32 x 32, three of 32 x 64 and two norms of 32; one norm of 32.
PARAMETERS = 22 * 32 + 2 * (32 * 32 + 32 + 2 * (32 * 16 + 16) + 32 * 32 + 3 * 32 * 64 + 2 * 32) + 32
FLOPS = 6 * PARAMETERS * 4 * 1024 / 36  # so that four steps of 1,024 tokens take 36 s
SPEAKERS = ("text_to_token", "spoken_text")
RATES_GIVEN = [
    "rates.speak=10", "rates.encode=10", "rates.document_seconds=50", "rates.sentence_seconds=5",
    f"rates.flops={FLOPS}", "rates.pairs=2", "rates.scored=1",
]  # fmt: skip


def planned(capsys: pytest.CaptureFixture[str], words: list[str]) -> list[str]:
    """The lines on the whole recipe."""
    assert main([*words, "--plan"], build) == 0
    lines = capsys.readouterr().out.splitlines()
    (first,) = (number for number, line in enumerate(lines) if line.startswith("the whole recipe"))
    return lines[first:]


@pytest.fixture
def words(tiny_words: list[str], tmp_path: Path) -> list[str]:
    return [*tiny_words, f"root={tmp_path}"]


def test_hours_core_hours_and_cost_add_up(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lines = planned(capsys, [*words, *RATES_GIVEN, "prices.core_hour=100", "prices.gpu_hour=5"])
    hours = {line.split()[0]: float(line.split()[1]) for line in lines if " h x " in line}
    # 18 documents of 50 s through voice and encoder at 10 times real time on two actors; 12 pairs of 4 sentences of
    # 5 s; items: 4 x (3 + 2) + 4 x 4 + 2 x (4 + 10) sentences and 8 words of a fifth of one; 8 pairs of DPO; 26 pairs
    # scored
    seconds = {
        "units": 2 * 900 / 10 / 2,
        "untrained": 0,
        "pretrained": 36,
        "preferences": 2 * 240 / 10 / 2,
        "aligned": 8 / 2,
        "items": 2 * 328 / 10 / 2,
        **{f"scores_{name}": 13 for name in ("untrained", "pretrained", "aligned")},
    }
    assert hours == {name: pytest.approx(count / 3600, rel=5e-3) for name, count in seconds.items()}
    core_seconds = 2 * (90 + 24 + 32.8 + 3 * 13) + 36 + 4
    assert f"  {225.8 / 3600:.3g} hours, {core_seconds / 3600:.3g} core-hours, 0 GPU-hours; " in "\n".join(lines)
    assert lines[-2] == f"  cost: {core_seconds / 36:,.2f} (cores {core_seconds / 36:,.2f}, GPUs 0.00)"
    assert lines[0].endswith("rates given; not counted: corpus, packed, report")


def test_a_text_to_token_model_and_its_text_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["recipe=interleaved_laptop", "profile=laptop", f"root={tmp_path}", "rates.spoken_units=1000"]
    words += ["joint.interleave.share=0.3"]
    lines = planned(capsys, [*words, "joint.text_to_token.pretrain.budget=time:30m"])
    model, text = (next(line.split(None, 1)[1] for line in lines if line.split()[0] == name) for name in SPEAKERS)
    assert model.startswith("0.5 h x ")
    assert text.endswith("how many words there are is known when text_corpus is done")
    corpus = next(stage for stage in order(build(load_recipe(words))) if stage.name == "text_corpus")
    facts = {"documents": 1000, "words": 150_000, "train": 900, "validation": 50, "evaluation": 50}
    corpus.folder(tmp_path).write_json("manifest.json", {"facts": facts})
    (text,) = (line for line in planned(capsys, words) if line.split()[0] == "spoken_text")
    # 120 documents of 150 words, 30 % of them spoken in 8 units each, at 1,000 a second on two actors
    assert float(text.split()[1]) == pytest.approx(120 * 150 * 0.3 * 8 / 1000 / 2 / 3600, rel=5e-3)


def test_beside_a_gpu_the_slower_of_voice_and_encoder_decides(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = ["compute.device=cuda", "compute.encoder_gpus=0.5", "compute.encoder_actors=2", "compute.tts_actors=30"]
    lines = planned(capsys, [*words, *RATES_GIVEN, *gpu])
    units, pretrained = (next(line for line in lines if line.split()[0] == name) for name in ("units", "pretrained"))
    # encoding 900 s at 10 times real time on two actors, against 3 s of speaking
    assert units.split(None, 1)[1] == "0.0125 h x 32 cores + 1 GPUs"
    assert pretrained.split(None, 1)[1] == "0.01 h x 1 cores + 1 GPUs"


def test_what_was_not_measured_is_said_and_the_sum_is_a_least(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = planned(capsys, [*words, "rates.speak=10", "pretrain.budget=time:1h", "prices.core_hour=1"])
    (units,) = (line for line in lines if line.startswith("  units"))
    assert units == "  units              ? h x 2 cores: rates.encode, rates.document_seconds not measured"
    assert any(line.startswith("  at least 1 hours, 1 core-hours") for line in lines)
    cost, hint = lines[-2:]
    assert cost == "  cost: at least 1.00 (cores 1.00)"
    assert hint == "  not measured: run jobs/calibrate.py with the same words"


def test_the_number_of_documents_of_a_corpus_that_is_not_read_is_not_known(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = planned(capsys, [*words, *RATES_GIVEN, "speech.train_documents=0"])
    assert any("how many documents there are is not known before the stage corpus is done" in line for line in lines)


def test_the_driver_keeps_up_with_so_many_actors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lines = planned(capsys, [*words, *RATES_GIVEN, "rates.shards=100"])
    # two documents of 50 s, spoken and encoded at 10 times real time
    assert "takes a core 20 s: the driver, at 100 shards a second, keeps up with 2,000 actors" in "\n".join(lines)


def test_rates_that_were_measured_are_read_and_a_word_goes_before_them(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_encoder: Path
) -> None:
    about = About("hibari", str(tiny_encoder), "cpu", "cpu", PARAMETERS)
    rates = Rates(speak=20, encode=20, document_seconds=50, speech_mb=900)
    store.write_json(tmp_path / RATES, Calibration(rates, about, "node-7, 4 cores, 2026-11-30").to_json())
    lines = planned(capsys, words)
    assert lines[0].startswith("the whole recipe, stages one after another, rates of node-7, 4 cores, 2026-11-30;")
    assert any(line.startswith("  units              0.0125 h x 2 cores") for line in lines)
    assert any("an actor that speaks and encodes 0.9 GB" in line for line in lines)
    lines = planned(capsys, [*words, "rates.speak=10"])  # 900 / 10 + 900 / 20 on two actors: 67.5 s
    assert any(line.startswith("  units              0.0187 h x 2 cores") for line in lines)


def test_rates_of_another_voice_encoder_or_device_are_left_and_those_of_another_size_scaled() -> None:
    of = About("hibari", "nano", "cpu", "cpu", 1_000_000)
    found = Calibration(Rates(speak=10, encode=20, flops=1e12, pairs=30, scored=40, shards=50, speech_mb=60), of, "")

    def fits(**other: object) -> dict[str, float]:
        return fitting(found, dataclasses.replace(of, **other)).model_dump(exclude_none=True)

    whole = {"speak": 10, "encode": 20, "flops": 1e12, "pairs": 30, "scored": 40, "shards": 50, "speech_mb": 60}
    assert fits() == whole
    assert fits(voice="kokoro").keys() == whole.keys() - {"speak"}
    assert fits(encoder_device="cuda").keys() == whole.keys() - {"encode", "speech_mb"}
    assert fits(device="cuda").keys() == whole.keys() - {"flops", "pairs", "scored"}
    assert fits(parameters=2_000_000) == whole | {"pairs": 15, "scored": 20}


def test_nothing_is_counted_when_all_is_done(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from slamray.config.load import load_recipe
    from slamray.stage.stage import order
    from slamray.stages import estimate

    recipe = load_recipe(words)
    stages = order(build(recipe))
    for stage in stages:
        stage.folder(Path(recipe.root)).write_json("manifest.json", {})
    assert estimate.lines(recipe, stages) == []
