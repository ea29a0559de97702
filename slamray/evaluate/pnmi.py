"""Phone-normalised mutual information of units (Hsu et al. 2021, HuBERT, section IV-E), and purity."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from slamray.speech.spans import Span


def frame_phones(phones: Sequence[Span], n_frames: int, frame_seconds: float) -> list[str]:
    """The phone that sounds at the middle of each frame; frame i covers [i, i + 1) x frame_seconds.

    Frames past the last phone get its label.
    """
    ends = np.asarray([phone.end_seconds for phone in phones])
    middles = (np.arange(n_frames) + 0.5) * frame_seconds
    places = np.minimum(np.searchsorted(ends, middles, side="right"), len(phones) - 1)
    return [phones[place].text for place in places]


def pnmi(phones: Sequence[str], units: Sequence[int] | np.ndarray, without: Collection[str] = ()) -> dict[str, float]:
    """Scores of frame-wise units against frame-wise phones, frames whose phone is in `without` left out.

    pnmi: I(phone; unit) / H(phone). phone_purity: share of frames right when each unit names its commonest phone.
    cluster_purity: share of frames right when each phone names its commonest unit.
    """
    assert len(phones) == len(units)
    keep = np.asarray([phone not in without for phone in phones], bool)
    _, phone_index = np.unique(np.asarray(phones)[keep], return_inverse=True)
    _, unit_index = np.unique(np.asarray(units)[keep], return_inverse=True)
    joint = np.zeros((phone_index.max() + 1, unit_index.max() + 1))
    np.add.at(joint, (phone_index, unit_index), 1)
    joint /= joint.sum()
    of_phones, of_units = joint.sum(1), joint.sum(0)
    return {
        "pnmi": float((_entropy(of_phones) + _entropy(of_units) - _entropy(joint)) / _entropy(of_phones)),
        "phone_purity": float(joint.max(0).sum()),
        "cluster_purity": float(joint.max(1).sum()),
        "frames": float(keep.sum()),
        "phones": float(len(of_phones)),
        "units": float(len(of_units)),
    }


def _entropy(shares: np.ndarray) -> float:
    """In nats."""
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())
