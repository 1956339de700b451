"""Files in Ali-CCP's format with a planted truth: shards of rows, six files and their manifest.

A shard is a fixed number of rows, drawn independently: its streams are named by its half and
number, so that its bytes depend on the options alone. Labels follow a planted truth:

    shared    = .45 cat + .55 <P_user, Q_cat> / sqrt(8) + .22 v508
    logit CTR = b1 + drift + .55 shared + .30 item + .22 brand + .18 scene + .30 x
    logit CVR = b2 + .60 shared + .50 shop + .30 v509 + .30 f126 + .25 f127 + .20 f125 - .40 x
    x         = conflict * e[121]

So 101, 206 and 508 serve both tasks, 205, 216 and 301 clicks alone, 125, 126, 127, 207 and 509
conversions alone, and 121 pulls the two apart. What a row does not say (an unnamed user, a missing
profile, no token 508) adds 0: apart from the drift along the file, a model that sees the row can
know the truth.
"""

import json
import multiprocessing
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import lru_cache, partial
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import expit

from cvrbench.data.generator.world import (
    CROSSED,
    FACTORS,
    MAX_EVENTS,
    PROFILE,
    Doubles,
    GeneratorConfig,
    Longs,
    Rng,
    Sample,
    Small,
    Tokens,
    World,
    draw,
    few,
    lengths,
    log_of_count,
)
from cvrbench.data.raw import GOLDEN, ahead, mix
from cvrbench.data.sources.aliccp import FIELDS, HALVES, Half, file_name
from cvrbench.data.sources.synthetic import intercept
from cvrbench.data.writer import check_space, disk_error
from cvrbench.errors import DataError
from cvrbench.system.rng import derive, numpy_stream

MANIFEST, UNFINISHED = "manifest.json", ".unfinished"
TRUTH_HEADER = b"sample_id,p_ctr,p_cvr\n"
KINDS = ("skeleton", "common", "truth")
SHARD_ROWS = 50_000
SKELETON = tuple(field.name for field in FIELDS if field.kind == "skeleton")
COMMON = tuple(field.name for field in FIELDS if field.kind == "common")
CONTEXT_BITS, SHARD_BITS = 24, 39
DECIMALS = 12
"""Decimals in the truth files: a probability of one in a million has seven significant digits."""
VALUES = pl.Series(["1.0", *log_of_count(np.arange(1.0, MAX_EVENTS + 1))])
TWELFTHS = pl.Series(["1.0", *log_of_count(np.round(np.arange(1.0, MAX_EVENTS + 1) / 12, 3))])
"""Text of each count, and of each count in twelfths; 0 stands for a field without counts."""
IN_TWELFTHS = frozenset({"150_14", "853"})
SKELETON_ROW_BYTES, TRUTH_ROW_BYTES, COMMON_BYTES = 245, 40, 265
"""Per skeleton row; of the common files at `hist=1`, 14.6 KB for each block of about 58 rows."""
WAITING = 2
"""Shards begun per worker before the first of them is taken: bounds the memory of those waiting."""
DRIFT = 0.39
"""Fall of the click logit from a file's first row to its last: 4.6 to 3.3 % by deciles."""
CALIBRATION_CONTEXTS, CALIBRATION_LENGTH = 6000, 10
"""Many short contexts: what users differ in matters more than what rows of one context do."""
COUNT_VALUES = np.array([0.0, *map(float, log_of_count(np.arange(1.0, MAX_EVENTS + 1)))])
"""Value of each count as the files have it; 0 for no token."""
OnProgress = Callable[[int, int], None]
Words = npt.NDArray[np.uint64]


class Truth(NamedTuple):
    """True probabilities of a click, and of a conversion given a click, `[rows]` in (0, 1)."""

    ctr: Doubles
    cvr: Doubles


class Plan(NamedTuple):
    """Intercepts, and what the best possible model would reach."""

    b1: float
    """Intercept of the click logit."""
    b2: float
    """Intercept of the conversion logit."""
    bayes: dict[str, float]
    """Expected AUCs of the true probabilities, over all rows (`auc_ctr`, `auc_ctcvr`) and over
    clicked ones (`auc_cvr`), and the correlation of the two logits."""


def probabilities(
    world: World, config: GeneratorConfig, plan: Plan, sample: Sample, place: Doubles
) -> Truth:
    """Return the truth of rows at `place`, their position in the file from 0 to 1."""
    ctr, cvr = _logits(world, config.conflict, sample, place)
    return Truth(expit(ctr + plan.b1), expit(cvr + plan.b2))


def draw_labels(truth: Truth, anomaly: float, rng: Rng) -> tuple[Small, Small]:
    """Draw clicks and conversions; a conversion without a click is an anomaly."""
    u = rng.random((3, len(truth.ctr)))
    click = u[0] < truth.ctr
    # `anomaly` is a share of all rows, but only those without a click can be one.
    odd = u[2] * (1 - truth.ctr) < anomaly
    return click.astype(np.uint8), np.where(click, u[1] < truth.cvr, odd).astype(np.uint8)


def calibrate(world: World, config: GeneratorConfig) -> Plan:
    """Find the intercepts that give the wanted rates, from a sample of its own."""

    def stream(name: str) -> Rng:
        return numpy_stream(config.seed, "calibration", name)

    length = np.full(CALIBRATION_CONTEXTS, CALIBRATION_LENGTH)
    sample = draw(world, config, length, stream)
    place = stream("place").random(len(sample.item))
    click_logit, conversion_logit = _logits(world, config.conflict, sample, place)
    all_rows = np.ones(len(place))
    b1 = intercept(click_logit, all_rows, config.ctr)
    click = expit(click_logit + b1)
    b2 = intercept(conversion_logit, click, config.cvr)
    conversion = expit(conversion_logit + b2)
    bayes = {
        "auc_ctr": _expected_auc(click, all_rows),
        "auc_cvr": _expected_auc(conversion, click),
        "auc_ctcvr": _expected_auc(click * conversion, all_rows),
        "logit_correlation": float(np.corrcoef(click_logit, conversion_logit)[0, 1]),
    }
    return Plan(b1, b2, bayes)


def _logits(
    world: World, conflict: float, sample: Sample, place: Doubles
) -> tuple[Doubles, Doubles]:
    """Both tasks' logits without intercept, `[rows]`."""
    row, item, e = sample.context, sample.item, world.effects
    category = world.category[item]
    user = world.user_factors[sample.user] * sample.named[:, None]
    product = np.einsum("rf,rf->r", user[row], world.category_factors[category])
    shared = (
        0.45 * e["206"][category]
        + 0.55 / np.sqrt(FACTORS) * product
        + 0.22 * _values(sample.crossed["206"], len(item))
    )
    profile = world.profile[sample.user]
    f = {name: e[name][profile[:, PROFILE.index(name)]] for name in ("121", "125", "126", "127")}
    x = conflict * f["121"]
    ctr = (
        DRIFT * (0.5 - place)
        + 0.55 * shared
        + 0.30 * e["205"][item]
        + 0.22 * e["216"][world.brand[item]]
        + 0.18 * e["301"][sample.scene]
        + 0.30 * x[row]
    )
    cvr = (
        0.60 * shared
        + 0.50 * e["207"][world.shop[item]]
        + 0.30 * _values(sample.crossed["207"], len(item))
        + (0.30 * f["126"] + 0.25 * f["127"] + 0.20 * f["125"] - 0.40 * x)[row]
    )
    return ctr.astype(np.float64), cvr.astype(np.float64)


def _values(tokens: Tokens, rows: int) -> Doubles:
    """A crossed field's value in each row as the file has it, 0 where there is none."""
    values = np.zeros(rows)
    values[tokens.row] = COUNT_VALUES[tokens.counts]
    return values


def _expected_auc(score: Doubles, weight: Doubles) -> float:
    """AUC of true probabilities over rows with weights, labels averaged out (ties are not met)."""
    order = np.argsort(score)
    positive = (weight * score)[order]
    negative = (weight * (1 - score))[order]
    below = np.cumsum(negative) - negative / 2
    # Not a product of BLAS, whose last bits follow its number of threads.
    return float((positive * below).sum() / (positive.sum() * negative.sum()))


class ShardPlan(NamedTuple):
    """Which rows a shard holds: `rows` of them from row `first` of `total`."""

    half: Half
    number: int
    first: int
    rows: int
    total: int


class Shard(NamedTuple):
    """What is drawn of a shard apart from ids, keys and labels."""

    skeleton: pl.DataFrame  # columns `n` and `features`, by row
    common: pl.DataFrame  # the same, by context
    context: Longs  # of each row
    order: Longs  # contexts as they stand in the common file
    truth: Truth  # by row


def generate(
    config: GeneratorConfig, out: Path, *, workers: int = 1, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """Write both halves, their true probabilities and a manifest.

    Files have other names in a folder `.unfinished` until all of them are whole, and the manifest
    comes last: a generation that was killed leaves none, and is begun anew by the next one.

    Args:
        config: What to generate.
        out: Folder to write; it must be empty, missing, or hold an unfinished generation.
        workers: Processes, each with 0.5 GB of memory at `card=1`; the bytes do not depend on it.
        on_progress: Called with the rows written so far and in all.

    Returns:
        The manifest: `options`, `b1`, `b2`, `bayes` and for each half `rows`, `clicks`,
        `conversions` (of clicked rows), `anomalies`, `common_rows`, `tokens`, `common_tokens`.

    Raises:
        DataError: An option is out of range, the folder is taken, or the disk is too small.
    """
    config.check()
    if workers < 1:
        raise DataError(f"workers={workers} cannot generate anything: give 1 or more")
    rows = config.rows + config.test_rows
    row_bytes = SKELETON_ROW_BYTES + TRUTH_ROW_BYTES + COMMON_BYTES * config.hist
    try:
        _clear(out)
        check_space(out, rows * row_bytes, f"generating {rows:,} rows", "ask for fewer rows")
        work = out / UNFINISHED
        work.mkdir(parents=True)
        manifest = _write_all(config, work, workers, on_progress or (lambda _done, _total: None))
        (work / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        for half in HALVES:
            for kind in KINDS:
                target = out / _place(kind, half)
                target.parent.mkdir(exist_ok=True)
                _part(work, kind, half).rename(target)
        (work / MANIFEST).rename(out / MANIFEST)
        work.rmdir()
    except OSError as error:
        raise disk_error(error, out, "name another folder") from None
    return manifest


def _place(kind: str, half: Half) -> Path:
    """Where a file of a finished generation lies, relative to its folder."""
    if kind == "truth":
        return Path(f"truth_{half}.csv")
    return Path(f"sample_{half}") / file_name("skeleton" if kind == "skeleton" else "common", half)


def _part(work: Path, kind: str, half: Half) -> Path:
    """An unfinished file; a reader of raw files looks for no such name."""
    return work / f"{kind}_{half}.part"


def _clear(out: Path) -> None:
    """Make room: an unfinished generation is removed, anything else is left and refused."""
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{out} is a file: name a folder to generate into")
    found = {entry.name for entry in out.iterdir()}
    ours = {UNFINISHED, *(_place(kind, half).parts[0] for kind in KINDS for half in HALVES)}
    if not found:
        return
    if UNFINISHED not in found or not found <= ours:
        what = "a finished generation" if MANIFEST in found else "files"
        raise DataError(f"{out} already holds {what}: name an empty folder, or empty this one")
    # The mark goes last, for what it says of the others.
    for entry in [*(out / name for name in sorted(found - {UNFINISHED})), out / UNFINISHED]:
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _write_all(
    config: GeneratorConfig, work: Path, workers: int, on_progress: OnProgress
) -> dict[str, Any]:
    rows: dict[Half, int] = {"train": config.rows, "test": config.test_rows}
    total, done = sum(rows.values()), 0
    totals: dict[str, dict[str, int]] = {}
    n_shards = sum(-(-n // SHARD_ROWS) for n in rows.values())
    workers = min(workers, n_shards)
    with _executor(workers) as pool:
        plan = pool.submit(_plan, config).result()

        def draw_shards(plans: Sequence[ShardPlan]) -> Iterator[Shard]:
            jobs = (partial(_draw_shard, config, at) for at in plans)
            return ahead(pool, jobs, WAITING * workers)

        for half in HALVES:
            counts: Counter[str] = Counter()
            with ExitStack() as stack:
                files = {k: stack.enter_context(_part(work, k, half).open("wb")) for k in KINDS}
                files["truth"].write(TRUTH_HEADER)
                for tables, found in _tables(config, draw_shards, half, rows[half]):
                    for kind, table in tables.items():
                        table.write_csv(files[kind], include_header=False, quote_style="never")
                    counts.update(found)
                    done += found["rows"]
                    on_progress(done, total)
            totals[half] = dict(counts)
    return {"options": asdict(config), **plan._asdict(), **totals}


@contextmanager
def _executor(workers: int) -> Iterator[Executor]:
    """Draw shards in this process, or in several that each build the same world."""
    spawn = multiprocessing.get_context("spawn")
    alone = workers == 1
    pool = ThreadPoolExecutor(1) if alone else ProcessPoolExecutor(workers, mp_context=spawn)
    try:
        yield pool
    except BrokenProcessPool:
        raise DataError(
            f"one of {workers} generating processes died, most likely for want of memory: use "
            "fewer workers, or a smaller card"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
        _world.cache_clear()


@lru_cache(maxsize=1)
def _world(config: GeneratorConfig) -> tuple[World, Plan]:
    """Build a process's world, once."""
    world = World(config)
    return world, calibrate(world, config)


def _plan(config: GeneratorConfig) -> Plan:
    return _world(config)[1]


def _draw_shard(config: GeneratorConfig, at: ShardPlan) -> Shard:
    world, plan = _world(config)

    def stream(name: str) -> Rng:
        return numpy_stream(config.seed, "shard", at.half, at.number, name)

    sample = draw(world, config, lengths(stream("lengths"), at.rows), stream)
    n, n_contexts = at.rows, len(sample.length)
    place = (at.first + np.arange(n)) / at.total
    # The real files begin with another field from row to row, and go round from there.
    turn = np.arange(len(SKELETON)) - stream("field order").integers(len(SKELETON), size=n)[:, None]
    order = np.argsort(stream("common field order").random((n_contexts, len(COMMON))), axis=1)
    return Shard(
        skeleton=_features(_skeleton_tokens(world, sample), turn % len(SKELETON)),
        common=_features(_common_tokens(world, sample), np.argsort(order, axis=1)),
        context=sample.context,
        order=np.argsort(_index_keys(config.seed, at.half, at.number, n_contexts)),
        truth=probabilities(world, config, plan, sample, place),
    )


def _skeleton_tokens(world: World, sample: Sample) -> dict[str, Tokens]:
    item, every = sample.item, np.arange(len(sample.item))
    row, intention = sample.intentions
    named = {name: crossing.exposed for name, crossing in world.crossings.items()}
    branded = np.flatnonzero(world.brand[item] >= 0)
    tokens = {
        "205": _ones(every, world.item_id[item]),
        "206": _ones(every, named["206"][world.category[item]]),
        "207": _ones(every, named["207"][world.shop[item]]),
        "210": _ones(row, named["210"][intention]),
        "216": _ones(branded, named["216"][world.brand[item[branded]]]),
        "301": _ones(every, few("301")[sample.scene]),
        **{crossed: sample.crossed[name] for name, (_, crossed) in CROSSED.items()},
    }
    return {name: tokens[name] for name in SKELETON}


def _common_tokens(world: World, sample: Sample) -> dict[str, Tokens]:
    named = np.flatnonzero(sample.named)
    tokens = {"101": _ones(named, world.user_id[sample.user[named]])}
    profile = world.profile[sample.user]
    for column, name in enumerate(PROFILE):
        told = np.flatnonzero(profile[:, column])
        tokens[name] = _ones(told, few(name)[profile[told, column] - 1])
    tokens |= {history: sample.histories[name] for name, (history, _) in CROSSED.items()}
    return {name: tokens[name] for name in COMMON}


def _ones(row: Longs, ids: npt.NDArray[np.int32]) -> Tokens:
    return Tokens(row, ids, np.zeros(len(row), np.int64))


def _features(fields: dict[str, Tokens], place: Longs) -> pl.DataFrame:
    """Write each row's tokens as text, its fields at their `place`, `[rows, fields]`."""
    tables = []
    for column, (name, tokens) in enumerate(fields.items()):
        values = (TWELFTHS if name in IN_TWELFTHS else VALUES).gather(tokens.counts)
        ids = pl.Series(tokens.ids).cast(pl.String)
        table = pl.DataFrame(
            {
                "row": tokens.row,
                "place": place[tokens.row, column],
                "features": f"{name}\x02" + ids + "\x03" + values,
            }
        )
        tables.append(table)
    ordered = pl.concat(tables).sort("row", "place", maintain_order=True)
    by_row = ordered.group_by("row", maintain_order=True)
    return by_row.agg(pl.len().alias("n"), pl.col("features").str.join("\x01")).drop("row")


def _tables(
    config: GeneratorConfig,
    draw_shards: Callable[[Sequence[ShardPlan]], Iterator[Shard]],
    half: Half,
    rows: int,
) -> Iterator[tuple[dict[str, pl.DataFrame], dict[str, int]]]:
    """Yield the lines of a half by kind of file, shard after shard, and counts of what they hold.

    With `replay`, the shards of the base block come again and again, with other ids and labels.
    """
    base = rows if config.replay is None else min(config.replay, rows)
    plans = [
        ShardPlan(half, number, first, min(SHARD_ROWS, base - first), base)
        for number, first in enumerate(range(0, base, SHARD_ROWS))
    ]
    shards, next_id, last_id = draw_shards(plans), 1, rows
    if config.replay is not None:
        shards, next_id = cycle(shards), first_id(rows)
        last_id = next_id + rows - 1
    for number, shard in enumerate(shards):
        ids = np.arange(next_id, min(next_id + len(shard.context), last_id + 1))
        names: tuple[str | int, ...] = ("replay", half, number)
        if number < len(plans):
            names = ("shard", half, number, "labels")
        keys = np.empty(len(shard.order), np.uint64)
        keys[shard.order] = np.sort(_index_keys(config.seed, half, number, len(keys)))
        truth = Truth(shard.truth.ctr[: len(ids)], shard.truth.cvr[: len(ids)])
        labels = draw_labels(truth, config.anomaly, numpy_stream(config.seed, *names))
        yield _lines(shard, ids, keys, truth, labels)
        next_id = int(ids[-1]) + 1
        if next_id > last_id:
            return


def _lines(
    shard: Shard, ids: Longs, keys: Words, truth: Truth, labels: tuple[Small, Small]
) -> tuple[dict[str, pl.DataFrame], dict[str, int]]:
    """Return the first lines of a shard, as many as there are ids, with their contexts."""
    (click, conversion), context = labels, shard.context[: len(ids)]
    order = shard.order[shard.order <= context[-1]]
    ctr, cvr = map(_decimals, truth)
    key = pl.Series("key", [f"{key:016x}" for key in keys.tolist()])
    head = pl.DataFrame({"id": ids, "click": click, "conversion": conversion})
    tables = {
        "skeleton": head.with_columns(key.gather(context)).hstack(shard.skeleton.head(len(ids))),
        "common": pl.DataFrame(key.gather(order)).hstack(shard.common[order]),
        "truth": pl.DataFrame({"id": ids, "ctr": ctr, "cvr": cvr}),
    }
    counts = {
        "rows": len(ids),
        "clicks": int(click.sum()),
        "conversions": int((click & conversion).sum()),
        "anomalies": int((conversion & (1 - click)).sum()),
        "common_rows": len(order),
        "tokens": int(tables["skeleton"]["n"].sum()),
        "common_tokens": int(tables["common"]["n"].sum()),
    }
    return tables, counts


def _decimals(p: Doubles) -> pl.Series:
    """Text of probabilities; 1 is not reached by rounding."""
    parts = np.minimum(np.rint(p * 10**DECIMALS), 10**DECIMALS - 1).astype(np.int64)
    texts: pl.Series = "0." + pl.Series(parts).cast(pl.String).str.zfill(DECIMALS)
    return texts


def _index_keys(seed: int, half: Half, shard: int, n: int) -> Words:
    """Indices of a shard's contexts: SplitMix64 (Steele et al. 2014) of their number.

    The function is a bijection of 64 bits, and half, shard and context are parts of the number: no
    two contexts of a seed share an index.
    """
    base = (int(half == "test") << (CONTEXT_BITS + SHARD_BITS)) | (shard << CONTEXT_BITS)
    number = np.uint64(base) + np.arange(n, dtype=np.uint64) + np.uint64(derive(seed, "index"))
    return mix(number * GOLDEN)


def first_id(rows: int) -> int:
    """Return the power of ten from which `rows` sample ids have one number of digits.

    >>> first_id(9), first_id(10), first_id(91)
    (1, 10, 100)
    """
    power = 1
    while rows > 9 * power:
        power *= 10
    return power
