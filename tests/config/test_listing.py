"""Files that paths name: walked folder by folder, in the order of their names, on a disk and in a store."""

from __future__ import annotations

import os
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec import AbstractFileSystem

from slamray.config.listing import by_folder, each_file, find_files

# Signs that sort before and after "/" stand where a folder's name ends, as in "a", "a-b" and "a.txt".
NAMES = ("a/1.txt", "a/b/1.txt", "a-b/2.txt", "a.txt", "a/b.txt", "a/b-c/1.txt", "a0/1.txt", "A/1.txt", "z.txt")


class Listed(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Folders 000/000 and so on with files of no content; asked: the folders that were listed."""

    protocol = "listed"
    cachable = False
    folders, files, size = 10, 100, 16
    asked: list[str] = []  # noqa: RUF012  # fsspec makes the object, so that a test reaches the class alone

    def info(self, path: str, **words: Any) -> dict[str, Any]:
        return {"name": self._strip_protocol(path), "type": "directory", "size": 0}

    def ls(self, path: str, detail: bool = True, **words: Any) -> list[dict[str, Any]]:
        self.asked.append(path)
        depth, folder = path.count("/"), {"type": "directory", "size": 0}
        if depth < 2:
            return [{"name": f"{path}/{number:03d}", **folder} for number in range(self.folders)]
        told = {"type": "file", "size": self.size, "ETag": "0123456789abcdef" * 2}
        return [{"name": f"{path}/recording_{number:012d}.flac", **told} for number in range(self.files)]


@pytest.fixture
def listed() -> Iterator[type[Listed]]:
    fsspec.register_implementation("listed", Listed, clobber=True)
    Listed.asked.clear()
    yield Listed


def test_a_walk_comes_in_the_order_of_whole_names_on_a_disk_and_in_a_store(tmp_path: Path) -> None:
    for name in random.Random(0).sample(NAMES, len(NAMES)):
        (tmp_path / "c" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "c" / name).write_text(name)
        with fsspec.open(f"memory://walk/c/{name}", "w") as file:
            file.write(name)
    wanted = sorted(f"c/{name}" for name in NAMES)
    for place in (f"{tmp_path}/c", "memory://walk/c"):
        found = list(each_file([place], "k"))
        assert [file.name for file in found] == wanted
        assert all(file.read_text() == file.name.removeprefix("c/") for file in found)
    both = [f"{tmp_path}/c/a", f"{tmp_path}/c/a-b", f"{tmp_path}/c/a/**"]  # the first and the last name the same files
    assert [file.name for file in each_file(both, "k")] == [
        "a-b/2.txt",
        "a/1.txt",
        "a/b-c/1.txt",
        "a/b.txt",
        "a/b/1.txt",
    ]


def test_every_folder_of_a_store_is_asked_for_once_and_none_is_kept(listed: type[Listed]) -> None:
    files = find_files(["listed://x"], "k")
    assert len(files) == 10 * 10 * 100 and [f.name for f in files] == sorted(f.name for f in files)
    assert files[0].path == "listed://x/000/000/recording_000000000000.flac" and files[0].stamp.startswith("0123")
    assert len(listed.asked) == len(set(listed.asked)) == 1 + 10 + 100


def peak_bytes(place: str) -> int:
    """Of Python's memory, while a listing is walked."""
    tracemalloc.start()
    for _ in each_file([place], "k"):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_the_memory_of_a_walk_does_not_grow_with_the_files(
    listed: type[Listed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders of 20 files, 2,000 and 18,000 of these: as objects of 0.5 kB the latter are 9 MB."""
    monkeypatch.setattr(listed, "files", 20)
    few = peak_bytes("listed://x")
    monkeypatch.setattr(listed, "folders", 30)
    assert peak_bytes("listed://x") < 1.5 * few + 500_000


def test_files_of_a_folder_come_together_when_all_of_them_are_known(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / "c" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "c" / name).touch()
    found = [[file.name for file in some] for some in by_folder(each_file([f"{tmp_path}/c"], "k"))]
    folders = [os.path.dirname(some[0]) for some in found]
    assert sorted(folders) == sorted({os.path.dirname(f"c/{name}") for name in NAMES})
    assert all(len({os.path.dirname(name) for name in some}) == 1 for some in found)
    assert sorted(name for some in found for name in some) == sorted(f"c/{name}" for name in NAMES)
    assert ["c/a.txt", "c/z.txt"] in found
