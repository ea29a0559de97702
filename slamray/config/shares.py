"""Shares of a mixture of kinds and sources: fixed ones, whole epochs of what there is, and the rest.

The rule of 2411.17607 (docs/paper.md 2.4):

    {text: 0.3, speech: epochs:1, asr: epochs:1, tts: epochs:1, synthetic: rest}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slamray.errors import BadInput

EPOCHS, REST = "epochs:", "rest"
Share = float | str  # of the training tokens; or `epochs:N`; or `rest`


def is_read(share: Share) -> bool:
    """Whether anything of it is read at all."""
    return isinstance(share, str) or share > 0


def epochs_of(share: Share) -> float | None:
    """N of `epochs:N`; None of other shares. ValueError where N is no number above 0."""
    if not isinstance(share, str) or share == REST:
        return None
    try:
        found = float(share.removeprefix(EPOCHS)) if share.startswith(EPOCHS) else 0.0
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ValueError(f"{share!r} is no share: say a number such as 0.3, epochs:1, or rest")
    return found


@dataclass(frozen=True)
class Reading:
    """How much is read of one source: its share of the tokens, how many there are, None where that is not known.

    read: tokens in all of training, and epochs of the source that these are; None where the budget says no tokens.
    """

    name: str
    share: float | None
    tokens: int | None
    read: float | None
    epochs: float | None


def resolve(
    shares: Mapping[str, Share], tokens: Mapping[str, int | None], budget_tokens: float | None
) -> list[Reading]:
    """What is read of each source, by its share; None for what depends on numbers that are not known yet.

    tokens: training tokens of each source. budget_tokens: of the whole training. BadInput where whole epochs and fixed
    shares are more than there are tokens to read.
    """
    known: dict[str, float | None] = {}
    for name, share in shares.items():
        epochs, there = epochs_of(share), tokens.get(name)
        if epochs is not None:
            known[name] = None if there is None or budget_tokens is None else epochs * there / budget_tokens
        elif not isinstance(share, str):
            known[name] = share
    given = [share for share in known.values() if share is not None]
    if REST in shares.values():
        if sum(given) >= 1 - 1e-9:
            named = ", ".join(f"{name} {share:.3g}" for name, share in known.items() if share is not None)
            raise BadInput(
                f"joint.kinds: {named} leave nothing for the rest; read fewer epochs, or raise pretrain.budget"
            )
        rest = None if len(given) < len(known) else 1 - sum(given)
        known |= {name: rest for name, share in shares.items() if share == REST}
    return [_reading(name, known[name], tokens.get(name), budget_tokens) for name in shares]


def _reading(name: str, share: float | None, tokens: int | None, budget_tokens: float | None) -> Reading:
    read = None if share is None or budget_tokens is None else share * budget_tokens
    return Reading(name, share, tokens, read, read / tokens if read is not None and tokens else None)
