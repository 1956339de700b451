"""The world that generated rows are drawn from: what there is, how popular, with what effect.

An item belongs to a shop; its category is the shop's main one for 75 % of items and its brand,
where it has one, the shop's for 71 %. A category has leading brands, and a pool of 40 intentions of
which an item carries up to 14. Every value has planted effects, drawn from N(0, 1).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cvrbench.data.generator.values import (
    Doubles,
    Floats,
    Ints,
    Longs,
    Rng,
    mass,
    normal,
    pick,
    popularity,
    profile_shares,
    size,
    spread,
    starts,
)
from cvrbench.rng import numpy_stream

SAME_CATEGORY, SAME_BRAND, HAS_BRAND = 0.75, 0.71, 0.7114
LEADERS, LED, LEADER_SKEW = 20, 0.6, 3
"""A category's leading brands, the share of its shops and items that they have, and its skew."""
POOL, MAX_INTENTIONS, MEAN_INTENTIONS, NO_INTENTION = 40, 14, 6.1, 1e-4
PATTERNS, PATTERN_SKEW = 4096, 0.08
FAVOURITES = 14
FACTORS = 8
PROFILE = ("121", "122", "124", "125", "126", "127", "128", "129")
PROFILE_COVERAGE = 0.8702
PARTIAL = {"126": 0.4158, "129": 0.6370}
"""Coverage of the fields that not every known profile has."""
SCENE_SHARES = (32.24, 0.64, 52.44)


class Crossing(NamedTuple):
    """How a skeleton field's values are named in all files; 0 where a value has no such id.

    Attributes:
        exposed: Id in the skeleton, `[values]`.
        past: Id in histories, `[values]`: unpopular values never occur there.
        crossed: Id of the crossed field, `[values]`, one for each id in `past`.
        foreign: Ids in histories of values that are never exposed.
    """

    exposed: Ints
    past: Ints
    crossed: Ints
    foreign: Ints


CROSSED = {
    "206": ("109_14", "508"),
    "207": ("110_14", "509"),
    "216": ("127_14", "702"),
    "210": ("150_14", "853"),
}
"""Skeleton field: the history that counts its values, and the field that crosses the two."""


class Users(NamedTuple):
    """Tables over users, `[u]` unless said otherwise.

    Attributes:
        ids: Of field 101.
        cum: Activity, ascending to 1.
        profile: 0 missing, else 1 + value, `[u, 8]`.
        favourites: Categories, `[u, 14]`.
        factors: P, `[u, 8]`.
    """

    ids: Ints
    cum: Doubles
    profile: npt.NDArray[np.uint8]
    favourites: Ints
    factors: Floats


class Catalogue(NamedTuple):
    """What each item belongs to, `[i]`, items sorted by category; a brand of -1 is none."""

    shop: Ints
    category: Ints
    brand: Ints


class Carried(NamedTuple):
    """How many intentions an item carries, `[i]`, and which: slots of its category's pool.

    Attributes:
        n: Their number.
        pattern: Which of the patterns the item has.
        patterns: Slots, `[4096, 14]`; an item has the first `n` of its pattern's.
        pools: Intentions by category, `[c, 40]`.
    """

    n: npt.NDArray[np.uint8]
    pattern: npt.NDArray[np.uint16]
    patterns: npt.NDArray[np.uint8]
    pools: Ints


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything that rows are drawn from.

    Attributes:
        items: Shop, category and brand by item.
        item_id: Of field 205, `[i]`.
        item_cum: Popularity, `[i]`, ascending to 1; a category is a range of it.
        category_range: First item of each category, `[c + 1]`.
        shop_items, shop_range: Items by shop, `[i]`, and where each shop's begin, `[s + 1]`.
        crossings: Ids by skeleton field.
        category_factors: Q, `[c, 8]`.
        effects: By field; those of profile fields begin with 0 for a missing value, those of brands
            end with 0 for none.
    """

    users: Users
    items: Catalogue
    carried: Carried
    item_id: Ints
    item_cum: Doubles
    category_range: Longs
    shop_items: Ints
    shop_range: Longs
    crossings: dict[str, Crossing]
    category_factors: Floats
    effects: dict[str, Floats]


def build(seed: int, card: float) -> World:
    """Draw the world; it depends on nothing but the seed and the scale of its fields."""

    def stream(*names: str) -> Rng:
        return numpy_stream(seed, "world", *names)

    n = {name: size(name, card) for name in ("101", "205", "206", "207", "210", "216")}
    items = _catalogue(stream("catalogue"), n)
    weight = popularity(stream("items"), "205", n["205"])
    item_cum = np.cumsum(weight)
    carried = _carried(stream("intentions"), n)
    weights = {
        "206": mass(items.category, weight, n["206"]),
        "207": mass(items.shop, weight, n["207"]),
        "216": mass(items.brand, weight, n["216"]),
    }
    weights["210"] = mass(carried.pools.ravel(), np.repeat(weights["206"], POOL), n["210"])
    return World(
        users=_users(stream("users"), n["101"], np.cumsum(weights["206"])),
        items=items,
        carried=carried,
        item_id=spread(stream("ids", "205"), "205", n["205"]),
        item_cum=item_cum / item_cum[-1],
        category_range=starts(items.category, n["206"]),
        shop_items=np.argsort(items.shop, kind="stable").astype(np.int32),
        shop_range=starts(items.shop, n["207"]),
        crossings={k: _crossing(stream("ids", k), k, weights[k], card) for k in CROSSED},
        category_factors=normal(stream("factors"), n["206"], FACTORS),
        effects=_effects(seed, n),
    )


def _catalogue(rng: Rng, n: dict[str, int]) -> Catalogue:
    """Draw each item's shop, category and brand, the items sorted by category."""
    cums = {name: np.cumsum(popularity(rng, name, n[name])) for name in ("206", "207", "216")}

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
    brand = _led(rng, leaders, main, draw("216", n["207"]))[shop]
    other = rng.random(n["205"]) >= SAME_BRAND
    brand = np.where(other, _led(rng, leaders, category, brand), brand)
    brand[rng.random(n["205"]) >= HAS_BRAND] = -1
    return Catalogue(shop, category, brand)


def _led(rng: Rng, leaders: Ints, category: Ints, otherwise: Ints) -> Ints:
    """Brands: mostly one of the category's leaders, the first of them more often."""
    place = (rng.random(len(category)) ** LEADER_SKEW * LEADERS).astype(np.int64)
    return np.where(rng.random(len(category)) < LED, leaders[category, place], otherwise)


def _pools(rng: Rng, n_categories: int, n_intentions: int) -> Ints:
    """`[c, 40]` distinct intentions: one from each fortieth of them, the first ones more often."""
    edges = np.arange(POOL + 1) * n_intentions // POOL
    offset = rng.random((n_categories, POOL)) ** 2 * np.diff(edges)
    return rng.permuted((edges[:-1] + offset.astype(np.int64)).astype(np.int32), axis=1)


def _carried(rng: Rng, n: dict[str, int]) -> Carried:
    """Draw how many intentions each item has and which slots of its category's pool."""
    most, items = MAX_INTENTIONS, n["205"]
    some = 1 + rng.binomial(most - 1, (MEAN_INTENTIONS - 1) / (most - 1), items)
    some[rng.random(items) < NO_INTENTION] = 0
    # Drawing without replacement by weights is sorting by weight plus Gumbel noise.
    noisy = rng.gumbel(size=(PATTERNS, POOL)) - PATTERN_SKEW * np.arange(POOL)
    return Carried(
        n=some.astype(np.uint8),
        pattern=rng.integers(PATTERNS, size=items, dtype=np.uint16),
        patterns=np.argsort(-noisy, axis=1)[:, :most].astype(np.uint8),
        pools=_pools(rng, n["206"], n["210"]),
    )


def _crossing(rng: Rng, name: str, weight: Doubles, card: float) -> Crossing:
    """Give values their ids; only the most popular are shared with the histories."""
    history, cross = CROSSED[name]
    past_ids = spread(rng, history, size(history, card))
    cross_ids = spread(rng, cross, size(cross, card))
    shared = np.argsort(-weight, kind="stable")[: len(cross_ids)]
    n = len(shared)
    past, crossed = np.zeros((2, len(weight) + 1), np.int32)
    past[shared], crossed[shared] = past_ids[:n], cross_ids[:n]
    exposed = np.append(spread(rng, name, len(weight)), np.int32(0))
    return Crossing(exposed, past, crossed, past_ids[n:])


def _users(rng: Rng, n: int, category_cum: Doubles) -> Users:
    favourites = pick(category_cum, rng.random((n, FAVOURITES)) * category_cum[-1])
    profile = np.zeros((n, len(PROFILE)), np.uint8)
    known = rng.random(n) < PROFILE_COVERAGE
    for column, name in enumerate(PROFILE):
        shares = np.cumsum(profile_shares(name))
        told = known & (rng.random(n) * PROFILE_COVERAGE < PARTIAL.get(name, 1))
        profile[:, column] = np.where(told, 1 + pick(shares, rng.random(n) * shares[-1]), 0)
    activity = np.cumsum(popularity(rng, "101", n))
    return Users(
        ids=spread(rng, "101", n),
        cum=activity / activity[-1],
        profile=profile,
        favourites=favourites.astype(np.int32),
        factors=normal(rng, n, FACTORS),
    )


def _effects(seed: int, n: dict[str, int]) -> dict[str, Floats]:
    def stream(name: str) -> Rng:
        return numpy_stream(seed, "world", "effects", name)

    effects = {name: normal(stream(name), n[name]) for name in ("205", "206", "207")}
    effects["216"] = np.append(normal(stream("216"), n["216"]), np.float32(0))
    for name in ("121", "125", "126", "127"):
        effects[name] = np.append(np.float32(0), _even(stream(name), profile_shares(name)))
    scene = np.array(SCENE_SHARES)
    effects["301"] = _even(stream("301"), scene / scene.sum())
    return effects


def _even(rng: Rng, shares: Doubles) -> Floats:
    """Effects with mean 0 and variance 1: chance would make those of three values anything."""
    effect = rng.standard_normal(len(shares))
    effect -= shares @ effect
    return np.asarray(effect / np.sqrt(shares @ effect**2), dtype=np.float32)
