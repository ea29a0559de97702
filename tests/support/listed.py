"""What a reader of a published corpus lists, all at once."""

from __future__ import annotations

from collections.abc import Iterable

from slamray.config.listing import Files
from slamray.data.published_corpora import CORPORA
from slamray.data.recordings import Listing


def listed(name: str, *paths: object) -> Listing:
    """The whole listing of a corpus's folders, as a recipe names them by `recorded.NAME`."""
    return whole(CORPORA[name](Files([str(path) for path in paths], f"recorded.{name}")))


def whole(listings: Iterable[Listing]) -> Listing:
    """Listings as one, without reasons that nothing was dropped for."""
    all_of_it = Listing()
    for listing in listings:
        all_of_it.recordings += listing.recordings
        all_of_it.dropped.update(listing.dropped)
    all_of_it.dropped = +all_of_it.dropped
    return all_of_it
