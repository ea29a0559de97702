"""Continue spoken prompts: audio file -> units -> unit LM -> units -> audio file, in one process, without Ray."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from transformers import PreTrainedModel

from slamray.commands.help import is_asked, print_help
from slamray.commands.words import CheckpointName, as_command, find_model, given_folder, given_path, split_words
from slamray.config.base import Settings
from slamray.config.evaluation import SamplingSettings
from slamray.config.load import load_recipe
from slamray.config.speech import EncoderSettings
from slamray.errors import BadInput
from slamray.given import files_below, has_suffix, reason_of
from slamray.model.sampling import Continuation, Prompt, continue_units, cut_prompt
from slamray.model.saved_vocabulary import read_unit_vocabulary
from slamray.model.unit_lm import load_unit_lm
from slamray.recipe.ready import known
from slamray.speech.audio import load_audio, to_wav
from slamray.speech.decoders.base import Decoder
from slamray.speech.decoders.table import load_decoder
from slamray.speech.encoders.kmeans import deduplicate
from slamray.speech.encoders.table import check_encoder, open_encoder
from slamray.speech.fetch import place_of
from slamray.stages.checkpoints import ALIGNED
from slamray.tokens.vocabulary import reconcile

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
Hear = Callable[[Path], Prompt]


class GenerateWords(Settings):
    """Words of jobs/generate.py; others are a recipe's: encoder, vocoder, sampling, device."""

    input: str = Field(description="an audio file, or a folder of them (wav flac mp3 ogg)")
    out: str = Field(description="folder that gets a wav file for each prompt, named like it")
    checkpoint: str = Field("", description="folder of a unit LM in either layout; empty: what the recipe's words made")
    stage: CheckpointName = Field(ALIGNED.stage, description="which of the recipe's checkpoints")
    whole: bool = Field(
        False, description="the whole file is the prompt, not its first evaluate.sampling.prompt_seconds"
    )
    say_prompt: bool = Field(True, description="the wav begins with the prompt, in the decoder's voice")


@dataclass(frozen=True)
class Outcome:
    """What became of one prompt: the file written, or why there is none."""

    source: Path
    target: Path
    line: str
    failed: bool


def main(words: Sequence[str]) -> int:
    """Continue every prompt and print a line for each; 2 when one could not be continued or the words are at fault."""
    if is_asked(words):
        return print_help("generate")

    def work() -> int:
        own, others = split_words(words, GenerateWords)
        recipe = known(load_recipe(others))
        files = targets(given_path("input", own.input), given_folder("out", own.out))
        folder = find_model(own.checkpoint, own.stage, lambda: recipe)
        device = recipe.compute.device
        own_units = read_unit_vocabulary(folder, "checkpoint", by_itself=True)
        model = load_unit_lm(folder)
        torch.nn.Module.to(model, device)  # transformers' own `to` is wrapped and has lost its types
        seconds = None if own.whole else recipe.evaluate.sampling.prompt_seconds
        vocabulary = check_encoder(recipe.speech.encoder).vocabulary
        reconcile(own_units.units_alone, vocabulary, f"checkpoint={folder}", "speech.encoder")
        hear = load_hearing(recipe.speech.encoder, device, seconds)
        vocoder = load_decoder(place_of(recipe.evaluate.vocoder, "evaluate.vocoder"), device)
        vocoder(np.array([vocabulary.n_units - 1]))  # raises what is wrong with the decoder, before any work
        failed = 0
        for made in generate(files, hear, model.eval(), vocoder, recipe.evaluate.sampling, own.say_prompt):
            print(made.line, file=sys.stderr if made.failed else sys.stdout, flush=True)
            failed += made.failed
        return 2 if failed else 0

    return as_command(work)


def targets(given: Path, out: Path) -> list[tuple[Path, Path]]:
    """(audio file, wav file to write) sorted by name; BadInput for none, two of one name, a prompt overwritten."""
    root = given if given.is_dir() else given.parent
    found = files_below(given) if given.is_dir() else [given]
    sources = [path for path in found if path.is_file() and has_suffix(path.name, AUDIO_SUFFIXES)]
    if not sources:
        raise BadInput(f"input={given}: no {' '.join(AUDIO_SUFFIXES)} file; check the path")
    if given.is_dir() and out.resolve().is_relative_to(given.resolve()):
        raise BadInput(f"out={out} lies inside input={given}, so a second run would continue its own voice; move it")
    pairs: dict[Path, Path] = {}
    for source in sources:
        target = out / source.relative_to(root).with_suffix(".wav")
        if target in pairs:
            raise BadInput(f"{pairs[target]} and {source} would both be written to {target}; rename one of them")
        if target.resolve() == source.resolve():
            raise BadInput(f"{target} is the prompt itself; choose another out=")
        pairs[target] = source
    return [(source, target) for target, source in pairs.items()]


def load_hearing(config: EncoderSettings, device: str, seconds: float | None) -> Hear:
    """A function from an audio file to its prompt, cut to its first `seconds`.

    The encoder hears the whole file and the units are cut, as in evaluation: the cut itself is not heard.
    """
    encoder = open_encoder(config, device)

    def hear(path: Path) -> Prompt:
        (unit_T,) = encoder([load_audio(path)], batch_seconds=0)
        units, durations = deduplicate(unit_T)
        if seconds is None:
            return Prompt(str(path), units)
        return cut_prompt(str(path), units, durations, seconds, encoder.rate_hz)

    return hear


def generate(
    files: Sequence[tuple[Path, Path]],
    hear: Hear,
    model: PreTrainedModel,
    vocoder: Decoder,
    config: SamplingSettings,
    say_prompt: bool,
) -> Iterator[Outcome]:
    """Write a wav for each prompt, in batches of config.batch; a prompt that cannot be heard is told and passed over.

    Draws depend on the seed and on what else is in the batch: with a batch of 1, on the seed and the prompt alone.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    for start in range(0, len(files), config.batch):
        heard: list[tuple[Prompt, Path, Path]] = []
        for source, target in files[start : start + config.batch]:
            try:
                prompt = hear(source)
            except Exception as error:  # of any codec or encoder over any file: the others are continued
                yield Outcome(source, target, f"error: {_one_line(error, source)}", True)
                continue
            tokens = 2 + len(prompt.units) + config.max_new_tokens  # <S>, and where there is text a tag
            if limit is not None and tokens > limit:
                reason = f"{source}: {tokens} tokens with the continuation, the model has {limit} positions; cut it"
                yield Outcome(source, target, f"error: {reason}", True)
                continue
            heard.append((prompt, source, target))
        said = continue_units(model, [prompt for prompt, _, _ in heard], config)
        for (_, source, target), continuation in zip(heard, said, strict=True):
            yield _speak(continuation, source, target, vocoder, say_prompt)


def _speak(said: Continuation, source: Path, target: Path, vocoder: Decoder, say_prompt: bool) -> Outcome:
    units = np.concatenate([said.prompt, said.units]) if say_prompt else said.units
    if not len(units):
        return Outcome(source, target, f"{source}: the model said nothing, so there is no file", False)
    audio = vocoder(units)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(to_wav(audio, vocoder.rate_hz))
    end = "it ended there" if said.ended else "cut at evaluate.sampling.max_new_tokens"
    what = f"{len(said.prompt)} units of prompt, {len(said.units)} said ({end})"
    return Outcome(source, target, f"{source}: {what}, {len(audio) / vocoder.rate_hz:.1f} s -> {target}", False)


def _one_line(error: Exception, source: Path) -> str:
    text = " ".join(str(error).split()) if isinstance(error, BadInput) else reason_of(error)
    return text if str(source) in text else f"{source}: {text}"
