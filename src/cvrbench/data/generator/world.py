"""The options of a generation, and the world that its rows are drawn from.

An item belongs to a shop; its category is the shop's main one for 75 % of items and its brand,
where it has one, the shop's for 71 %. A category has leading brands, and a pool of 40 intentions of
which an item carries up to 14. Every value has planted effects, drawn from N(0, 1). Popularity is
log-normal; the deviations reproduce how many values of the real fields are left at a threshold of
12 occurrences.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cvrbench.data.sources.aliccp.grammar import BY_NAME
from cvrbench.errors import DataError
from cvrbench.system.rng import numpy_stream

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rng = np.random.Generator

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


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """A generation; the same values give the same bytes, whatever the number of workers.

    Attributes:
        rows, test_rows: Skeleton rows of the two halves, at least 10 each.
        seed: Seed of everything that is drawn.
        card: Scale of the number of values of a field, 1 = the real training rows'.
        hist: Scale of the length of the users' histories, 1 = the real files'.
        ctr: Share of rows that are clicked, in (0, 1).
        cvr: Share of clicked rows that convert, in (0, 1).
        conflict: Strength of the effect that acts on the two tasks with opposite signs.
        anomaly: Share of rows with click = 0 and conversion = 1, in [0, 1).
        replay: Rows of a base block that is repeated with fresh ids, keys and labels until `rows`
            are reached (10^6 is a good block); `None` draws every row anew. The base block is held
            in memory: about 0.5 GB per 10^6 rows at `hist=1`.
    """

    rows: int
    test_rows: int
    seed: int
    card: float = 1.0
    hist: float = 1.0
    ctr: float = 0.03887
    cvr: float = 0.00535
    conflict: float = 0.8
    anomaly: float = 5.4e-6
    replay: int | None = None

    def check(self) -> None:
        """Refuse what cannot be generated.

        Raises:
            DataError: An option is out of its range.
        """
        replay = MIN_ROWS if self.replay is None else self.replay
        rows, scale = f"{MIN_ROWS} to {MAX_ROWS:,}", f"above 0, at most {MAX_SCALE:g}"
        for name, holds, allowed in (
            ("rows", MIN_ROWS <= self.rows <= MAX_ROWS, rows),
            ("test_rows", MIN_ROWS <= self.test_rows <= MAX_ROWS, rows),
            ("replay", MIN_ROWS <= replay <= MAX_ROWS, rows),
            ("seed", self.seed >= 0, "0 or more"),
            ("card", 0 < self.card <= MAX_SCALE, scale),
            ("hist", 0 < self.hist <= MAX_SCALE, scale),
            ("ctr", 0 < self.ctr < 1, "between 0 and 1"),
            ("cvr", 0 < self.cvr < 1, "between 0 and 1"),
            ("anomaly", 0 <= self.anomaly < 1, "0 or more and below 1"),
            ("conflict", self.conflict >= 0 and math.isfinite(self.conflict), "0 or more"),
        ):
            if not holds:
                value = getattr(self, name)
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


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything that rows are drawn from: u users, i items sorted by category, c categories.

    Attributes:
        user_id: Ids of field 101, `[u]`.
        user_cum: Activity, `[u]`, ascending to 1.
        profile: 0 missing, else 1 + value, `[u, 8]`.
        favourites: Categories, `[u, 14]`.
        user_factors, category_factors: P `[u, 8]` and Q `[c, 8]`.
        shop, category, brand: `[i]`; -1 where an item has no brand.
        item_id: Ids of field 205, `[i]`.
        item_cum: Popularity, `[i]`, ascending to 1; a category is a range of it.
        category_range: First item of each category, `[c + 1]`.
        shop_items, shop_range: Items by shop, `[i]`, and where each shop's begin, `[s + 1]`.
        n_intentions, pattern: How many intentions an item carries, and its pattern, `[i]`.
        patterns: Slots of the category's pool, `[4096, 14]`; an item has the first ones.
        pools: Intentions by category, `[c, 40]`.
        crossings: Ids by skeleton field.
        effects: By field; those of profile fields begin with 0 for a missing value, those of brands
            end with 0 for none.
    """

    user_id: Ints
    user_cum: Doubles
    profile: npt.NDArray[np.uint8]
    favourites: Ints
    user_factors: Floats
    category_factors: Floats
    shop: Ints
    category: Ints
    brand: Ints
    item_id: Ints
    item_cum: Doubles
    category_range: Longs
    shop_items: Ints
    shop_range: Longs
    n_intentions: npt.NDArray[np.uint8]
    pattern: npt.NDArray[np.uint16]
    patterns: npt.NDArray[np.uint8]
    pools: Ints
    crossings: dict[str, Crossing]
    effects: dict[str, Floats]

    def intention(self, item: Longs, slot: Longs) -> Ints:
        """Return the intention that an item has in a slot of its own."""
        return self.pools[self.category[item], self.patterns[self.pattern[item], slot]]


def build(config: GeneratorConfig) -> World:
    """Draw the world; it depends on nothing but the seed and the scale of its fields."""
    seed, card = config.seed, config.card

    def stream(*names: str) -> Rng:
        return numpy_stream(seed, "world", *names)

    n = {name: _size(name, card) for name in ("101", "205", "206", "207", "210", "216")}
    shop, category, brand = _catalogue(stream("catalogue"), n)
    weight = _popularity(stream("items"), "205", n["205"])
    item_cum = np.cumsum(weight)
    n_intentions, pattern, patterns, pools = _intentions(stream("intentions"), n)
    weights = {
        "206": _mass(category, weight, n["206"]),
        "207": _mass(shop, weight, n["207"]),
        "216": _mass(brand, weight, n["216"]),
    }
    weights["210"] = _mass(pools.ravel(), np.repeat(weights["206"], POOL), n["210"])
    user_id, user_cum, profile, favourites, user_factors = _users(
        stream("users"), n["101"], np.cumsum(weights["206"])
    )
    return World(
        user_id=user_id,
        user_cum=user_cum,
        profile=profile,
        favourites=favourites,
        user_factors=user_factors,
        category_factors=_normal(stream("factors"), n["206"], FACTORS),
        shop=shop,
        category=category,
        brand=brand,
        item_id=_spread(stream("ids", "205"), "205", n["205"]),
        item_cum=item_cum / item_cum[-1],
        category_range=_starts(category, n["206"]),
        shop_items=np.argsort(shop, kind="stable").astype(np.int32),
        shop_range=_starts(shop, n["207"]),
        n_intentions=n_intentions,
        pattern=pattern,
        patterns=patterns,
        pools=pools,
        crossings={k: _crossing(stream("ids", k), k, weights[k], card) for k in CROSSED},
        effects=_effects(seed, n),
    )


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


def _intentions(
    rng: Rng, n: dict[str, int]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16], npt.NDArray[np.uint8], Ints]:
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


def _users(
    rng: Rng, n: int, category_cum: Doubles
) -> tuple[Ints, Doubles, npt.NDArray[np.uint8], Ints, Floats]:
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


def _effects(seed: int, n: dict[str, int]) -> dict[str, Floats]:
    def stream(name: str) -> Rng:
        return numpy_stream(seed, "world", "effects", name)

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
