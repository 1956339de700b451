"""A whole generation: the folder, its six files and the manifest that says it is complete."""

import errno
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

from cvrbench.data.generator.makers import Maker, makers
from cvrbench.data.generator.options import GeneratorConfig
from cvrbench.data.generator.replay import first_id, repeat
from cvrbench.data.generator.shard import SHARD_ROWS, Shard, ShardPlan
from cvrbench.data.generator.truth import Plan
from cvrbench.data.sources.aliccp.grammar import Half, file_name
from cvrbench.errors import DataError

MANIFEST = "manifest.json"
UNFINISHED = ".unfinished"
TRUTH_HEADER = b"sample_id,p_ctr,p_cvr\n"
HALVES: tuple[Half, ...] = get_args(Half)
KINDS = ("skeleton", "common", "truth")
OnProgress = Callable[[int, int], None]


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
    try:
        _clear(out)
        _check_space(config, out)
        work = out / UNFINISHED
        work.mkdir(parents=True)
        manifest = _write_all(config, work, workers, on_progress or _tell_nobody)
        (work / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        _finish(out, work)
    except OSError as error:
        raise _disk_error(error, out) from None
    return manifest


def place(kind: str, half: Half) -> Path:
    """Where a file of a finished generation lies, relative to its folder."""
    if kind == "truth":
        return Path(f"truth_{half}.csv")
    return Path(f"sample_{half}") / file_name("skeleton" if kind == "skeleton" else "common", half)


def _tell_nobody(_done: int, _total: int) -> None:
    """Without a listener."""


def _write_all(
    config: GeneratorConfig, work: Path, workers: int, on_progress: OnProgress
) -> dict[str, Any]:
    rows = {"train": config.rows, "test": config.test_rows}
    shards = sum(-(-n // SHARD_ROWS) for n in rows.values())
    total, done = sum(rows.values()), 0
    totals: dict[str, dict[str, int]] = {}
    with makers(config, min(workers, shards)) as maker:
        plan = maker.calibrate()
        for half in HALVES:
            counts: Counter[str] = Counter()
            with ExitStack() as stack:
                files = {
                    kind: stack.enter_context(_part(work, kind, half).open("wb")) for kind in KINDS
                }
                files["truth"].write(TRUTH_HEADER)
                for shard in _shards(config, maker, plan, half, rows[half]):
                    for kind, file in files.items():
                        file.write(getattr(shard, kind).data)
                    counts.update(shard.totals)
                    done += shard.totals["rows"]
                    on_progress(done, total)
            totals[half] = dict(counts)
    return {"options": config.as_dict(), **plan._asdict(), **totals}


def _shards(
    config: GeneratorConfig, maker: Maker, plan: Plan, half: Half, rows: int
) -> Iterator[Shard]:
    """All of a half's shards in order; with `replay`, each is to be written before the next."""
    if config.replay is None:
        yield from maker.shards(plan, _plans(half, rows, first_id=1))
        return
    block = []
    base = min(config.replay, rows)
    for shard in maker.shards(plan, _plans(half, base, first_id=first_id(rows))):
        yield shard
        block.append(shard)
    yield from repeat(block, config, half, rows)


def _plans(half: Half, rows: int, *, first_id: int) -> list[ShardPlan]:
    return [
        ShardPlan(half, number, first, min(SHARD_ROWS, rows - first), rows, first_id + first)
        for number, first in enumerate(range(0, rows, SHARD_ROWS))
    ]


def _part(work: Path, kind: str, half: Half) -> Path:
    """An unfinished file; its name is none that a reader of raw files looks for."""
    return work / f"{kind}_{half}.part"


def _clear(out: Path) -> None:
    """Make room: an unfinished generation is removed, anything else is left and refused."""
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{out} is a file: name a folder to generate into")
    found = {entry.name for entry in out.iterdir()}
    ours = {UNFINISHED, *(place(kind, half).parts[0] for kind in KINDS for half in HALVES)}
    if not found:
        return
    if UNFINISHED not in found or not found <= ours:
        what = "a finished generation" if MANIFEST in found else "files"
        raise DataError(f"{out} already holds {what}: name an empty folder, or empty this one")
    for name in sorted(found - {UNFINISHED}):
        entry = out / name
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    # Last, for what it says of the others.
    shutil.rmtree(out / UNFINISHED)


def _check_space(config: GeneratorConfig, out: Path) -> None:
    existing = next(p for p in (out, *out.absolute().parents) if p.exists())
    free, needed = shutil.disk_usage(existing).free, config.bytes_needed()
    if needed > free:
        raise DataError(
            f"{config.rows + config.test_rows:,} rows need about {needed / 1e9:,.1f} GB in {out}, "
            f"where {free / 1e9:,.1f} GB are free: ask for fewer rows or a smaller hist, or name a "
            "folder on another disk"
        )


def _finish(out: Path, work: Path) -> None:
    """Give the files their names, and the manifest its place when they have them."""
    for half in HALVES:
        for kind in KINDS:
            target = out / place(kind, half)
            target.parent.mkdir(exist_ok=True)
            _part(work, kind, half).rename(target)
    (work / MANIFEST).rename(out / MANIFEST)
    work.rmdir()


def _disk_error(error: OSError, out: Path) -> DataError:
    if error.errno == errno.ENOSPC:
        return DataError(f"no space left to write {out}: free some, and generate anew")
    return DataError(f"cannot write {out}: {error.strerror or error}; name another folder")
