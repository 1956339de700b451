"""Options of a generation, the world that its rows are drawn from, and the drawing of rows.

An item belongs to a shop; its category is the shop's main one for 75 % of items and its brand,
where it has one, the shop's for 71 %. A category has leading brands, and a pool of 40 intentions of
which an item carries up to 14. Every value has planted effects, drawn from N(0, 1). Popularity is
log-normal; the deviations reproduce how many values of the real fields are left at a threshold of
12 occurrences.

A context is one page view of a user: a block of rows with one `common_feature_index` and one
history. A history is a multiset of events with items; all history fields count its events, so a
crossed field of an exposed item agrees with them.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cvrbench.data.sources.aliccp import BY_NAME
from cvrbench.errors import DataError
from cvrbench.system.rng import numpy_stream

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Small = npt.NDArray[np.uint8]
Rng = np.random.Generator
Streams = Callable[[str], Rng]
"""Returns the generator of a named stream."""

MIN_ROWS, MAX_ROWS = 10, 10**12
MAX_SCALE = 10.0
"""Largest `card`: the blocks of ids hold no more values than the real files have."""
MIN_VALUES = 50
"""Least number of values of a field that is scaled; a pool of intentions needs 40."""
PROFILE_MAX = 100
"""Fields with fewer values are never scaled: profile and scene."""
SIGMA = {"101": 1.52, "205": 2.2, "206": 2.4, "207": 1.9, "216": 1.3}
"""Those of 206, 207 and 216 are smaller than what is seen in rows, to which items add theirs."""
SAME_CATEGORY, SAME_BRAND, HAS_BRAND = 0.75, 0.71, 0.7114
LEADERS, LED, LEADER_SKEW = 20, 0.6, 3
"""A category's leading brands, the share of its shops and items that they have, and its skew."""
POOL, MAX_INTENTIONS, MEAN_INTENTIONS, NO_INTENTION = 40, 14, 6.1, 1e-4
PATTERNS, PATTERN_SKEW = 4096, 0.08
FAVOURITES, FACTORS = 14, 8
PROFILE = ("121", "122", "124", "125", "126", "127", "128", "129")
PROFILE_COVERAGE = 0.8702
PARTIAL = {"126": 0.4158, "129": 0.6370}
"""Coverage of the fields that not every known profile has."""
SCENE_SHARES = (32.24, 0.64, 52.44)
CROSSED = {
    "206": ("109_14", "508"),
    "207": ("110_14", "509"),
    "216": ("127_14", "702"),
    "210": ("150_14", "853"),
}
"""Skeleton field: the history that counts its values, and the field that crosses the two."""
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


def log_of_count(count: Doubles) -> list[str]:
    """Return ln(1 + count) with five decimals, trailing zeros cut."""
    texts = [f"{value:.5f}".rstrip("0") for value in np.log1p(count)]
    return [text + "0" if text.endswith(".") else text for text in texts]


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """A generation; the same values give the same bytes, whatever the number of workers."""

    rows: int
    """Skeleton rows of the training half."""
    test_rows: int
    seed: int
    card: float = 1.0
    """Scale of the number of values of a field, 1 = the real training rows'."""
    hist: float = 1.0
    """Scale of the length of the users' histories, 1 = the real files'."""
    ctr: float = 0.03887
    """Share of rows that are clicked."""
    cvr: float = 0.00535
    """Share of clicked rows that convert."""
    conflict: float = 0.8
    """Strength of the effect that acts on the two tasks with opposite signs."""
    anomaly: float = 5.4e-6
    """Share of rows with click = 0 and conversion = 1."""
    replay: int | None = None
    """Rows of a base block that is repeated with fresh ids, keys and labels until `rows` are
    reached (10^6 is a good block); None draws every row anew. The base block is held in memory:
    about 0.5 GB per 10^6 rows at `hist=1`."""

    def check(self) -> None:
        """Refuse what cannot be generated.

        Raises:
            DataError: An option is out of its range.
        """
        least, below_1 = sys.float_info.min, math.nextafter(1, 0)
        rows = (MIN_ROWS, MAX_ROWS, f"{MIN_ROWS} to {MAX_ROWS:,}")
        scale = (least, MAX_SCALE, f"above 0, at most {MAX_SCALE:g}")
        share = (least, below_1, "between 0 and 1")
        ranges: dict[str, tuple[float, float, str]] = {
            "rows": rows, "test_rows": rows, "replay": rows, "card": scale, "hist": scale,
            "ctr": share, "cvr": share, "anomaly": (0, below_1, "0 or more and below 1"),
            "seed": (0, math.inf, "0 or more"), "conflict": (0, sys.float_info.max, "0 or more"),
        }  # fmt: skip
        for name, (low, high, allowed) in ranges.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise DataError(f"{name}={value} cannot be generated: give {allowed}")


class Crossing(NamedTuple):
    """Ids of a skeleton field's values, `[values]`; 0 where a value has no such id."""

    exposed: Ints
    """In the skeleton."""
    past: Ints
    """In histories: unpopular values never occur there."""
    crossed: Ints
    """In the crossed field, one for each id in `past`."""
    foreign: Ints
    """In histories, of values that are never exposed."""


class World:
    """Everything that rows are drawn from: u users, i items sorted by category, c categories.

    It depends on nothing but the seed and the scale of its fields.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        """Draw the world."""

        def stream(*names: str) -> Rng:
            return numpy_stream(config.seed, "world", *names)

        n = {k: _size(k, config.card) for k in ("101", "205", "206", "207", "210", "216")}
        # [i]; the brand is -1 where an item has none.
        self.shop, self.category, self.brand = _catalogue(stream("catalogue"), n)
        weight = _popularity(stream("items"), "205", n["205"])
        self.item_cum = np.cumsum(weight)  # [i], ascending to 1; a category is a range of it
        self.item_cum /= self.item_cum[-1]
        self.item_id = _spread(stream("ids", "205"), "205", n["205"])  # [i]
        self.category_range = _starts(self.category, n["206"])  # first item of each, [c + 1]
        self.shop_items = np.argsort(self.shop, kind="stable").astype(np.int32)
        self.shop_range = _starts(self.shop, n["207"])  # where each shop's items begin
        # How many intentions an item has and its pattern, [i]; the patterns' slots of a category's
        # pool, [4096, 14], of which an item has the first ones; and the pools, [c, 40].
        self.n_intentions, self.pattern, self.patterns, self.pools = _intentions(
            stream("intentions"), n
        )
        weights = {
            "206": _mass(self.category, weight, n["206"]),
            "207": _mass(self.shop, weight, n["207"]),
            "216": _mass(self.brand, weight, n["216"]),
        }
        weights["210"] = _mass(self.pools.ravel(), np.repeat(weights["206"], POOL), n["210"])
        # Ids of field 101 and activity ascending to 1, [u]; values of the profile, 0 where they are
        # missing, else 1 + value, [u, 8]; categories, [u, 14]; factors, [u, 8].
        self.user_id, self.user_cum, self.profile, self.favourites, self.user_factors = _users(
            stream("users"), n["101"], np.cumsum(weights["206"])
        )
        self.category_factors = _normal(stream("factors"), n["206"], FACTORS)
        self.crossings = {
            k: _crossing(stream("ids", k), k, weights[k], config.card) for k in CROSSED
        }
        # By field; those of profile fields begin with 0 for a missing value, those of brands end
        # with 0 for none.
        self.effects = _effects(lambda name: stream("effects", name), n)

    def intention(self, item: Longs, slot: Longs) -> Ints:
        """Return the intention that an item has in a slot of its own."""
        return self.pools[self.category[item], self.patterns[self.pattern[item], slot]]


def few(name: str) -> Ints:
    """Return the ids of a short field's values: the first of its block, as in the real files."""
    return BY_NAME[name].first + np.arange(BY_NAME[name].distinct, dtype=np.int32)


def pick(cum: Doubles, u: Doubles) -> Longs:
    """Draw by cumulative weights; `u` is uniform in `[0, 1)` times the last of them."""
    return np.minimum(np.searchsorted(cum, u, side="right"), len(cum) - 1)


def _size(name: str, card: float) -> int:
    """Number of values of a field in the world; what a short field has is not scaled."""
    field = BY_NAME[name]
    if field.distinct < PROFILE_MAX:
        return field.distinct
    return min(max(MIN_VALUES, round(field.distinct * card)), field.high - field.first + 1)


def _spread(rng: Rng, name: str, n: int) -> Ints:
    """Choose `n` distinct ids over a field's whole block, in random order."""
    first, last = BY_NAME[name].first, BY_NAME[name].high
    edges = first + np.arange(n + 1) * (last - first + 1) // n
    ids = edges[:-1] + (rng.random(n) * np.diff(edges)).astype(np.int64)
    return rng.permutation(ids.astype(np.int32))


def _popularity(rng: Rng, name: str, n: int) -> Doubles:
    return np.asarray(np.exp(SIGMA[name] * rng.standard_normal(n)))


def _normal(rng: Rng, *shape: int) -> Floats:
    return np.asarray(rng.standard_normal(shape, dtype=np.float32))


def _starts(values: Ints, n: int) -> Longs:
    """Where each value's entries begin once they are sorted, `[n + 1]`."""
    return np.concatenate([[0], np.cumsum(np.bincount(values, minlength=n))])


def _mass(values: Ints, weight: Doubles, n: int) -> Doubles:
    """Sum of the weights of each value, `[n]`; a value of -1 is not counted."""
    return np.bincount(values + 1, weight, n + 1)[1:].astype(np.float64)


def _profile_shares(name: str) -> Doubles:
    """How users spread over a profile field's values: mildly skewed, the same in every world."""
    weight = 1 / (2.0 + np.arange(BY_NAME[name].distinct))
    return np.asarray(weight / weight.sum())


def _catalogue(rng: Rng, n: dict[str, int]) -> tuple[Ints, Ints, Ints]:
    """Draw each item's shop, category and brand, the items sorted by category."""
    cums = {name: np.cumsum(_popularity(rng, name, n[name])) for name in ("206", "207", "216")}

    def draw(name: str, times: int) -> Ints:
        return pick(cums[name], rng.random(times) * cums[name][-1]).astype(np.int32)

    shop = draw("207", n["205"])
    # Every shop sells something; the rest of the items go to the large ones.
    shop[: n["207"]] = np.arange(min(n["207"], n["205"]))
    main = draw("206", n["207"])
    other = rng.random(n["205"]) >= SAME_CATEGORY
    category = main[shop]
    category[other] = draw("206", int(other.sum()))
    order = np.argsort(category, kind="stable")
    category, shop = category[order], shop[order]
    leaders = rng.integers(n["216"], size=(n["206"], LEADERS), dtype=np.int32)

    def led(category: Ints, otherwise: Ints) -> Ints:
        """Mostly one of the category's leading brands, the first of them more often."""
        place = (rng.random(len(category)) ** LEADER_SKEW * LEADERS).astype(np.int64)
        return np.where(rng.random(len(category)) < LED, leaders[category, place], otherwise)

    brand = led(main, draw("216", n["207"]))[shop]
    other = rng.random(n["205"]) >= SAME_BRAND
    brand = np.where(other, led(category, brand), brand)
    brand[rng.random(n["205"]) >= HAS_BRAND] = -1
    return shop, category, brand


def _intentions(rng: Rng, n: dict[str, int]) -> tuple[Small, npt.NDArray[np.uint16], Small, Ints]:
    """Draw how many intentions items have, their patterns, the patterns' slots, and the pools."""
    most, items = MAX_INTENTIONS, n["205"]
    some = 1 + rng.binomial(most - 1, (MEAN_INTENTIONS - 1) / (most - 1), items)
    some[rng.random(items) < NO_INTENTION] = 0
    # Drawing without replacement by weights is sorting by weight plus Gumbel noise.
    noisy = rng.gumbel(size=(PATTERNS, POOL)) - PATTERN_SKEW * np.arange(POOL)
    pattern = rng.integers(PATTERNS, size=items, dtype=np.uint16)
    # A pool has one intention from each fortieth of them, the first ones more often.
    edges = np.arange(POOL + 1) * n["210"] // POOL
    offset = (rng.random((n["206"], POOL)) ** 2 * np.diff(edges)).astype(np.int64)
    pools = rng.permuted((edges[:-1] + offset).astype(np.int32), axis=1)
    slots = np.argsort(-noisy, axis=1)[:, :most].astype(np.uint8)
    return some.astype(np.uint8), pattern, slots, pools


def _crossing(rng: Rng, name: str, weight: Doubles, card: float) -> Crossing:
    """Draw the ids of values; only the most popular are shared with the histories."""
    history, cross = CROSSED[name]
    past_ids = _spread(rng, history, _size(history, card))
    cross_ids = _spread(rng, cross, _size(cross, card))
    shared = np.argsort(-weight, kind="stable")[: len(cross_ids)]
    n = len(shared)
    past, crossed = np.zeros((2, len(weight) + 1), np.int32)
    past[shared], crossed[shared] = past_ids[:n], cross_ids[:n]
    exposed = np.append(_spread(rng, name, len(weight)), np.int32(0))
    return Crossing(exposed, past, crossed, past_ids[n:])


def _users(rng: Rng, n: int, category_cum: Doubles) -> tuple[Ints, Doubles, Small, Ints, Floats]:
    """Draw ids, activity, profiles, favourite categories and factors."""
    favourites = pick(category_cum, rng.random((n, FAVOURITES)) * category_cum[-1])
    profile = np.zeros((n, len(PROFILE)), np.uint8)
    known = rng.random(n) < PROFILE_COVERAGE
    for column, name in enumerate(PROFILE):
        shares = np.cumsum(_profile_shares(name))
        told = known & (rng.random(n) * PROFILE_COVERAGE < PARTIAL.get(name, 1))
        profile[:, column] = np.where(told, 1 + pick(shares, rng.random(n) * shares[-1]), 0)
    activity = np.cumsum(_popularity(rng, "101", n))
    ids = _spread(rng, "101", n)
    factors = _normal(rng, n, FACTORS)
    return ids, activity / activity[-1], profile, favourites.astype(np.int32), factors


def _effects(stream: Streams, n: dict[str, int]) -> dict[str, Floats]:
    effects = {name: _normal(stream(name), n[name]) for name in ("205", "206", "207")}
    effects["216"] = np.append(_normal(stream("216"), n["216"]), np.float32(0))
    for name in ("121", "125", "126", "127"):
        effects[name] = np.append(np.float32(0), _even(stream(name), _profile_shares(name)))
    scene = np.array(SCENE_SHARES)
    effects["301"] = _even(stream("301"), scene / scene.sum())
    return effects


def _even(rng: Rng, shares: Doubles) -> Floats:
    """Effects with mean 0 and variance 1: chance would make those of three values anything."""
    effect = rng.standard_normal(len(shares))
    effect -= shares @ effect
    return np.asarray(effect / np.sqrt(shares @ effect**2), dtype=np.float32)


class Tokens(NamedTuple):
    """Features of one field, rows ascending: row, id, and count (0 where the value is 1.0)."""

    row: Longs
    ids: Ints
    counts: Longs


class Sample(NamedTuple):
    """Contexts with their rows."""

    length: Longs  # rows of each context
    user: Longs  # [contexts]
    named: Bools  # whether field 101 is there, [contexts]
    context: Longs  # of each row, ascending
    item: Longs  # exposed, [rows]
    scene: Longs  # value of field 301, [rows]
    histories: dict[str, Tokens]  # by skeleton field that they count; `row` is the context
    crossed: dict[str, Tokens]  # of the crossed fields, by skeleton field
    intentions: tuple[Longs, Ints]  # row and intention of the exposed items, rows ascending


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


def draw(world: World, config: GeneratorConfig, length: Longs, stream: Streams) -> Sample:
    """Draw contexts of the given lengths, their histories and their rows."""
    rng, n = stream("contexts"), len(length)
    unseen, user, named = rng.random(n), pick(world.user_cum, rng.random(n)), rng.random(n)
    events = _events(world, config.hist, user, unseen >= UNSEEN, stream("events"))
    histories = _histories(world, unseen >= HALF_SEEN, events, stream("histories"))
    # A line must have a feature: one with neither profile nor history names its user.
    told: Bools = np.asarray(world.profile[user].any(axis=1))
    for history in histories.values():
        told[history.row] = True
    context = np.repeat(np.arange(n), length)
    item = _exposures(world, events, context, stream("exposures"))
    carried = world.n_intentions[item].astype(np.int64)
    row = np.repeat(np.arange(len(item)), carried)
    slot = np.arange(len(row)) - np.repeat(np.cumsum(carried) - carried, carried)
    intention, every = world.intention(item[row], slot), np.arange(len(item))
    values = {
        "206": (every, world.category[item]),
        "207": (every, world.shop[item]),
        "216": (every, world.brand[item]),
        "210": (row, intention),
    }
    shares = np.cumsum(SCENE_SHARES)
    return Sample(
        length=length,
        user=user,
        named=(named >= UNNAMED) | ~told,
        context=context,
        item=item,
        scene=pick(shares, stream("scenes").random(len(item)) * shares[-1]),
        histories=histories,
        crossed={k: _cross(world, k, histories[k], context, *values[k]) for k in CROSSED},
        intentions=(row, intention),
    )


def _events(world: World, hist: float, user: Longs, seen: Bools, rng: Rng) -> _Events:
    n = len(user)
    mean = np.log(MEAN_EVENTS * hist) - EVENTS_SIGMA**2 / 2
    count = np.rint(rng.lognormal(mean, EVENTS_SIGMA, n)).astype(np.int64)
    count = np.clip(count, 1, MAX_EVENTS) * seen
    context = np.repeat(np.arange(n), count)
    favourite = world.favourites[user[context], rng.integers(FAVOURITES, size=len(context))]
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


def _histories(world: World, fully: Bools, events: _Events, rng: Rng) -> dict[str, Tokens]:
    """Count events by context and id; values that never occur in histories are passed over."""
    n = world.n_intentions[events.item]
    slot = (rng.random(len(n)) * n).astype(np.int64)
    has_intention = (n > 0) & (rng.random(len(n)) < WITH_INTENTION)
    values = {
        "206": world.category[events.item],
        "207": world.shop[events.item],
        "216": world.brand[events.item],
        "210": np.where(has_intention, world.intention(events.item, slot), -1),
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
            known &= fully[events.context]
        key, count = np.unique(_key(events.context[known], ids[known]), return_counts=True)
        ids = (key & ((1 << ID_BITS) - 1)).astype(np.int32)
        histories[name] = Tokens(key >> ID_BITS, ids, count)
    return histories


def _key(row: Longs, ids: Ints) -> Longs:
    """One number for a row and an id, ordered by row first."""
    return np.asarray((row << ID_BITS) | ids)


def _exposures(world: World, events: _Events, context: Longs, rng: Rng) -> Longs:
    """Items shown: of a past event's shop, of its category, or popular ones."""
    n = len(context)
    past = events.sizes[context]
    kind = np.where(past > 0, rng.random(n), 1.0)
    event = events.start[context] + (rng.random(n) * past).astype(np.int64)
    seen = events.item[np.minimum(event, len(events.item) - 1)] if len(events.item) else event * 0
    within = kind < SAME_SHOP_EXPOSURE + SAME_CATEGORY_EXPOSURE
    item = _items(world, world.category[seen], within, rng)
    again = np.flatnonzero(kind < SAME_SHOP_EXPOSURE)
    shop = world.shop[seen[again]]
    first, last = world.shop_range[shop], world.shop_range[shop + 1]
    item[again] = world.shop_items[first + (rng.random(len(again)) * (last - first)).astype(int)]
    return item


def _cross(
    world: World, name: str, history: Tokens, context: Longs, rows: Longs, value: Ints
) -> Tokens:
    """Tokens of the values that the row's history has, with their counts there."""
    crossing = world.crossings[name]
    known = _key(history.row, history.ids)
    wanted = _key(context[rows], crossing.past[value])
    if len(known) == 0:
        return Tokens(rows[:0], crossing.crossed[value[:0]], rows[:0])
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    hit = np.flatnonzero(known[at] == wanted)
    return Tokens(rows[hit], crossing.crossed[value[hit]], history.counts[at[hit]])
