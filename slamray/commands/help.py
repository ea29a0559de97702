"""`--help` of the jobs: words, profiles, recipes and examples, from the settings' own descriptions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from slamray.config.base import Settings
from slamray.config.profiles import PROFILES
from slamray.config.tree import Recipe

ASKED = ("--help", "-h")
HELP = "help"  # the same, where it is the first word
LIST = "list"  # of the recipes
PLAN = ("--plan", "show the stages, what is done and what the others will cost; starts nothing")
VERBOSE = ("--verbose", "show what libraries say as it comes, rather than in a file below {root}/logs")
VERIFY = ("--verify", "compare the files of finished stages with their checksums; starts nothing")
RECIPE = ("recipe=NAME", "a recipe of the package (below) or a .yaml file; default: demo")
PROFILE = ("profile=NAME", "the machine that runs it (below); default: laptop")
EVALUATED = (
    ("checkpoints=[FOLDER, ...]", "unit LMs from anywhere; else those that the recipe's run has made"),
    ("sets={NAME: FOLDER}", "published test sets, short for evaluate.sets"),
    ("metrics=[NAME, ...]", "what is measured; else the sets, and without sets the recipe's own metrics"),
)


@dataclass(frozen=True)
class Job:
    """What a job does, its words that no settings describe, three examples of its words.

    main: the function that does it, which is given its words; own: settings of its words.
    """

    main: str
    about: str
    examples: tuple[str, str, str]
    words: tuple[tuple[str, str], ...] = ()
    own: str = ""
    of_recipe: bool = True


JOBS = {
    "slam": Job(
        "slamray.commands.door:slam",
        "Make a recipe: from text and recordings to a trained speech language model, its scores and a report.",
        ("--plan", "root=/data/runs", "recipe=slam profile=a5000 root=/data/runs pretrain.optim.learning_rate=5e-4"),
        (RECIPE, PROFILE, PLAN, VERIFY, VERBOSE, (LIST, "the recipes, with one line each")),
    ),
    "study": Job(
        "slamray.commands.study:main",
        "Run a study: every variant of a recipe with every seed, and one picture.",
        (
            "recipe=study_context_laptop --plan",
            "recipe=study_context_laptop root=/data/runs",
            "recipe=study_init_laptop 'study.seeds=[0]'",
        ),
        (RECIPE, PROFILE, ("study.KEY=VALUE", "a value of the recipe's section study"), PLAN, VERIFY, VERBOSE),
    ),
    "sweep": Job(
        "slamray.commands.sweep:main",
        "Search a space of recipes.",
        (
            "recipe=dpo_budget_laptop --plan",
            "recipe=dpo_budget_laptop root=/data/runs",
            "recipe=rate_and_batch_laptop 'sweep.seeds=[0]' sweep.keep=1",
        ),
        (RECIPE, PROFILE, ("sweep.KEY=VALUE", "a value of the recipe's section sweep"), PLAN, VERBOSE),
    ),
    "evaluate": Job(
        "slamray.commands.door:evaluate",
        "Score checkpoints by metrics and published test sets.",
        (
            "'sets={sblimp: /data/sblimp-dev}'",
            "'checkpoints=[/models/a,/models/b]' 'sets={ssc: /data/sSC}' root=/data/runs",
            "'metrics=[perplexity]' --plan",
        ),
        (RECIPE, PROFILE, *EVALUATED, PLAN, VERIFY, VERBOSE),
    ),
    "compare": Job(
        "slamray.commands.compare:main",
        "Print runs beside the paper's tables, and draw them; or put them side by side on a page.",
        ("root=/data/runs", "root=/data/runs out=/data/page.html", "price_per_device_hour=1.2 out=/data/costs.png"),
        own="slamray.commands.compare:CompareWords",
        of_recipe=False,
    ),
    "export": Job(
        "slamray.commands.export:main",
        "Write a checkpoint as a folder that plain transformers loads, and in the layout of slprl/slam.",
        (
            "out=/data/exported",
            "out=/data/exported checkpoint=/models/a layout=transformers",
            "out=/data/exported stage=pretrained recipe=demo dtype=bfloat16",
        ),
        (RECIPE, PROFILE),
        "slamray.commands.export:ExportWords",
    ),
    "generate": Job(
        "slamray.commands.generate:main",
        "Continue prompts: audio in, audio out; or text in or out, by a model of text and speech.",
        (
            "input=/data/prompts out=/data/said",
            "input=/data/a.wav out=/data/said checkpoint=/models/a whole=true",
            "'text=Tim went to the park.' out=/data/said say=both recipe=interleaved_laptop",
        ),
        (RECIPE, PROFILE),
        "slamray.commands.generate:GenerateWords",
    ),
    "calibrate": Job(
        "slamray.commands.calibrate:main",
        "Measure what --plan counts with, and keep it in rates.json below the root.",
        ("root=/data/runs", "recipe=demo seconds=20", "profile=laptop compute.cpus_per_worker=1"),
        (RECIPE, PROFILE, VERBOSE),
        "slamray.commands.calibrate:Words",
    ),
    "assets": Job(
        "slamray.commands.door:assets",
        "Make the models of the offline default.",
        ("--plan", "root=/data/assets", "root=/data/assets assets.make=decoder --install"),
        (
            RECIPE,
            PROFILE,
            PLAN,
            VERIFY,
            VERBOSE,
            ("--install", "copy the finished models over those of the package"),
        ),
    ),
    "stand_in": Job(
        "slamray.speech.stand_in:main",
        "Make stand-ins for recordings, for a laptop that has none: FOLDER/plain and FOLDER/diverse.",
        ("runs/stand_in", "/data/stand_in", "../stand_in"),
        (("FOLDER", "gets the recordings; those that are there already stay"),),
        of_recipe=False,
    ),
    "convert_centroids": Job(
        "slamray.commands.convert:centroids",
        "Convert a published k-means (joblib) once.",
        (
            "km.bin centroids.safetensors 11",
            "/data/km.bin /models/centroids.safetensors 11",
            "km500.bin c.safetensors 6",
        ),
        (("IN", "the file of joblib"), ("OUT", "the .safetensors to write"), ("LAYER", "of the encoder, a number")),
        of_recipe=False,
    ),
    "convert_vocoder": Job(
        "slamray.commands.convert:vocoder",
        "Convert a published unit vocoder (torch pickle) once.",
        (
            "g_00400000 config.json vocoder",
            "/data/g.pt /data/config.json /models/vocoder",
            "g.pt config.json ../vocoder",
        ),
        (("IN", "the checkpoint"), ("CONFIG", "its config.json"), ("OUT", "the folder to write")),
        of_recipe=False,
    ),
}


def is_asked(words: Sequence[str]) -> bool:
    """Whether somebody wants help rather than work."""
    return bool(set(ASKED) & set(words)) or list(words[:1]) == [HELP]


def print_help(job: str) -> int:
    """Print the help of a job; 0, the exit status."""
    print(help_text(job))
    return 0


def help_text(name: str) -> str:
    """Words, profiles and recipes with one line each, and three examples."""
    job = JOBS[name]
    own = list(_words_of(_settings(job.own))) if job.own else []
    parts = [f"usage: python jobs/{name}.py [WORD ...]\n   or: slamray {name} [WORD ...]\n\n{job.about}"]
    parts.append(_table("words", [*own, *job.words, ("help, --help, -h", "this page")]))
    if job.of_recipe:
        parts.append(_table("words of a recipe, a.b=VALUE", list(_words_of(Recipe))))
        parts.append(_table("profiles", [(profile, _machine(profile)) for profile in PROFILES]))
        parts.append(_table("recipes", list(recipes())))
    examples = "\n".join(f"  python jobs/{name}.py {words}" for words in job.examples)
    return "\n\n".join([*parts, f"examples:\n{examples}"])


def jobs_text() -> str:
    """The jobs with one line each, for the command `slamray`."""
    jobs = [*((name, job.about) for name, job in JOBS.items()), (LIST, "List the recipes.")]
    return f"usage: slamray JOB [WORD ...]; slamray {HELP} JOB tells its words\n\n{_table('jobs', jobs)}"


def list_recipes() -> int:
    """Print the recipes with one line each, and what runs them; 0, the exit status."""
    for job, found in by_job().items():
        print(_table(f"python jobs/{job}.py recipe=NAME", found))
    return 0


def by_job() -> dict[str, list[tuple[str, str]]]:
    """The recipes of the package with the first sentence of their files, by the job that takes them."""
    found: dict[str, list[tuple[str, str]]] = {"slam": [], "study": [], "sweep": []}
    folder = Path(str(resources.files("slamray") / "recipes"))
    for name, sentence in recipes():
        sections = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")).keys() & found.keys()
        found[next(iter(sections), "slam")].append((name, sentence))
    return found


def recipes() -> Iterator[tuple[str, str]]:
    """The recipes of the package, each with the first sentence of its file."""
    for path in sorted(Path(str(resources.files("slamray") / "recipes")).glob("*.yaml")):
        comment = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            comment.append(line.removeprefix("#").strip())
        sentence, stop, _ = " ".join(comment).partition(". ")
        yield path.stem, sentence + stop.strip()


def _words_of(kind: type[BaseModel], prefix: str = "", group: BaseModel | None = None) -> Iterator[tuple[str, str]]:
    """Each word of the settings and of the groups in them, with its meaning; group: has the defaults, if any."""
    for name, field in kind.model_fields.items():
        inner, default = field.annotation, getattr(group, name) if group else field.get_default()
        if isinstance(inner, type) and issubclass(inner, Settings):
            yield from _words_of(inner, f"{prefix}{name}.", default)
            continue
        about = " ".join((field.description or "").split())
        told = "" if default is PydanticUndefined else f"default: {_short(default)}"
        yield f"{prefix}{name}=", "; ".join(part for part in (about, told) if part)


def _short(default: object) -> str:
    if isinstance(default, BaseModel):
        default = default.model_dump(mode="json")
    text = default if isinstance(default, str) else json.dumps(default, default=str)
    return text or "none"


def _settings(name: str) -> type[BaseModel]:
    import pkgutil

    found: type[BaseModel] = pkgutil.resolve_name(name)
    return found


def _machine(profile: str) -> str:
    compute = PROFILES[profile]
    size = f", {compute.memory_gb:g} GB each" if compute.device == "cuda" else ""
    workers = f"{compute.workers} training worker{'s' if compute.workers > 1 else ''} on {compute.device}{size}"
    return f"{workers}, {compute.cpus_per_worker} cores each, {compute.encoder_actors} encoding actors"


def _table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    width = min(44, max(len(word) for word, _ in rows))
    return "\n".join([f"{title}:", *(f"  {word:<{width}}  {about}".rstrip() for word, about in rows)])
