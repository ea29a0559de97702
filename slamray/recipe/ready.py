"""Before any work: everything that a recipe names outside has a commit and can be had from this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from slamray.config.base import PUBLISHED, Located, Settings
from slamray.config.checksums import CHECKSUMS
from slamray.config.corpora import RecordedSettings
from slamray.config.hub import NotAtHand, commit_of, hub_data, in_one_line
from slamray.config.listing import find_files
from slamray.config.outside import NO_COMMIT, is_hub_id
from slamray.config.pins import PINS, Named, named, pin
from slamray.config.tree import Recipe
from slamray.errors import BadInput
from slamray.speech.fetch import fetch_published
from slamray.speech.hub_models import fetch_model
from slamray.stage.folder import Folder
from slamray.stage.stage import Stage, order
from slamray.stages import planning
from slamray.tracking import tracking_uri

Build = Callable[[Recipe], Sequence[Stage]]
JOB_COPY = "working_dir_files"  # Ray's folder of the working directories of jobs (2.60)


def known(recipe: Recipe) -> Recipe:
    """The recipe with the commits that earlier runs under its root were told, and as many rows at once as fit.

    No network is used, but for a root in an object store.
    """
    root = _root(recipe, writes=False)
    _know_checksums(root)
    pinned = pin(recipe, _pins(recipe).get)
    return pinned if any(one.unpinned for one in _basis(pinned)) else _fitted(pinned)


def ready(recipe: Recipe, build: Build) -> Recipe:
    """The recipe with a commit for every name that its stages need, their models and published files fetched.

    BadInput, in one line, for all that cannot be had, with what to bring and where to. Commits that the hub was asked
    for are kept in {root}/pins.json, so that a name is asked for once. A finished run asks nobody.
    """
    root = _root(recipe)
    _know_checksums(root)
    if recipe.tracking.enabled:
        tracking_uri(recipe.tracking.uri, root)
    pins = _pins(recipe)
    old = dict(pins)
    trouble = _ask(_basis(recipe), pins)
    _raise(trouble)
    recipe = pin(recipe, pins.get)
    trouble = _collect(_basis(recipe), _fetch)  # what is here goes before what is known of it
    recipe = _fitted(recipe)
    trouble += _ask(outside(order(build(recipe))), pins)
    if pins != old:
        root.write_json(PINS, pins)
    pinned = pin(recipe, pins.get)
    todo = [stage for stage in order(build(pinned)) if not stage.is_done(root)]
    trouble += _collect([one for one in outside(todo) if one.unpinned is None], _fetch)
    trouble += [found for stage in todo if (found := _lacks(stage))]
    _raise(trouble)
    return pinned


def _root(recipe: Recipe, writes: bool = True) -> Folder:
    """The folder of a run; BadInput when it cannot be one, or would go with the job that runs."""
    root = Folder(recipe.root)
    check_root(root)
    root.check(writes)
    return root


def check_root(root: Folder) -> None:
    """BadInput when the folder of a run would be deleted with the job: it is in Ray's copy of the job's files."""
    if JOB_COPY in str(root).split("/"):
        raise BadInput(
            f"root: {root} is Ray's copy of the job's files, which it deletes; give an absolute folder, root=/data/runs"
        )


def _know_checksums(root: Folder) -> None:
    """Files outside are read for their checksum once, for all commands under a root; none is made for this alone."""
    CHECKSUMS.know(root)
    if root.is_shared and root.exists(""):
        CHECKSUMS.keep()


def _basis(recipe: Recipe) -> list[Named]:
    """What is named by the settings without which no stage is known."""
    return [*named(recipe.speech.encoder, ""), *named(recipe.model, "")]


def _fitted(recipe: Recipe) -> Recipe:
    return planning.fit_to_memory(recipe)


def outside(stages: Sequence[Stage]) -> list[Named]:
    """All that these stages' settings name outside, each once."""
    found: dict[Named, None] = {}
    for stage in stages:
        for setting in stage.settings.values():
            place = setting.place if isinstance(setting, Located) else setting
            if isinstance(place, Settings):
                of_recordings = isinstance(place, RecordedSettings)
                found.update(dict.fromkeys(named(place, "recorded." if of_recordings else f"{stage.name}.")))
    return list(found)


def _lacks(stage: Stage) -> BadInput | None:
    """Why a stage has no identity, if so: what lies on this machine is looked at by the stages themselves."""
    try:
        stage.identity  # noqa: B018  # found when it is asked for
    except BadInput as error:
        return None if NO_COMMIT in str(error) else error  # the hub was asked for commits before
    return None


def _raise(trouble: Sequence[BadInput]) -> None:
    """One BadInput for all, where there is any."""
    missing = [one for one in trouble if isinstance(one, NotAtHand)]
    lines = [str(one) for one in trouble if not isinstance(one, NotAtHand)]
    if trouble:
        raise BadInput("; ".join(dict.fromkeys([*lines, *([in_one_line(missing)] if missing else [])])))


def _ask(names: Sequence[Named], pins: dict[str, str]) -> list[BadInput]:
    """Ask the hub for commits that are not in pins, and add them; what went wrong."""

    def ask(one: Named) -> None:
        if one.unpinned and one.unpinned not in pins:
            pins[one.unpinned] = commit_of(one.unpinned, one.key)

    return _collect(names, ask)


def _fetch(one: Named) -> None:
    """Have a model, a published file or the listing of a data set here; local paths are the stages' to look at."""
    if one.path.startswith(PUBLISHED):
        fetch_published(one.path, one.key)
    elif hub_data(one.path):
        find_files([one.path], one.key)
    elif one.is_model and is_hub_id(one.path):
        fetch_model(one.path, one.revision, one.key)


def _collect(names: Sequence[Named], do: Callable[[Named], None]) -> list[BadInput]:
    trouble: list[BadInput] = []
    for one in names:
        try:
            do(one)
        except BadInput as error:
            trouble.append(error)
    return trouble


def _pins(recipe: Recipe) -> dict[str, str]:
    root = Folder(recipe.root)
    pins: dict[str, str] = root.read_json(PINS) if root.exists(PINS) else {}
    return pins
