"""A shard: a fixed number of rows with everything of theirs, drawn and written independently.

A shard's streams are named by its half and number, so its bytes depend on the options alone.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cvrbench.data.generator import text
from cvrbench.data.generator.options import GeneratorConfig
from cvrbench.data.generator.sample import Sample, Tokens, draw, lengths
from cvrbench.data.generator.text import Bytes, Words
from cvrbench.data.generator.truth import Plan, Truth, labels, probabilities
from cvrbench.data.generator.values import Longs, few
from cvrbench.data.generator.world import PROFILE, World
from cvrbench.data.sources.aliccp.grammar import FIELDS, Half
from cvrbench.rng import derive, numpy_stream

SHARD_ROWS = 50_000
SKELETON = tuple(field.name for field in FIELDS if field.kind == "skeleton")
COMMON = tuple(field.name for field in FIELDS if field.kind == "common")
SKELETON_PREFIX = COMMON_PREFIX = 2
CONTEXT_BITS, SHARD_BITS = 24, 39
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
HISTORY_OF = {"109_14": "206", "110_14": "207", "127_14": "216", "150_14": "210"}
CROSS_OF = {"508": "206", "509": "207", "702": "216", "853": "210"}


class ShardPlan(NamedTuple):
    """Which rows a shard holds: `rows` of them from row `first` of `total`, ids from `first_id`."""

    half: Half
    number: int
    first: int
    rows: int
    total: int
    first_id: int


class Shard(NamedTuple):
    """A shard's text, and what a repetition needs.

    Attributes:
        skeleton, common, truth: Whole lines.
        truths: The probabilities of `truth`.
        length: Rows of each context.
        order: Contexts as they stand in `common`.
        totals: Counts for the manifest.
    """

    skeleton: Bytes
    common: Bytes
    truth: Bytes
    truths: Truth
    length: Longs
    order: Longs
    totals: dict[str, int]


def generate_shard(world: World, config: GeneratorConfig, plan: Plan, at: ShardPlan) -> Shard:
    """Draw a shard and write it down."""

    def stream(name: str) -> np.random.Generator:
        return numpy_stream(config.seed, "shard", at.half, at.number, name)

    sample = draw(world, config.hist, lengths(stream("lengths"), at.rows), stream)
    place = (at.first + np.arange(at.rows)) / at.total
    truths = probabilities(world, config, plan, sample, place)
    click, conversion = labels(truths, config.anomaly, stream("labels"))
    keys = index_keys(config.seed, at.half, at.number, len(sample.contexts.length))
    sample_ids = at.first_id + np.arange(at.rows)
    skeleton, n_tokens = _skeleton(
        world, sample, (sample_ids, click, conversion, keys), stream("field order")
    )
    common, n_common = _common(world, sample, keys, stream("common field order"))
    return Shard(
        skeleton=skeleton,
        common=common,
        truth=text.truth_lines(sample_ids, *truths),
        truths=truths,
        length=sample.contexts.length,
        order=np.argsort(keys),
        totals=label_totals(click, conversion)
        | {"common_rows": len(keys), "tokens": n_tokens, "common_tokens": n_common},
    )


def label_totals(click: Bytes, conversion: Bytes) -> dict[str, int]:
    """Count rows, clicks, conversions of clicked rows, and conversions of others."""
    return {
        "rows": len(click),
        "clicks": int(click.sum()),
        "conversions": int((click & conversion).sum()),
        "anomalies": int((conversion & (1 - click)).sum()),
    }


def index_keys(seed: int, half: Half, shard: int, n: int) -> Words:
    """Indices of a shard's contexts: SplitMix64 (Steele et al. 2014) of their number.

    The function is a bijection of 64 bits, and half, shard and context are parts of the number: no
    two contexts of a seed share an index.
    """
    base = (int(half == "test") << (CONTEXT_BITS + SHARD_BITS)) | (shard << CONTEXT_BITS)
    z = np.uint64(base) + np.arange(n, dtype=np.uint64)
    z = (z + np.uint64(derive(seed, "index"))) * GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def _skeleton(
    world: World,
    sample: Sample,
    columns: tuple[Longs, Bytes, Bytes, Words],
    rng: np.random.Generator,
) -> tuple[Bytes, int]:
    item, n = sample.item, len(sample.item)
    every = np.arange(n)
    row, intention = sample.intentions
    named = {name: crossing.exposed for name, crossing in world.crossings.items()}
    branded = np.flatnonzero(world.items.brand[item] >= 0)
    tokens = {
        "205": _ones(every, world.item_id[item]),
        "206": _ones(every, named["206"][world.items.category[item]]),
        "207": _ones(every, named["207"][world.items.shop[item]]),
        "210": _ones(row, named["210"][intention]),
        "216": _ones(branded, named["216"][world.items.brand[item[branded]]]),
        "301": _ones(every, few("301")[sample.scene]),
        **{name: sample.crossed[source] for name, source in CROSS_OF.items()},
    }
    fields = [tokens[name] for name in SKELETON]
    # The real files begin with another field from row to row, and go round from there.
    turn = (rng.integers(len(SKELETON), size=n)[:, None] + np.arange(len(SKELETON))) % len(SKELETON)
    layout = text.lay_out(text.counts(fields, n), turn, every, SKELETON_PREFIX)
    sample_ids, click, conversion, keys = columns
    prefixes = text.skeleton_prefixes(
        sample_ids, click, conversion, keys[sample.row_context], layout.tokens
    )
    return text.assemble(SKELETON, fields, layout, prefixes), int(layout.tokens.sum())


def _common(
    world: World, sample: Sample, keys: Words, rng: np.random.Generator
) -> tuple[Bytes, int]:
    contexts, n = sample.contexts, len(keys)
    named = np.flatnonzero(contexts.named)
    tokens = {"101": _ones(named, world.users.ids[contexts.user[named]])}
    profile = world.users.profile[contexts.user]
    for column, name in enumerate(PROFILE):
        told = np.flatnonzero(profile[:, column])
        tokens[name] = _ones(told, few(name)[profile[told, column] - 1])
    tokens |= {name: sample.histories[source] for name, source in HISTORY_OF.items()}
    fields = [tokens[name] for name in COMMON]
    order = np.argsort(rng.random((n, len(COMMON))), axis=1)
    layout = text.lay_out(text.counts(fields, n), order, np.argsort(keys), COMMON_PREFIX)
    prefixes = text.common_prefixes(keys, layout.tokens)
    return text.assemble(COMMON, fields, layout, prefixes), int(layout.tokens.sum())


def _ones(row: Longs, ids: npt.NDArray[np.int32]) -> Tokens:
    return Tokens(row, ids, np.zeros(len(row), np.int64))
