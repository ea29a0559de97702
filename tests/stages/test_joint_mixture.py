"""Shares of kinds and sources: fixed, whole epochs and the rest, against sums by hand; and what a plan says of them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from support.machine import InProcess

from slamray.commands.run import main
from slamray.config.load import load_recipe
from slamray.config.model import PackSettings
from slamray.config.shares import Reading, resolve
from slamray.data.text import TRAIN, VALIDATION
from slamray.errors import BadInput
from slamray.recipe.slam import build
from slamray.stage.folder import Folder
from slamray.stages import joint_rows
from slamray.stages.joint_documents import SCHEMA
from slamray.tokens.vocabulary import Vocabulary

JOINT = Vocabulary.joint(Vocabulary.of_text(100, 0, 1, "t"), Vocabulary.of_units(5, "u"))
RULE = {"text": 0.3, "speech": "epochs:1", "asr": "epochs:2", "synthetic": "rest"}


def test_the_rest_is_what_fixed_shares_and_whole_epochs_leave() -> None:
    found = resolve(RULE, {"text": 9_000, "speech": 100, "asr": 25, "synthetic": 1_200}, 1_000)
    # 30 %, 100 of 1,000, twice 25 of 1,000, and what is left
    assert [one.name for one in found] == list(RULE)
    assert [one.share for one in found] == pytest.approx([0.3, 0.1, 0.05, 0.55])
    assert [one.read for one in found] == pytest.approx([300, 100, 50, 550])
    assert [one.epochs for one in found] == pytest.approx([300 / 9_000, 1, 2, 550 / 1_200])


def test_what_is_not_known_yet_leaves_the_rest_open() -> None:
    found = resolve(RULE, {"speech": 100}, 1_000)
    assert found[0] == Reading("text", 0.3, None, 300, None)
    assert found[1] == Reading("speech", 0.1, 100, 100, 1)
    assert [one.share for one in found[2:]] == [None, None]


def test_epochs_that_leave_nothing_are_refused_by_their_shares() -> None:
    with pytest.raises(BadInput, match=r"text 0.3, speech 0.8, asr 0.05 leave nothing for the rest; read fewer epochs"):
        resolve(RULE, {"speech": 800, "asr": 25}, 1_000)


def documents(folder: Folder, name: str, kinds: dict[str, tuple[int, int]]) -> None:
    """{kind: (documents, tokens of each)} in one part."""
    rows = [
        {"kind": kind, "doc_id": f"{kind}{n}", "ids": [1, *[2 + n % 90] * (length - 2), 1], "mask": None}
        for kind, (count, length) in kinds.items()
        for n in range(count)
    ]
    folder.write_table(f"{name}/part-00000.parquet", pa.Table.from_pylist(rows, SCHEMA))


def test_rows_are_read_by_whole_epochs_of_each_source_and_the_rest(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "documents")
    for split in (TRAIN, VALIDATION):
        documents(folder, f"{split}/text", {"text": (200, 50)})
        documents(folder, f"{split}/audio-units", {"speech": (40, 25)})
        documents(folder, f"{split}/audio-librispeech", {"speech": (20, 50), "interleaved": (120, 50)})
    kinds = {"text": 0.3, "speech/stories": "epochs:1", "speech/librispeech": "epochs:2", "interleaved": "rest"}
    out = Folder(tmp_path / "rows")
    facts = joint_rows.run({"documents": folder}, out, InProcess(), PackSettings(context=100), kinds, JOINT, 10_000)
    sources = facts[TRAIN]["sources"]
    assert {name: source["tokens"] for name, source in sources.items()} == {
        "text": 10_000, "speech/stories": 1_000, "speech/librispeech": 1_000, "interleaved": 6_000,
    }  # fmt: skip
    # one epoch of 1,000 and two of 1,000, of 10,000 tokens
    assert [source["weight"] for source in sources.values()] == pytest.approx([0.3, 0.1, 0.2, 0.4])
    assert [source["token_share"] for source in sources.values()] == pytest.approx([0.3, 0.1, 0.2, 0.4], abs=0.01)
    epochs = {name: 10_000 * source["token_share"] / source["tokens"] for name, source in sources.items()}
    assert epochs["speech/stories"] == pytest.approx(1, abs=0.1)
    assert epochs["speech/librispeech"] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ("{text: 0.5, story: 0.5}", r"joint.kinds=.*story: no such kind; there are text speech"),
        ("{text: 0.5, speech: half}", r"'half' is no share: say a number such as 0.3, epochs:1, or rest"),
        ("{text: 0.5, speech: epochs:0}", r"'epochs:0' is no share"),
        ("{text: 0.5, speech: 0.6}", r"joint.kinds: .* they sum to 1.1, not to 1"),
        ("{text: 0.5, speech: epochs:1}", r"joint.kinds: beside shares in epochs one must be the rest"),
        ("{text: rest, speech: rest}", r"joint.kinds: one of text, speech alone can be the rest"),
        ("{text: 1.0, speech: rest}", r"joint.kinds: 1 of the tokens are given away, nothing is left for speech"),
        ("{text: 0.5, speech: 0.2, speech/stories: 0.3}", r"speech as a whole has a share, too"),
        ("{text: 0.5, speech/radio: 0.5}", r"joint.kinds.speech/radio: no source is called radio; there are stories"),
        ("{text: 0.5, speech: epochs:1, interleaved: rest}", r"pretrain.budget=time:4m does not say; give it in"),
    ],
)
def test_shares_that_are_none_are_refused_before_any_work(kinds: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build(load_recipe(["recipe=interleaved_laptop", "profile=laptop", f"joint.kinds={kinds}"]))


def test_a_plan_says_share_and_tokens_of_each_kind_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["recipe=interleaved_laptop", "profile=laptop", f"root={tmp_path}", "pretrain.budget=tokens:1_000_000"]
    kinds = "joint.kinds={text: 0.3, speech: epochs:1, synthetic: rest}"
    assert main([*words, kinds, "--plan"], build) == 0
    said = capsys.readouterr().out.splitlines()
    (first,) = (number for number, line in enumerate(said) if line.startswith("what it reads"))
    told = [" ".join(line.split()) for line in said[first + 1 : first + 4]]
    made = "how many there are is known when they are made"
    assert told == [
        f"text 30.00 % 300,000 tokens; {made}",
        f"speech ? ?, as its share is not known yet; {made}",
        f"synthetic ? ?, as its share is not known yet; {made}",
    ]
