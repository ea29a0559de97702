"""Checksums of files outside: each file is read once, and the tables between commands grow with nothing held."""

from __future__ import annotations

import hashlib
from pathlib import Path

import fsspec
import pytest

from slamray.config import checksums
from slamray.config.checksums import CONTENTS, Checksums
from slamray.config.listing import find_files
from slamray.config.outside import listing_content
from slamray.errors import BadInput
from slamray.stage.folder import Folder


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write(name: str, text: str) -> None:
    with fsspec.open(name, "w") as file:
        file.write(text)


def alter(name: str, text: str) -> None:
    """Another content behind the same size and times, so that only who opens the file can see it."""
    fs, inner = fsspec.url_to_fs(name)
    fs.store[inner].getbuffer()[:] = text.encode()


def test_a_data_set_has_the_identity_of_its_names_and_contents_in_order(tmp_path: Path) -> None:
    texts = {"c/a-b/2.txt": "two", "c/a.txt": "dot", "c/a/1.txt": "one"}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    lines = "\n".join(f"{name} {sha256(text)}" for name, text in texts.items())
    wanted = {"files": 3, "bytes": 9, "sha256": sha256(lines)}
    assert listing_content(find_files([f"{tmp_path}/c"], "k")) == wanted


def test_of_a_folder_only_the_file_that_changed_is_opened_in_a_later_command(tmp_path: Path) -> None:
    root, place = Folder(tmp_path), "memory://sums/c"
    for number in range(3):
        write(f"{place}/{number // 2}/{number}.txt", f"text {number}")
    first = Checksums()
    first.know(root)
    first.keep()
    assert first.of(find_files([place], "k")) == [sha256(f"text {number}") for number in range(3)]
    assert len(root.names(f"{CONTENTS}/*")) == 1
    alter(f"{place}/0/0.txt", "texT 0")
    alter(f"{place}/1/2.txt", "texT 2")
    write(f"{place}/0/1.txt", "texT 1")  # which has another time
    later = Checksums()
    later.know(root)
    assert later.of(find_files([place], "k")) == [sha256("text 0"), sha256("texT 1"), sha256("text 2")]
    assert len(root.names(f"{CONTENTS}/*")) == 1  # it was not asked to keep what it has found
    later.keep()
    assert len(root.names(f"{CONTENTS}/*")) == 2
    again = Checksums()
    again.know(root)
    alter(f"{place}/0/1.txt", "text 1")
    assert again.of(find_files([place], "k"))[1] == sha256("texT 1")


def test_many_files_lie_in_several_tables_of_which_few_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "TABLE_FILES", 8)
    monkeypatch.setattr(checksums, "READ_AT_ONCE", 4)
    place = "memory://many/c"
    for number in range(40):
        write(f"{place}/{number // 10}/{number:02d}.txt", f"text {number}")
    sums = Checksums()
    sums.know(Folder(tmp_path))
    sums.keep()
    files = find_files([place], "k")
    wanted = [sha256(f"text {number}") for number in range(40)]
    assert sums.of(files) == wanted and len(Folder(tmp_path).names(f"{CONTENTS}/*")) == 5
    assert sums.of(files) == wanted and not sums._here and len(sums._opened) <= checksums.OPENED_TABLES
    for number in range(40):
        alter(files[number].path.replace("memory:///", "memory://"), f"texT {number}"[: files[number].bytes])
    later = Checksums()
    later.know(Folder(tmp_path))
    assert later.of(files[::-1]) == wanted[::-1]
    assert Checksums().of(files) == [sha256(f"texT {number}") for number in range(40)]


def test_a_damaged_table_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / CONTENTS).mkdir()
    (tmp_path / CONTENTS / "0.parquet").write_bytes(b"PAR1")
    with pytest.raises(BadInput, match=r"contents/0\.parquet: cannot be read \(.*\); remove it, and files are read"):
        Checksums().know(Folder(tmp_path))


def test_a_file_whose_folder_is_no_text_is_kept_as_any_other(tmp_path: Path) -> None:
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    (folder / "a.txt").write_text("one")
    sums = Checksums()
    sums.know(Folder(tmp_path / "root"))
    sums.keep()
    assert sums.of(find_files([str(folder / "a.txt")], "k")) == [sha256("one")]
    later = Checksums()
    later.know(Folder(tmp_path / "root"))
    (known,) = find_files([str(folder / "a.txt")], "k")
    (folder / "a.txt").unlink()
    assert later.of([known]) == [sha256("one")]
