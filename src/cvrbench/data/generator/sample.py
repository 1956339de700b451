"""Contexts, their histories and exposures, drawn from the world.

A context is one page view of a user: a block of rows with one `common_feature_index` and one
history. A history is a multiset of events with items; all history fields count its events, so a
crossed field of an exposed item agrees with them.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cvrbench.data.generator.values import Ints, Longs, Rng, pick
from cvrbench.data.generator.world import CROSSED, FAVOURITES, SCENE_SHARES, World

Bools = npt.NDArray[np.bool_]
Streams = Callable[[str], Rng]
"""Gives the generator of a named stream."""

MEAN_LENGTH, MAX_LENGTH = 57.9, 2000
UNNAMED = 0.0022
UNSEEN, HALF_SEEN = 0.0024, 0.0095
"""Cumulative: contexts without any history, then those that keep nothing but 150_14."""
MEAN_EVENTS, EVENTS_SIGMA, MAX_EVENTS = 330, 0.5, 4095
FAVOURITE_EVENT, REPEATED_EVENT = 0.65, 0.25
SAME_SHOP_EXPOSURE, SAME_CATEGORY_EXPOSURE = 0.14, 0.35
"""Past shops are shown, and past events repeated, as often as the real coverage of 509 asks."""
FOREIGN = {"206": 0.01, "207": 0.1, "216": 0.05, "210": 0.01}
"""Share of events whose shop and so on are never exposed; by skeleton field."""
WITH_INTENTION = 0.75
"""Share of events that count one of their item's intentions."""
ID_BITS = 24


class Tokens(NamedTuple):
    """Features of one field, rows ascending: row, id, and count (0 where the value is 1.0)."""

    row: Longs
    ids: Ints
    counts: Longs


class Contexts(NamedTuple):
    """Blocks of rows; all arrays `[contexts]`."""

    length: Longs
    user: Longs
    named: Bools
    """Whether field 101 is there."""
    seen: Bools
    """Whether there is a history at all."""
    fully: Bools
    """Whether it has more than intentions."""


class Sample(NamedTuple):
    """Contexts with their rows; `[rows]` unless said otherwise.

    Attributes:
        contexts: The blocks.
        row_context: Context of each row, ascending.
        item: Exposed item.
        scene: Value of field 301.
        histories: Tokens by skeleton field that they count, `row` being the context.
        crossed: Tokens of the crossed fields, by skeleton field.
        intentions: Row and intention of the exposed items, rows ascending.
    """

    contexts: Contexts
    row_context: Longs
    item: Longs
    scene: Longs
    histories: dict[str, Tokens]
    crossed: dict[str, Tokens]
    intentions: tuple[Longs, Ints]


class _Events(NamedTuple):
    """Past events; `start[k]` is the first of context k's `sizes[k]`."""

    context: Longs
    item: Longs
    start: Longs
    sizes: Longs


def lengths(rng: Rng, rows: int) -> Longs:
    """Rows of each context: log-normal with mean 57.9, the last cut so that they sum to `rows`."""
    drawn = np.zeros(0, np.int64)
    while drawn.sum() < rows:
        more = rng.lognormal(np.log(MEAN_LENGTH) - 0.5, 1.0, 16 + rows // 50)
        drawn = np.append(drawn, np.clip(np.rint(more), 1, MAX_LENGTH).astype(np.int64))
    ends = np.cumsum(drawn)
    n = int(np.searchsorted(ends, rows)) + 1
    drawn[n - 1] -= ends[n - 1] - rows
    return drawn[:n]


def draw(world: World, hist: float, length: Longs, stream: Streams) -> Sample:
    """Draw contexts of the given lengths, their histories and their rows."""
    contexts = _contexts(world, length, stream("contexts"))
    events = _events(world, hist, contexts, stream("events"))
    histories = _histories(world, contexts, events, stream("histories"))
    row_context = np.repeat(np.arange(len(length)), length)
    item = _exposures(world, events, row_context, stream("exposures"))
    row, intention = _intentions_of(world, item)
    values = {
        "206": (None, world.items.category[item]),
        "207": (None, world.items.shop[item]),
        "216": (None, world.items.brand[item]),
        "210": (row, intention),
    }
    rng = stream("scenes")
    shares = np.cumsum(SCENE_SHARES)
    return Sample(
        contexts=contexts,
        row_context=row_context,
        item=item,
        scene=pick(shares, rng.random(len(item)) * shares[-1]),
        histories=histories,
        crossed={
            name: _cross(world, name, histories[name], row_context, *values[name])
            for name in CROSSED
        },
        intentions=(row, intention),
    )


def _contexts(world: World, length: Longs, rng: Rng) -> Contexts:
    n = len(length)
    unseen = rng.random(n)
    return Contexts(
        length=length,
        user=pick(world.users.cum, rng.random(n)),
        named=rng.random(n) >= UNNAMED,
        seen=unseen >= UNSEEN,
        fully=unseen >= HALF_SEEN,
    )


def _events(world: World, hist: float, contexts: Contexts, rng: Rng) -> _Events:
    n = len(contexts.user)
    mean = np.log(MEAN_EVENTS * hist) - EVENTS_SIGMA**2 / 2
    count = np.rint(rng.lognormal(mean, EVENTS_SIGMA, n)).astype(np.int64)
    count = np.clip(count, 1, MAX_EVENTS) * contexts.seen
    context = np.repeat(np.arange(n), count)
    favourite = world.users.favourites[
        contexts.user[context], rng.integers(FAVOURITES, size=len(context))
    ]
    item = _items(world, favourite, rng.random(len(context)) < FAVOURITE_EVENT, rng)
    start = np.cumsum(count) - count
    again = np.flatnonzero(rng.random(len(context)) < REPEATED_EVENT)
    of = context[again]
    item[again] = item[start[of] + (rng.random(len(again)) * count[of]).astype(np.int64)]
    return _Events(context, item, start, count)


def _items(world: World, category: Ints, within: Bools, rng: Rng) -> Longs:
    """Draw an item by popularity: of the category where `within`, else of all."""
    starts = world.category_range
    edge = np.where(starts > 0, world.item_cum[starts - 1], 0.0)
    first = np.where(within, edge[category], 0.0)
    last = np.where(within, edge[category + 1], 1.0)
    return pick(world.item_cum, first + rng.random(len(category)) * (last - first))


def _histories(world: World, contexts: Contexts, events: _Events, rng: Rng) -> dict[str, Tokens]:
    """Count events by context and id; values that never occur in histories are passed over."""
    n = world.carried.n[events.item]
    slot = (rng.random(len(n)) * n).astype(np.int64)
    values = {
        "206": world.items.category[events.item],
        "207": world.items.shop[events.item],
        "216": world.items.brand[events.item],
        "210": np.where(
            (n > 0) & (rng.random(len(n)) < WITH_INTENTION),
            _intention(world, events.item, slot),
            -1,
        ),
    }
    histories = {}
    for name, value in values.items():
        crossing = world.crossings[name]
        ids = crossing.past[value]
        # A small world may have no value of its own for histories.
        foreign = rng.random(len(ids)) < (FOREIGN[name] if len(crossing.foreign) else 0.0)
        # The cube prefers low numbers: some foreign values are popular too.
        other = rng.random(int(foreign.sum())) ** 3 * len(crossing.foreign)
        ids[foreign] = crossing.foreign[other.astype(np.int64)]
        known = ids > 0
        if name != "210":
            known &= contexts.fully[events.context]
        key, count = np.unique(_key(events.context[known], ids[known]), return_counts=True)
        row = key >> ID_BITS
        histories[name] = Tokens(row, (key & ((1 << ID_BITS) - 1)).astype(np.int32), count)
    return histories


def _key(row: Longs, ids: Ints) -> Longs:
    """One number for a row and an id, ordered by row first."""
    return np.asarray((row << ID_BITS) | ids)


def _intention(world: World, item: Longs, slot: Longs) -> Ints:
    """The intention that an item has in a slot of its own."""
    carried = world.carried
    return carried.pools[world.items.category[item], carried.patterns[carried.pattern[item], slot]]


def _exposures(world: World, events: _Events, context: Longs, rng: Rng) -> Longs:
    """Items shown: of a past event's shop, of its category, or popular ones."""
    n = len(context)
    past = events.sizes[context]
    kind = np.where(past > 0, rng.random(n), 1.0)
    event = events.start[context] + (rng.random(n) * past).astype(np.int64)
    seen = events.item[np.minimum(event, len(events.item) - 1)] if len(events.item) else event * 0
    within = kind < SAME_SHOP_EXPOSURE + SAME_CATEGORY_EXPOSURE
    item = _items(world, world.items.category[seen], within, rng)
    again = np.flatnonzero(kind < SAME_SHOP_EXPOSURE)
    shop = world.items.shop[seen[again]]
    first, last = world.shop_range[shop], world.shop_range[shop + 1]
    item[again] = world.shop_items[first + (rng.random(len(again)) * (last - first)).astype(int)]
    return item


def _intentions_of(world: World, item: Longs) -> tuple[Longs, Ints]:
    n = world.carried.n[item].astype(np.int64)
    row = np.repeat(np.arange(len(item)), n)
    slot = np.arange(len(row)) - np.repeat(np.cumsum(n) - n, n)
    return row, _intention(world, item[row], slot)


def _cross(
    world: World, name: str, history: Tokens, context: Longs, row: Longs | None, value: Ints
) -> Tokens:
    """Tokens of the values that the row's history has, with their counts there."""
    crossing = world.crossings[name]
    rows = np.arange(len(value)) if row is None else row
    known = _key(history.row, history.ids)
    wanted = _key(context[rows], crossing.past[value])
    if len(known) == 0:
        return Tokens(rows[:0], crossing.crossed[value[:0]], rows[:0])
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    hit = np.flatnonzero(known[at] == wanted)
    return Tokens(rows[hit], crossing.crossed[value[hit]], history.counts[at[hit]])
