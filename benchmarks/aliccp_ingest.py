"""Preparing Ali-CCP: rows per second and memory, beside torch-rechub and beside reading the bytes.

    python -m benchmarks.aliccp_ingest [--rows 1000000] [--raw DIR] [--rechub SDIST] [--json FILE]

Contenders, each in a process of its own, on the same generated raw files (half for training, half
to test, of the real files' tokens per row unless `--hist` shortens the histories):

- `lossless`: ours, all 23 fields, every value and weight, on all cores.
- `rechub preset`: ours, with what torch-rechub keeps.
- `read and split`: the floor. The files read in blocks and cut at their separators, nothing kept.
- `torch-rechub`: its own `preprocess_ali_ccp.py` out of its source distribution, on one core as it
  is written. `--rechub FILE` names the downloaded distribution
  (`pip download --no-deps --no-binary :all: torch-rechub`); left out, it does not take part.
  Its training rows are then compared with the preset's: every id column must be the same up to
  numbering, every dense column the same up to its float16.

Ratios, not rates, are comparable between machines.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from cvrbench.data.archives import locate
from cvrbench.data.dataset import Dataset, open_dataset
from cvrbench.data.generator import generate
from cvrbench.data.generator.world import GeneratorConfig
from cvrbench.data.schema import OOV
from cvrbench.data.sources.aliccp import HALVES, KINDS, file_name
from cvrbench.data.sources.aliccp.ingest import BLOCK_BYTES

PREPROCESSOR = "examples/ranking/data/ali-ccp/preprocess_ali_ccp.py"
OURS = """
import sys
from pathlib import Path
from cvrbench.config.compose import compose
from cvrbench.data.registry import ensure
name, raw, out = sys.argv[1:]
config = compose([f"dataset={name}"]).config.dataset
print(ensure(config, name, Path(out), raw=Path(raw)).path)
"""
FLOOR = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from aliccp_ingest import read_and_split
print(read_and_split(Path(sys.argv[1])))
"""


def read_and_split(raw: Path) -> int:
    """Read the four files in blocks and find every separator; returns how many there are."""
    n = 0
    for file in locate(raw, [file_name(k, h) for h in HALVES for k in KINDS], dataset="").values():
        for block in file.blocks(BLOCK_BYTES):
            text = np.frombuffer(block, np.uint8)
            n += len(np.flatnonzero((text <= ord("\n")) | (text == ord(","))))
    return n


def run(command: list[str], folder: Path, *, one_core: bool = False) -> tuple[float, float, str]:
    """Run a process; give its seconds, its peak memory in MB and the last line it printed."""
    prefix = ["taskset", "-c", "0"] if one_core else []
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as complaints:
        child = subprocess.Popen([*prefix, *command], cwd=folder, stdout=printed, stderr=complaints)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        printed.seek(0)
        complaints.seek(0)
        if status:
            raise SystemExit(f"{' '.join(command)} failed:\n{complaints.read()[-2000:]}")
        lines = printed.read().strip().splitlines()
    return seconds, usage.ru_maxrss / 1e3, lines[-1] if lines else ""


def rechub(sdist: Path, raw: Path, work: Path) -> Path:
    """Lay out torch-rechub's script and the raw files as it wants them; give its folder."""
    with tarfile.open(sdist) as archive:
        member = next(m for m in archive.getmembers() if m.name.endswith(PREPROCESSOR))
        script = archive.extractfile(member)
        assert script is not None
        (work / "preprocess.py").write_bytes(script.read())
    for half in HALVES:
        for kind in KINDS:
            name = file_name(kind, half)
            (work / name).symlink_to(next(raw.rglob(name)).resolve())
    return work


def compare(dataset: Dataset, csv: Path) -> int:
    """Check our training rows against torch-rechub's; give the number of columns compared."""
    theirs = pl.read_csv(csv)
    train = dataset.train
    assert len(theirs) == len(train), (len(theirs), len(train))
    np.testing.assert_array_equal(theirs.select("click", "purchase").to_numpy(), train.labels)
    for column, field in enumerate(dataset.schema.categorical):
        pairs = np.unique(
            np.stack([theirs[field.name].cast(pl.Int64).to_numpy(), train.ids[:, column]]), axis=1
        )
        for side in pairs:
            assert len(np.unique(side)) == pairs.shape[1], f"{field.name}: not one to one"
        assert set(pairs[1][pairs[0] == 0].tolist()) <= {OOV}, field.name
    for column, number in enumerate(dataset.schema.numeric):
        np.testing.assert_allclose(
            train.numeric[:, column], theirs[number.name].to_numpy(), atol=1e-3, err_msg=number.name
        )
    return len(dataset.schema.categorical) + len(dataset.schema.numeric)


def main() -> None:
    """Generate, run every contender, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, default=1e6, help="rows of both halves together")
    parser.add_argument("--hist", type=float, default=1.0)
    parser.add_argument("--raw", type=Path, help="files that are there already")
    parser.add_argument("--rechub", type=Path, help="torch-rechub's source distribution")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        raw = options.raw
        if raw is None:
            half = int(options.rows / 2)
            config = GeneratorConfig(rows=half, test_rows=half, hist=options.hist, cvr=0.05)
            generate(config, work / "raw", workers=os.cpu_count() or 1)
            raw = work / "raw"
        raw = raw.resolve()
        results = contenders(raw, work, options.rechub)
    show(results, raw_bytes=results.pop("bytes"), rows=results.pop("rows"))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def contenders(raw: Path, work: Path, sdist: Path | None) -> dict[str, Any]:
    """Run everything; give seconds and peak memory by contender, and what was measured on."""
    here = str(Path(__file__).resolve().parent)
    results: dict[str, Any] = {"bytes": sum(p.stat().st_size for p in raw.rglob("*_*_*.csv"))}
    results["read and split"] = run([sys.executable, "-c", FLOOR, str(raw), here], work)[:2]
    ours = {}
    for label, name in (("lossless", "aliccp"), ("rechub preset", "aliccp_rechub")):
        command = [sys.executable, "-c", OURS, name, str(raw), str(work / "data")]
        seconds, peak, path = run(command, work)
        results[label], ours[label] = (seconds, peak), open_dataset(Path(path))
    results["rows"] = ours["lossless"].manifest["accounting"]["read"]
    if sdist is not None:
        folder = work / "rechub"
        folder.mkdir()
        command = [sys.executable, "preprocess.py"]
        results["torch-rechub"] = run(command, rechub(sdist, raw, folder), one_core=True)[:2]
        n = compare(ours["rechub preset"], folder / "ali_ccp_train.csv")
        results["columns equal to torch-rechub's"] = n
    return results


def show(results: dict[str, Any], *, raw_bytes: int, rows: int) -> None:
    """Print the table."""
    table = Table("", "seconds", "rows/s", "MB/s", "of lossless", "peak memory MB", box=None)
    base = results["lossless"][0]
    for name, result in results.items():
        if not isinstance(result, tuple):
            continue
        seconds, peak = result
        cells = (f"{seconds:.1f}", f"{rows / seconds:,.0f}", f"{raw_bytes / seconds / 1e6:,.0f}")
        table.add_row(name, *cells, f"{base / seconds:.2f}", f"{peak:,.0f}")
    console = Console()
    console.print(f"{rows:,} rows, {raw_bytes / 1e9:.2f} GB, {os.cpu_count()} cores")
    console.print(table)
    if n := results.get("columns equal to torch-rechub's"):
        console.print(f"training rows: {n} columns equal to torch-rechub's")


if __name__ == "__main__":
    main()
