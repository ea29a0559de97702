"""What lies on the hub: names, their commits, files of data sets; from its cache where the hub cannot be asked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from slamray.errors import BadInput

COMMIT = re.compile("[0-9a-f]{40}")
_HUB_DATA = re.compile(r"hf://datasets/(?P<name>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<inner>.*))?")


@dataclass(frozen=True)
class HubData:
    """A path in a data set of the hub: `hf://datasets/owner/name[@revision][/inner]`; inner may be a pattern."""

    name: str
    revision: str
    inner: str

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://datasets/{self.name}{revision}/{self.inner}".rstrip("/")

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which never changes its meaning."""
        return COMMIT.fullmatch(self.revision) is not None


def hub_data(path: str) -> HubData | None:
    """The parts of such a path; None for any other."""
    found = _HUB_DATA.fullmatch(path)
    return HubData(found["name"], found["revision"] or "", found["inner"] or "") if found else None


def data_files(data: HubData, key: str) -> list[tuple[str, str, int]]:
    """(name inside the data set, path that fsspec opens, bytes) of the files that the path names, sorted.

    BadInput, which names the recipe's key, when neither the hub nor its cache has them.
    """
    import fsspec

    base = f"datasets/{data.name}@{data.revision}" if data.revision else f"datasets/{data.name}"
    try:
        found = fsspec.filesystem("hf").find(base, detail=True)
        every = [(path.removeprefix(f"{base}/"), f"hf://{path}", int(info["size"])) for path, info in found.items()]
    except Exception as error:  # the hub client raises many kinds; each means that the hub cannot be asked
        snapshot = _cache_of(f"datasets/{data.name}") / "snapshots" / data.revision
        if not snapshot.is_dir():
            raise not_at_hand(key, data.name, data.revision, error, "datasets") from error
        paths = [path for path in snapshot.rglob("*") if path.is_file()]
        every = [(path.relative_to(snapshot).as_posix(), str(path), path.stat().st_size) for path in paths]
    return sorted(file for file in every if _is_named(file[0], data.inner))


def _is_named(name: str, inner: str) -> bool:
    """Whether a path names the file: as a pattern, as the file itself, or as a folder that holds it."""
    if "*" not in inner:
        return not inner or name == inner or name.startswith(inner.rstrip("/") + "/")
    # fnmatch's * crosses folders, as ** does; a single one stays in its folder
    same_depth = "**" in inner or name.count("/") == inner.count("/")
    return same_depth and (fnmatch(name, inner) or fnmatch(name, inner.replace("**/", "")))


def commit_of(name: str, key: str) -> str:
    """The commit that a name of the hub has now: `models/owner/name` or `datasets/owner/name[@branch]`.

    Where the hub cannot be asked, that of its cache. BadInput, which names the recipe's key, when there is none.
    """
    from huggingface_hub import HfApi

    kind, _, rest = name.partition("/")
    identifier, _, branch = rest.partition("@")
    try:
        found = HfApi().repo_info(identifier, repo_type=kind.removesuffix("s"), revision=branch or None).sha
    except Exception as error:  # as above
        cached = _cache_of(f"{kind}/{identifier}") / "refs" / (branch or "main")
        if not cached.is_file():
            raise not_at_hand(key, identifier, branch, error, kind) from error
        found = cached.read_text().strip()
    assert found, f"{name} has no commit"
    return found


def not_at_hand(key: str, name: str, revision: str | None, error: Exception, kind: str = "models") -> BadInput:
    """Why a name of the hub cannot be had, and what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError

    if isinstance(error, GatedRepoError) or isinstance(error.__cause__, GatedRepoError):
        page = f"https://huggingface.co/{name}"
        return BadInput(f"{key}={name}: is gated; accept its terms at {page} and set HF_TOKEN")
    of_data = " --repo-type dataset" if kind == "datasets" else ""
    at = f" --revision {revision}" if revision else ""
    return NotAtHand(key, error, f"`hf download {name}{of_data}{at}`", Path(constants.HF_HOME))


class NotAtHand(BadInput):
    """Something that only a network has. bring: the command or address that gets it; into: the folder it belongs in."""

    def __init__(self, key: str, error: BaseException, bring: str, into: Path) -> None:
        self.key, self.bring, self.into = key, bring, into
        self.reason = (str(error).splitlines() or [type(error).__name__])[0]
        super().__init__(in_one_line([self]))


def in_one_line(missing: Sequence[NotAtHand]) -> str:
    """What to bring, and where to, for all of them together."""
    folders: dict[Path, dict[str, None]] = {}
    for one in missing:
        folders.setdefault(one.into, {})[one.bring] = None
    keys = ", ".join(dict.fromkeys(one.key for one in missing))
    bring = "; ".join(f"into {folder}: {', '.join(what)}" for folder, what in folders.items())
    return (
        f"{keys}: cannot be fetched ({missing[0].reason}); without a network bring, from a machine that has one, "
        f"{bring}; or give local paths"
    )


def _cache_of(name: str) -> Path:
    """The folder in the hub's cache of `models/owner/name` or `datasets/owner/name`."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / name.replace("/", "--")
