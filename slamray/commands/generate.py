"""Continue prompts in one process, without Ray: a sound or a text in, and speech, text or both out.

audio file -> units -> model -> units -> audio file
text -> tokens -----^       '-> tokens -> text file         (a model of text and speech)
"""

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
from slamray.config.model import BaseSettings
from slamray.config.speech import EncoderSettings
from slamray.data.text import normalise
from slamray.errors import BadInput
from slamray.given import files_below, has_suffix, read_text, reason_of
from slamray.model.sampling import Drawn, Prompt, SaidIds, continue_ids, cut_prompt, generation_config
from slamray.model.saved_vocabulary import read_unit_vocabulary
from slamray.model.text_tokeniser import TextTokeniser
from slamray.model.unit_lm import load_unit_lm
from slamray.recipe.ready import known
from slamray.speech.audio import load_audio, to_wav
from slamray.speech.decoders.base import Decoder
from slamray.speech.decoders.table import load_decoder
from slamray.speech.encoders.kmeans import deduplicate
from slamray.speech.encoders.table import check_encoder, open_encoder
from slamray.speech.fetch import place_of
from slamray.stages.checkpoints import ALIGNED
from slamray.stages.vocabulary import vocabulary_of
from slamray.tokens.joint_documents import by_modality
from slamray.tokens.vocabulary import Vocabulary, reconcile

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
TEXT_SUFFIX = ".txt"
TEXT_PROMPT = "text"  # the name of the files that continue text=
Hear = Callable[[Path], Prompt]


class GenerateWords(Settings):
    """Words of jobs/generate.py; others are a recipe's: encoder, vocoder, sampling, device."""

    input: str | None = Field(
        None, description="an audio file, or a folder of them (wav flac mp3 ogg), or a text file (txt), which is read"
    )
    text: str | None = Field(
        None, description="a text to be continued, instead of input; of a model of text and speech"
    )
    out: str = Field(description="folder that gets a wav or a txt file for each prompt, named like it")
    say: Drawn = Field(
        "speech",
        description="what a model of text and speech answers in: speech (wav), text (txt), or both as it likes (txt of "
        "what it writes, wav of what it says); nothing else is drawn",
    )
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


@dataclass(frozen=True)
class Asked:
    """A prompt as the model gets it. units: what it heard; said: what the line tells of it."""

    ids: Sequence[int]
    units: np.ndarray
    said: str


def main(words: Sequence[str]) -> int:
    """Continue every prompt and print a line for each; 2 when one could not be continued or the words are at fault."""
    if is_asked(words):
        return print_help("generate")

    def work() -> int:
        own, others = split_words(words, GenerateWords)
        recipe = known(load_recipe(others))
        if (own.input is None) == (own.text is None):
            raise BadInput("input, text: give one of them, the prompts' file or folder, or a text")
        if own.text is not None and not own.text.strip():
            raise BadInput("text=: says nothing; is the variable set that it comes from? give a text")
        out = given_folder("out", own.out)
        if own.input is None:
            files = [(Path(TEXT_PROMPT), out / f"{TEXT_PROMPT}.wav")]
        else:
            files = targets(given_path("input", own.input), out)
        folder = find_model(own.checkpoint, own.stage, lambda: recipe)
        device = recipe.compute.device
        wanted = vocabulary_of(recipe) if recipe.joint.kinds else None
        own_units = read_unit_vocabulary(folder, "checkpoint", by_itself=True, wanted=wanted)
        model = load_unit_lm(folder, wanted=wanted)
        torch.nn.Module.to(model, device)  # transformers' own `to` is wrapped and has lost its types
        seconds = None if own.whole else recipe.evaluate.sampling.prompt_seconds
        vocabulary = check_encoder(recipe.speech.encoder).vocabulary
        reconcile(own_units.units_alone, vocabulary, f"checkpoint={folder}", "speech.encoder")
        reads = bool(own.text) or any(_is_text(source) for source, _ in files)
        tokeniser = load_tokeniser(recipe.model, own_units, folder) if reads or own.say != "speech" else None
        hear = load_hearing(recipe.speech.encoder, device, seconds) if not own.text else None
        vocoder = load_decoder(place_of(recipe.evaluate.vocoder, "evaluate.vocoder"), device)
        vocoder(np.array([vocabulary.n_units - 1]))  # raises what is wrong with the decoder, before any work
        prompts = Prompts(own_units, own.say, own.text or "", hear, tokeniser)
        failed = 0
        for made in generate(files, prompts, model.eval(), vocoder, recipe.evaluate.sampling, own.say_prompt):
            print(made.line, file=sys.stderr if made.failed else sys.stdout, flush=True)
            failed += made.failed
        return 2 if failed else 0

    return as_command(work)


def targets(given: Path, out: Path) -> list[tuple[Path, Path]]:
    """(audio file, wav file to write) sorted by name; BadInput for none, two of one name, a prompt overwritten."""
    root = given if given.is_dir() else given.parent
    found = files_below(given) if given.is_dir() else [given]
    suffixes = AUDIO_SUFFIXES if given.is_dir() else (*AUDIO_SUFFIXES, TEXT_SUFFIX)
    sources = [path for path in found if path.is_file() and has_suffix(path.name, suffixes)]
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


def load_tokeniser(base: BaseSettings, vocabulary: Vocabulary, folder: Path) -> TextTokeniser:
    """The tokeniser of model.base; BadInput where the checkpoint has no text, or the text of another tokeniser."""
    if not vocabulary.is_joint:
        raise BadInput(f"checkpoint={folder}: a model of units alone hears and speaks; leave out text= and say=")
    found = TextTokeniser(base.base, base.revision)
    ours = Vocabulary.joint(found.vocabulary, vocabulary.units_alone)
    reconcile(vocabulary, ours, f"checkpoint={folder}", f"model.base={base.base}")
    return found


@dataclass(frozen=True)
class Prompts:
    """Makes prompts of files, and files of what was said. text: read instead of a file."""

    vocabulary: Vocabulary
    say: Drawn
    text: str
    hear: Hear | None
    tokeniser: TextTokeniser | None

    def of(self, source: Path) -> Asked:
        """`<S> <tag> prompt [<tag>]`, the second tag where the answer is of the other modality."""
        vocabulary = self.vocabulary
        if self.text or _is_text(source):
            assert self.tokeniser is not None
            text = normalise(self.text or read_text(source))
            end = [vocabulary.speech_tag] if self.say == "speech" else []
            ids = [vocabulary.bos, vocabulary.text_tag, *self.tokeniser(text), *end]
            return Asked(ids, np.zeros(0, np.uint16), f"{len(ids)} tokens of prompt")
        assert self.hear is not None
        units = self.hear(source).units
        end = [vocabulary.text_tag] if self.say == "text" else []
        ids = [*vocabulary.before_units, *vocabulary.to_tokens(units).tolist(), *end]
        return Asked(ids, units, f"{len(units)} units of prompt")

    def written(self, ids: np.ndarray) -> str:
        """What was said as text; of a stretch of speech, how long it is."""
        if self.tokeniser is None:
            return ""
        parts = []
        for speech, own in by_modality(ids, self.vocabulary):
            parts.append(f"[{len(own)} units of speech]" if speech else self.tokeniser.decode(own.tolist()))
        return " ".join(part.strip() for part in parts)


def _is_text(source: Path) -> bool:
    return has_suffix(source.name, (TEXT_SUFFIX,))


def generate(
    files: Sequence[tuple[Path, Path]],
    prompts: Prompts,
    model: PreTrainedModel,
    vocoder: Decoder,
    config: SamplingSettings,
    say_prompt: bool,
) -> Iterator[Outcome]:
    """Write a wav, a txt or both for each prompt, in batches of config.batch; one that cannot be heard is passed over.

    Draws depend on the seed and on what else is in the batch: with a batch of 1, on the seed and the prompt alone.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    settings = generation_config(config, prompts.vocabulary, prompts.say)
    for start in range(0, len(files), config.batch):
        heard: list[tuple[Asked, Path, Path]] = []
        for source, target in files[start : start + config.batch]:
            try:
                asked = prompts.of(source)
            except Exception as error:  # of any codec or encoder over any file: the others are continued
                yield Outcome(source, target, f"error: {_one_line(error, source)}", True)
                continue
            tokens = len(asked.ids) + config.max_new_tokens
            if limit is not None and tokens > limit:
                reason = f"{source}: {tokens} tokens with the continuation, the model has {limit} positions; cut it"
                yield Outcome(source, target, f"error: {reason}", True)
                continue
            heard.append((asked, source, target))
        if heard:
            seed = config.seed * 1_000_003  # as continue_units has it
            said = continue_ids(model, [asked.ids for asked, _, _ in heard], settings, prompts.vocabulary, seed)
            for (asked, source, target), one in zip(heard, said, strict=True):
                yield _leave(asked, one, source, target, prompts, vocoder, say_prompt)


def _leave(
    asked: Asked, said: SaidIds, source: Path, target: Path, prompts: Prompts, vocoder: Decoder, say_prompt: bool
) -> Outcome:
    """Write what was said, and tell it in a line."""
    new = prompts.vocabulary.to_units(said.ids)
    end = "it ended there" if said.ended else "cut at evaluate.sampling.max_new_tokens"
    spoken = prompts.say != "text"
    units = np.concatenate([asked.units, new]) if say_prompt and spoken else new
    text = prompts.written(said.ids) if prompts.say != "speech" else ""
    if not len(units) and not text:
        return Outcome(source, target, f"{source}: the model said nothing, so there is no file", False)
    target.parent.mkdir(parents=True, exist_ok=True)
    line, files = f"{source}: {asked.said}, {len(said.ids)} said ({end})", []
    if len(units) and spoken:
        audio = vocoder(units)
        target.write_bytes(to_wav(audio, vocoder.rate_hz))
        line += f", {len(audio) / vocoder.rate_hz:.1f} s"
        files.append(target)
    if prompts.say != "speech":
        files.append(target.with_suffix(TEXT_SUFFIX))
        files[-1].write_text(text + "\n", encoding="utf-8")
    line += f" -> {' '.join(map(str, files))}"
    return Outcome(source, target, f"{line}\n{text}" if text else line, False)


def _one_line(error: Exception, source: Path) -> str:
    text = " ".join(str(error).split()) if isinstance(error, BadInput) else reason_of(error)
    return text if str(source) in text else f"{source}: {text}"
