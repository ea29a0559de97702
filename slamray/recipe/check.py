"""All that is refused before any work: what is known to be wrong with a recipe without running a stage."""

from __future__ import annotations

from slamray.config.compute import Compute
from slamray.config.tree import Recipe
from slamray.errors import BadInput
from slamray.speech.decoders.table import check_decoder
from slamray.speech.encoders.table import check_encoder
from slamray.speech.voices.table import check_phonemes, check_voices
from slamray.stages import joint_rows, planning, spoken_text
from slamray.stages.items import has_word_tests
from slamray.stages.packed import STORIES, check_mixture, source_names
from slamray.stages.preferences import check_source
from slamray.stages.recorded import has_recordings
from slamray.train.spent import fit_pairs
from slamray.train.trunk_schedule import check_trunk


def check(recipe: Recipe) -> None:
    """BadInput for the first thing that is wrong."""
    check_encoder(recipe.speech.encoder)
    check_voices(recipe.speech.tts, recipe.preferences.voices)
    if has_word_tests(recipe.evaluate.items):
        need = "tests of words need them: say evaluate.items.words=0 evaluate.items.words_in_sentence=0"
        check_phonemes(recipe.speech.tts, need)
    check_decoder(recipe.evaluate.vocoder, "evaluate.vocoder")
    _check_splits(recipe)
    check_mixture(recipe.pack.mixture, source_names(recipe.recorded))
    joint_rows.check(recipe)
    spoken_text.check(recipe)
    check_compute(recipe.compute)
    _check_training(recipe)
    _check_dpo(recipe)
    planning.check_fits(recipe)


def _check_splits(recipe: Recipe) -> None:
    shares = recipe.corpus
    if shares.evaluation_share == 0:
        raise BadInput("corpus.evaluation_share=0: test items are made of what no training sees; give it a share")
    if shares.validation_share == 0 and not has_recordings(recipe.recorded):
        raise BadInput("corpus.validation_share=0: perplexity is measured on validation documents; give it a share")
    if shares.evaluation_share + shares.validation_share >= 1:
        together = f"{shares.evaluation_share:g} + {shares.validation_share:g}"
        raise BadInput(f"corpus.evaluation_share, corpus.validation_share: {together} leave nothing to train on")


def check_compute(compute: Compute) -> None:
    """BadInput for what no training runs on."""
    if compute.attention == "varlen" and compute.precision == "float32":
        raise BadInput(
            "compute.attention=varlen: it multiplies in bfloat16, and this run would train in float32; "
            "say compute.dtype=bfloat16, or compute.attention=sdpa"
        )


def _check_training(recipe: Recipe) -> None:
    compute, optimiser = recipe.compute, recipe.pretrain.optim.name
    planning.micro_batch(recipe)
    check_trunk(recipe.pretrain)
    if optimiser != "adamw" and compute.zero_stage > 0:
        raise BadInput(
            f"pretrain.optim.name={optimiser}: shards under ZeRO are AdamW's; say compute.zero_stage=0, or adamw"
        )
    if recipe.speech.train_documents is None and source_names(recipe.recorded) == [STORIES]:
        raise BadInput(
            "speech.train_documents=null: then recordings are all there is to train on, and none are named; "
            "give recorded.librispeech=[...] or other recordings"
        )


def _check_dpo(recipe: Recipe) -> None:
    if recipe.dpo.optim.name != "adamw":
        raise BadInput(f"dpo.optim.name={recipe.dpo.optim.name}: DPO trains with adamw (Table 5)")
    if recipe.dpo.budget is None:
        return
    check_source(recipe.preferences)
    fit_pairs(recipe.dpo.pairs_per_step, recipe.compute)
