"""Doors out: a unit LM as a folder that plain transformers loads, and in the layout of the published slprl/slam.

Both hold a causal LM over <PAD>, <S>, <Un0>, <Un1> ... (docs/paper.md 1.2); `load_unit_lm` and `model.base` read both.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedModel

from slamray import store
from slamray.commands.help import is_asked, print_help
from slamray.commands.model_card import FILE, Origin, card, origin_of
from slamray.commands.words import CheckpointName, as_command, find_model, given_folder, split_words
from slamray.config.base import Settings
from slamray.config.evaluation import SamplingSettings
from slamray.config.load import load_recipe
from slamray.config.model import BaseSettings
from slamray.config.outside import is_hub_id
from slamray.config.tree import Recipe
from slamray.errors import BadInput
from slamray.given import reason_of
from slamray.mlflow_events import connect, find_run, log_model
from slamray.model.families import FAMILIES
from slamray.model.sampling import generation_config
from slamray.model.saved_vocabulary import SLAMKIT_TYPE, read_unit_vocabulary
from slamray.model.text_tokeniser import TextTokeniser
from slamray.model.unit_lm import SLAMKIT_PREFIX, count_parameters, load_unit_lm
from slamray.recipe.ready import known
from slamray.recipe.slam import build
from slamray.stage.folder import Folder
from slamray.stage.stage import order
from slamray.stages.checkpoints import ALIGNED
from slamray.stages.vocabulary import vocabulary_of
from slamray.tokens.vocabulary import SPECIALS, Vocabulary, reconcile
from slamray.tracking import check_answers, tracking_uri

WEIGHTS = "model.safetensors"
SLAMKIT_PAD = 0  # what its interleaving tokeniser pads with, whatever the text LM does


class ExportWords(Settings):
    """Words of jobs/export.py; others are the recipe's that made the checkpoint."""

    out: str = Field(description="folder that gets the folders transformers and slamkit")
    checkpoint: str = Field("", description="folder of a unit LM in either layout; empty: what the recipe's words made")
    stage: CheckpointName = Field(ALIGNED.stage, description="which of the recipe's checkpoints")
    layout: Literal["both", "transformers", "slamkit"] = Field("both", description="which folders to write")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the weights; bfloat16 halves the bytes")
    base_model_name: str = Field(
        "", description="slamkit: hub id whose class of configuration it fetches; empty: by the architecture"
    )
    track: bool = Field(
        False, description="log the folder transformers, with its card, in MLflow as a model of the recipe's run"
    )


def main(words: Sequence[str]) -> int:
    """Export one checkpoint and print where it lies; 2 with one line when the words are at fault."""
    if is_asked(words):
        return print_help("export")

    def work() -> int:
        own, others = split_words(words, ExportWords)
        recipe = load_recipe(others)
        out = given_folder("out", own.out)
        if own.track and (own.checkpoint or own.layout == "slamkit"):
            raise BadInput(
                "track=true: logs the folder transformers of a recipe's checkpoint; leave out checkpoint= and layout="
            )
        model = find_model(own.checkpoint, own.stage, lambda: recipe)
        made = None if own.checkpoint else known(recipe)
        targets = build(made) if made else []
        run = find_tracked(made, targets[-1].fingerprint) if made and own.track else None  # before anything is written
        origin = origin_of(made, targets, own.stage) if made else None
        wanted = vocabulary_of(recipe) if recipe.joint.kinds else None
        for folder in export(model, out, own.layout, own.dtype, own.base_model_name, recipe.model, origin, wanted):
            print(folder)
        if made and run:
            (stage,) = (stage for stage in order(targets) if stage.name == own.stage)
            print(track(run, out / "transformers", f"{made.name}-{own.stage}", f"{stage.fingerprint}-{own.dtype}"))
        return 0

    return as_command(work)


def export(
    checkpoint: Path,
    out: Path,
    layout: str,
    dtype: str,
    base_model_name: str = "",
    base: BaseSettings | None = None,
    origin: Origin | None = None,
    wanted: Vocabulary | None = None,
) -> list[Path]:
    """Write `out/transformers`, `out/slamkit` or both, each appearing whole; returns the folders.

    base: whose tokeniser reads the text of a model of text and speech. origin: what the card says of a recipe's
    checkpoint. wanted: the vocabulary of a published model of text and speech, which states none. BadInput when the
    checkpoint is a text LM, a folder is there already, or there is no room.
    """
    vocabulary = read_unit_vocabulary(checkpoint, "checkpoint", by_itself=True, wanted=wanted)
    text = _text_tokeniser(vocabulary, base) if vocabulary.is_joint else None
    model = load_unit_lm(checkpoint, dtype=torch.bfloat16 if dtype == "bfloat16" else torch.float32, wanted=wanted)
    layouts = ("transformers", "slamkit") if layout == "both" else (layout,)
    folders = [out / name for name in layouts]
    for folder in folders:
        if folder.exists():
            raise BadInput(f"{folder} is there already; remove it or choose another out=")
    own = base.base if text is not None and base is not None and is_hub_id(base.base) else ""  # its tokeniser's, too
    hub_id = (base_model_name or own or _hub_id_like(model)) if "slamkit" in layouts else ""
    store.require_space(out, 3 * count_parameters(model) * (2 if dtype == "bfloat16" else 4), "an export")
    plain = out / ".plain.tmp"
    shutil.rmtree(plain, ignore_errors=True)
    write_transformers(model, vocabulary, plain, text)
    (plain / FILE).write_text(card(origin, plain, vocabulary, count_parameters(model)), encoding="utf-8")
    if "slamkit" in layouts:
        other = out / ".slamkit.tmp"
        shutil.rmtree(other, ignore_errors=True)
        write_slamkit(plain, vocabulary, other, hub_id)
        other.rename(out / "slamkit")
    if "transformers" in layouts:
        plain.rename(out / "transformers")
    else:
        shutil.rmtree(plain)
    return folders


def find_tracked(recipe: Recipe, fingerprint: str) -> tuple[Any, Any]:
    """A client of the recipe's MLflow store, and its run there; BadInput where there is none."""
    told, root = recipe.tracking, Folder(recipe.root)
    uri = tracking_uri(told.uri, root)
    check_answers(uri)
    try:
        client, experiment_id = connect(uri, told.experiment, root.scratch())
        run = find_run(client, experiment_id, fingerprint)
    except Exception as error:  # MLflow raises many kinds; each means that the store cannot be asked
        raise BadInput(f"track=true: {uri}: {reason_of(error)}") from error
    if run is None:
        raise BadInput(
            f"track=true: {uri} has no run of this recipe in experiment {told.experiment}; run jobs/slam.py with the "
            "same words first"
        )
    return client, run


def track(found: tuple[Any, Any], folder: Path, name: str, fingerprint: str) -> str:
    """Log an exported folder as a model of that run; how MLflow names it."""
    client, run = found
    try:
        model_id = log_model(client, run, folder, name, fingerprint, (folder / FILE).read_text(encoding="utf-8"))
    except Exception as error:  # as above
        raise BadInput(f"track=true: {reason_of(error)}; the folder is written") from error
    return f"models:/{model_id}"


def _text_tokeniser(vocabulary: Vocabulary, base: BaseSettings | None) -> TextTokeniser:
    """The tokeniser of a model of text and speech; BadInput where it is not the one that the model was trained with."""
    assert base is not None, "the command gives the recipe's"
    found = TextTokeniser(base.base, base.revision)
    own = Vocabulary.joint(found.vocabulary, vocabulary.units_alone)
    reconcile(vocabulary, own, "checkpoint", f"model.base={base.base}")
    return found


def write_transformers(
    model: PreTrainedModel, vocabulary: Vocabulary, folder: Path, text: TextTokeniser | None = None
) -> None:
    """What AutoModelForCausalLM and AutoTokenizer load as it is; `generate` samples as the paper does (Table 6).

    text: of a model of text and speech, whose units and tags become words of its tokeniser.
    """
    model.generation_config = generation_config(SamplingSettings(), vocabulary)
    # Weights that were read from slamkit's layout would be written below its prefix again.
    model.save_pretrained(folder, save_original_format=False)
    config = store.read_json(folder / "config.json")
    store.write_json(folder / "config.json", config | _for_transformers_4(config))
    if text is not None:
        text.with_units(vocabulary).save_pretrained(folder)
        return
    unit_tokeniser(vocabulary).save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # transformers 4 knows no other name for it
        "bos_token": "<S>",
        "eos_token": "<S>",
        "pad_token": "<PAD>",
        "unk_token": "<PAD>",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    store.write_json(folder / "tokenizer_config.json", settings)


def write_slamkit(plain: Path, vocabulary: Vocabulary, folder: Path, base_model_name: str) -> None:
    """The layout of slprl/slam: `plain`'s weights under lm., its configuration inside slamkit's UnitLMConfig.

    Keys of config.json: slamkit model/unit_lm.py, UnitLMConfig; of tokeniser_config.json: tokeniser/unit_tokeniser.py.
    A model of text and speech has none of the latter, as SIMS: its tokeniser is made from the base's, to which slamkit
    adds the units and both tags in this order (tokeniser/interleaving_tokeniser.py).
    """
    base_config = store.read_json(plain / "config.json")
    if vocabulary.is_joint:
        base_config["pad_token_id"] = SLAMKIT_PAD
    folder.mkdir(parents=True)
    weights = {name: w for part in sorted(plain.glob("*.safetensors")) for name, w in load_file(part).items()}
    save_file({SLAMKIT_PREFIX + name: weight for name, weight in weights.items()}, folder / WEIGHTS, {"format": "pt"})
    config = {
        "architectures": ["UnitLM"],
        "model_type": SLAMKIT_TYPE,
        "base_model_name": base_model_name,
        "base_config": base_config,
        "vocab_size": base_config["vocab_size"],
        "twist_init": True,
        "use_cache": True,
        "trust_remote_code": None,
        "use_safetensors": None,
        "torch_dtype": base_config["torch_dtype"],
        "max_position_embeddings": base_config.get("max_position_embeddings"),
        "tie_word_embeddings": base_config.get("tie_word_embeddings", True),
        "transformers_version": base_config["transformers_version"],
    }
    store.write_json(folder / "config.json", config)
    shutil.copy(plain / "generation_config.json", folder)
    if vocabulary.is_joint:
        return
    tokeniser = {
        "dedup": True,
        "bos_eos_token_id": vocabulary.bos,
        "pad_token_id": vocabulary.pad,
        "load_fe": False,
        "num_units": vocabulary.n_units,
    }
    store.write_json(folder / "tokeniser_config.json", tokeniser)


def unit_tokeniser(vocabulary: Vocabulary) -> Tokenizer:
    """`<Un3><Un49>` to token ids, with <S> in front and nothing behind.

    <S> ends a sequence too (docs/paper.md 1.2), so a prompt must not end with it: to score a whole document, write it
    at the text's end. Units are added tokens as well as words, because AutoTokenizer of transformers 5 rebuilds the
    tokeniser by the architecture's own class (Qwen2Tokenizer) and takes only the added tokens along.
    """
    units = [f"<Un{unit}>" for unit in range(vocabulary.n_units)]
    pad, special = SPECIALS
    words = {pad: vocabulary.pad, special: vocabulary.bos}
    words |= {unit: vocabulary.first_unit + i for i, unit in enumerate(units)}
    tokeniser = Tokenizer(models.WordLevel(words, unk_token="<UNK>"))  # not in the vocabulary: other text is an error
    tokeniser.normalizer = normalizers.Replace(Regex(r"\s+"), "")
    tokeniser.pre_tokenizer = pre_tokenizers.Split(">", "merged_with_previous")
    begin = [(special, vocabulary.bos)]
    tokeniser.post_processor = processors.TemplateProcessing(single=f"{special} $0", special_tokens=begin)
    tokeniser.decoder = decoders.Fuse()
    tokeniser.add_special_tokens([pad, special])
    tokeniser.add_tokens([AddedToken(unit, normalized=False) for unit in units])
    assert tokeniser.get_vocab_size() == vocabulary.size
    return tokeniser


def _for_transformers_4(config: dict[str, Any]) -> dict[str, Any]:
    """Keys under the names that transformers 4, and so slamkit, reads; transformers 5 prefers its own."""
    older: dict[str, Any] = {"torch_dtype": config["dtype"]}
    rope = dict(config.get("rope_parameters") or {})
    if rope:
        theta, share = rope.pop("rope_theta"), rope.pop("partial_rotary_factor", None)
        older |= {"rope_theta": theta, "rope_scaling": None if rope == {"rope_type": "default"} else rope}
        if config["model_type"] == "gpt_neox":
            older |= {"rotary_emb_base": theta, "rotary_pct": share}
        elif share is not None:
            older |= {"partial_rotary_factor": share}
    return older


def _hub_id_like(model: PreTrainedModel) -> str:
    """A hub id of the same architecture: slamkit takes the class from there, and every value from base_config."""
    kind = model.config.model_type
    for hub_id, (config_class, _) in FAMILIES.items():
        if config_class.model_type == kind:
            return hub_id
    raise BadInput(f"give base_model_name=: a hub id of architecture {kind}, of which no family is known here")
