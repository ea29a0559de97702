"""Files that the user gave, as they come: names, links, encodings, and one line for whatever is wrong with one.

Every reader of something from outside a run goes through here, so that a rule holds for all of them.
"""

from __future__ import annotations

import codecs
import io
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from slamray.errors import BadInput

# What file managers and archives leave beside files, in small letters; every name with a dot before it is clutter too.
CLUTTER = frozenset({"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "@eadir"})
LFS = b"version https://git-lfs.github.com/spec/"  # how a pointer begins that stands for a file of Git LFS
_POINTER = "a pointer of Git LFS, not the file itself (`git lfs pull` fetches it)"
WEIGHTS = (".safetensors", ".bin", ".pth", ".pt")
_MARKS = (  # the longer first, for one of UTF-32 begins with one of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_OBJECT = re.compile(r"<[^<>]*? at 0x[0-9a-fA-F]+>")  # how Python writes an object without a name
_ADDRESS = re.compile(r"0x[0-9a-f]{8,}")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def is_clutter(name: str) -> bool:
    """Whether a name, or a folder on the way to it, is hidden or left by a file manager, an archive or a notebook."""
    return any(part.startswith(".") or part.lower() in CLUTTER for part in name.split("/") if part)


def has_suffix(name: str, suffixes: str | tuple[str, ...]) -> bool:
    """Whether a name ends so, in letters of either case."""
    return name.lower().endswith(suffixes)


def files_below(folder: Path, suffixes: tuple[str, ...] = ()) -> list[Path]:
    """Every file below a folder by its path, without clutter, sorted. Links are followed.

    A folder that several ways lead to is entered once: where it lies itself, else by the first link. suffixes: of the
    files that count; none counts all. BadInput for a link that leads nowhere, OSError where a folder cannot be read.
    """
    inner = itertools.chain.from_iterable(map(entries, folders_below(folder)))
    return sorted(
        Path(entry) for entry in inner if entry.is_file() and (not suffixes or has_suffix(entry.name, suffixes))
    )


def folders_below(folder: Path) -> set[str]:
    """A folder and every one below it, by their paths, as `files_below` enters them."""
    seen: set[tuple[int, int]] = set()
    links: list[str] = []
    found: set[str] = set()

    def enter(path: str) -> None:
        facts = os.stat(path)  # paths of millions, as text
        if (facts.st_dev, facts.st_ino) in seen:
            return
        seen.add((facts.st_dev, facts.st_ino))
        found.add(path)
        folders = [entry for entry in entries(path) if entry.is_dir()]
        for entry in sorted(folders, key=lambda entry: entry.name):
            if entry.is_symlink():
                links.append(entry.path)
            else:
                enter(entry.path)

    enter(str(folder))
    while links:
        enter(links.pop(0))
    return found


def entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """What is in a folder, without clutter. BadInput for a link that leads nowhere."""
    with os.scandir(folder) as inner:
        for entry in inner:
            if is_clutter(entry.name):
                continue
            if entry.is_symlink() and not Path(entry).exists():
                there = os.readlink(entry)
                raise BadInput(f"{entry.path}: a link to {there}, which is not there; mend or remove the link")
            yield entry


def decode(content: bytes) -> str:
    """Text in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, which is left out. ValueError for any other."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding)
    return content.decode("utf-8")


def decode_lines(content: bytes) -> list[str]:
    """The same, line by line; a byte that is no text of UTF-8 is kept as a surrogate, which `is_text` tells."""
    try:
        return decode(content).splitlines()
    except UnicodeDecodeError:
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape").splitlines()


def is_text(text: str) -> bool:
    """Whether a string can be written as UTF-8: it holds no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def lines_of(file: IO[bytes]) -> Iterator[bytes]:
    """Lines of an opened file in UTF-8, whatever its encoding, without a byte order mark. ValueError for no text."""
    head = file.read(4)
    rest = io.BufferedReader(_Joined(head, file))
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            rest.read(len(mark))
            if encoding != "utf-8":
                yield from (line.encode() for line in io.TextIOWrapper(rest, encoding))
                return
            break
    yield from rest


class _Joined(io.RawIOBase):
    """What was read of a file, and what was not."""

    def __init__(self, head: bytes, file: IO[bytes]) -> None:
        self._head, self._file = head, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content, self._head = (self._head, b"") if self._head else (self._file.read(len(buffer)), b"")
        buffer[: len(content)] = content
        return len(content)


def read_text(path: Path) -> str:
    """A text file; BadInput names it when it cannot be read."""
    with opening(str(path)):
        return decode(path.read_bytes())


def read_json(path: Path) -> Any:
    """A JSON file; BadInput names it when it cannot be read."""
    with opening(str(path), "repair it or fetch it again"):
        return json.loads(decode(path.read_bytes()))


def read_mapping(path: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping of keys, as configurations do; BadInput names it when it is something else."""
    tree = read_json(path)
    if not isinstance(tree, dict):
        raise BadInput(f"{path}: holds {type(tree).__name__}, not a mapping of keys; repair it or fetch it again")
    return tree


@contextmanager
def opening(
    name: str, advice: str = "repair or remove it", path: Path | None = None, fault: str = "cannot be read"
) -> Iterator[None]:
    """Whatever a library raises over a file of the user's is one line: BadInput with its name and what to do.

    name: what the line begins with. path: the file, or the folder of a model, where the name is not that already;
    pointers, empty and cut files are said to be that.
    """
    try:
        yield
    except (BadInput, AssertionError, MemoryError):
        raise
    except Exception as error:
        place = path or Path(name)
        if place.is_file() or path is not None:
            check_weights(place)
        raise BadInput(f"{name}: {fault} ({reason_of(error)}); {advice}") from error


def reason_of(error: BaseException) -> str:
    """The first line of what a library says, with the kind of error where that is no sentence; no memory addresses."""
    said = getattr(error, "error_string", None) if type(error).__name__ == "LibsndfileError" else None
    text = next((line.strip() for line in (said or str(error)).splitlines() if line.strip()), "")
    text = _COLOUR.sub("", _ADDRESS.sub("an address", _OBJECT.sub("the file", text)))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, BadInput) or (" " in text and not isinstance(error, LookupError | AttributeError | TypeError)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def check_pointer(head: bytes, name: str) -> None:
    """BadInput when a file begins as one that Git LFS has put in its place."""
    if head.startswith(LFS):
        raise BadInput(f"{name}: {_POINTER}; fetch it again")


def check_weights(place: Path) -> None:
    """BadInput, in one line, for a file of weights that is not all there: a pointer of Git LFS, empty or cut.

    place: a file, or a model's folder, of which every file of weights, configuration or vocabulary is looked at.
    """
    for path in files_below(place) if place.is_dir() else [place]:
        if path.is_file() and (reason := _lacks(path)):
            raise BadInput(f"{path}: {reason}; fetch it again")


def _lacks(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(len(LFS))
    if head == LFS:
        return _POINTER
    if has_suffix(path.name, (*WEIGHTS, ".json")) and size == 0:
        return "empty"
    if has_suffix(path.name, ".safetensors") and (wanted := _safetensors_bytes(head, path)) != size:
        return f"cut or damaged: {size:,} bytes" + (f" of {wanted:,}" if wanted > size else "")
    return ""


def _safetensors_bytes(head: bytes, path: Path) -> int:
    """How long the file is by its own header: 8 bytes, a table in JSON, the tensors. 0 where it has no such header."""
    length = int.from_bytes(head[:8], "little")
    if not 2 <= length <= path.stat().st_size - 8:
        return 8 + length if length < 100_000_000 else 0
    with path.open("rb") as file:
        file.seek(8)
        try:
            table = json.loads(file.read(length))
            ends = [one["data_offsets"][1] for name, one in table.items() if name != "__metadata__"]
        except (ValueError, LookupError, TypeError, AttributeError):
            return 0
    return 8 + length + max(ends, default=0)


def one_of(paths: Sequence[Path], name: str) -> Path | None:
    """The path of that name, in letters of either case."""
    return next((path for path in paths if path.name.lower() == name.lower()), None)
