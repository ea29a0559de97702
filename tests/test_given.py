"""Files as people have them: hidden companions, links, suffixes, encodings, weights that are not all there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from slamray.config.checksums import CHECKSUMS, Checksums
from slamray.config.listing import File, find_files
from slamray.config.outside import listing_content
from slamray.errors import BadInput
from slamray.given import check_weights, decode, files_below, opening, reason_of
from slamray.stage.folder import Folder

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def write(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def names(given: Path, *suffixes: str) -> list[str]:
    return [file.name for file in find_files([str(given)], "corpus.paths", suffixes)]


def test_what_file_managers_archives_and_notebooks_leave_is_no_file_of_a_corpus(tmp_path: Path) -> None:
    for name in ("a.jsonl", "._a.jsonl", ".DS_Store", "Thumbs.db", "__MACOSX/a.jsonl", "x/__MACOSX/._b.jsonl",
                 ".ipynb_checkpoints/a-checkpoint.jsonl", "x/b.jsonl", "@eaDir/b.jsonl"):  # fmt: skip
        write(tmp_path / "corpus" / name)
    assert names(tmp_path / "corpus") == ["corpus/a.jsonl", "corpus/x/b.jsonl"]
    assert names(tmp_path / "corpus" / "**" / "*.jsonl") == ["corpus/a.jsonl", "corpus/x/b.jsonl"]
    hidden = write(tmp_path / ".cache" / "a.jsonl")
    assert names(hidden.parent) == [".cache/a.jsonl"] and names(hidden) == ["a.jsonl"]  # whoever names it wants it


def test_a_suffix_counts_in_letters_of_either_case(tmp_path: Path) -> None:
    for name in ("a.FLAC", "b.Flac", "c.flac", "d.wav"):
        write(tmp_path / "sounds" / name)
    assert names(tmp_path / "sounds", ".flac") == ["sounds/a.FLAC", "sounds/b.Flac", "sounds/c.flac"]


def test_links_are_followed_each_folder_once_and_loops_end(tmp_path: Path) -> None:
    write(tmp_path / "disk" / "1" / "a.flac")
    write(tmp_path / "LibriSpeech" / "train-clean-100" / "2" / "b.flac")
    root = tmp_path / "LibriSpeech"
    (root / "dev-clean").symlink_to(tmp_path / "disk")
    (root / "again").symlink_to(root / "train-clean-100")  # stands before what it leads to
    (root / "train-clean-100" / "2" / "up").symlink_to(root)
    (root / "one.flac").symlink_to(tmp_path / "disk" / "1" / "a.flac")
    expected = ["LibriSpeech/dev-clean/1/a.flac", "LibriSpeech/one.flac", "LibriSpeech/train-clean-100/2/b.flac"]
    assert names(root) == expected
    (tmp_path / "link").symlink_to(root)
    assert names(tmp_path / "link") == [name.replace("LibriSpeech", "link") for name in expected]
    assert names(root / "dev-*" / "**" / "*.flac") == expected[:1]
    (root / "test-clean").symlink_to(tmp_path / "gone")
    with pytest.raises(BadInput, match=r"corpus.paths: .*test-clean: a link to .*gone, which is not there"):
        names(root)


def test_a_name_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    with pytest.raises(BadInput, match=r"corpus.paths: 'texts/caf.*\.txt': a name that is not UTF-8; rename the file"):
        names(tmp_path / "texts")


def test_a_home_is_opened_wherever_a_path_begins_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "texts" / "a.jsonl")
    assert names(Path("~/texts")) == ["texts/a.jsonl"]


def test_an_edit_of_the_same_size_is_another_data_set_and_a_copy_elsewhere_is_the_same(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a" / "c" / "1.txt", "one two"), write(tmp_path / "b" / "c" / "1.txt", "one two")
    same = [listing_content(find_files([str(path.parent)], "k")) for path in (first, second)]
    assert same[0] == same[1] and (same[0]["files"], same[0]["bytes"]) == (1, 7)
    second.write_text("two one")
    assert listing_content(find_files([str(second.parent)], "k")) != same[0]


def test_a_file_is_read_again_only_when_its_size_or_times_changed(tmp_path: Path) -> None:
    path, root = write(tmp_path / "a.txt", "one"), Folder(tmp_path / "root")
    sums = Checksums()
    sums.know(root)
    sums.keep()
    (before,) = sums.of(find_files([str(path)], "k"))
    written = root.names("contents/*")
    assert sums.of(find_files([str(path)], "k")) == [before] and len(written) == 1
    (known,) = find_files([str(path)], "k")
    path.write_text("two")
    later = Checksums()
    later.know(root)
    assert later.of([known]) == [before]  # as it was, though it is another one by now
    sums.of(find_files(["assets:stories.jsonl.gz"], "k"))  # of the package, which lies elsewhere in a job's copy of it
    assert root.names("contents/*") == written
    assert later.of(find_files([str(path)], "k")) != [before]


def test_a_data_set_without_times_is_known_by_what_is_in_it() -> None:
    import fsspec

    with fsspec.open("memory://texts/a.txt", "wb") as file:
        file.write(b"one")
    assert CHECKSUMS.of([File("a.txt", "memory://texts/a.txt", 3)]) == [
        "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"  # echo -n one | sha256sum
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_is_decoded_by_its_byte_order_mark(encoding: str) -> None:
    assert decode("caf\u00e9".encode(encoding)) == "caf\u00e9"


def test_weights_that_are_not_all_there_are_said_to_be_so(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1000)}, tmp_path / "model.safetensors")
    check_weights(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    for name, content, reason in (
        ("model.safetensors", POINTER.encode(), r"model\.safetensors: a pointer of Git LFS, .*`git lfs pull`"),
        ("model.safetensors", whole[:-100], rf"cut or damaged: {len(whole) - 100:,} bytes of {len(whole):,}"),
        ("model.safetensors", whole[:40], r"cut or damaged: 40 bytes"),
        ("model.safetensors", b"", r"model\.safetensors: empty; fetch it again"),
        ("model.safetensors", b"<html>not found</html>", r"cut or damaged"),
        ("pytorch_model.bin", POINTER.encode(), r"pytorch_model\.bin: a pointer of Git LFS"),
        ("tokenizer.json", POINTER.encode(), r"tokenizer\.json: a pointer of Git LFS"),
    ):
        (tmp_path / "model.safetensors").write_bytes(whole)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=reason):
            check_weights(tmp_path)
        (tmp_path / name).unlink()


def test_whatever_a_library_says_is_one_line_without_addresses() -> None:
    class Odd(Exception):
        pass

    said = Odd(f"Error opening {object()!r}: no\nsecond line")
    assert reason_of(said) == "Error opening the file: no"
    assert reason_of(IndexError("list index out of range")) == "IndexError: list index out of range"
    with (
        pytest.raises(BadInput, match=r"^a\.bin: cannot be read \(KeyError: 'x'\); repair or remove it$"),
        opening("a.bin"),
    ):
        raise KeyError("x")


def test_a_folder_that_cannot_be_listed_is_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files_below(tmp_path / "nowhere")
