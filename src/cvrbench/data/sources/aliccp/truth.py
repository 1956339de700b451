"""The true probabilities beside generated files: `truth_<half>.csv`, a line per skeleton row."""

import io
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

from cvrbench.data.archives import RawFile
from cvrbench.data.sources.aliccp.parts import Part
from cvrbench.errors import DataError

COLUMNS = ("sample_id", "p_ctr", "p_cvr")
BLOCK_BYTES = 4 << 20


class TruthReader:
    """Hands out the lines of a truth file as the skeleton rows ask for them, in order."""

    def __init__(self, raw: RawFile) -> None:
        self._raw = raw
        self._frames = self._read()
        self._held = next(self._frames, _as_frame(b"", raw))
        self._first_line = 1

    def take(self, part: Part) -> npt.NDArray[np.float64]:
        """Give `[rows, 2]`, P(click) and P(conversion | click), of a part's rows.

        Raises:
            DataError: The file is no truth file, too short, or of other rows.
        """
        if not len(part.line):
            return np.empty((0, 2))
        last = int(part.line[-1])
        while self._first_line + len(self._held) <= last:
            more = next(self._frames, None)
            if more is None:
                raise DataError(f"{self._raw.where} ends before row {last:,} of the skeleton file")
            self._held = pl.concat([self._held, more])
        rows = self._held[part.line - self._first_line]
        done = last + 1 - self._first_line
        self._held, self._first_line = self._held.slice(done), last + 1
        if not np.array_equal(rows["sample_id"].to_numpy(), part.sample_id):
            raise DataError(
                f"{self._raw.where}: sample ids differ from the skeleton file's before its line "
                f"{last:,}; the two belong to different data"
            )
        truth: npt.NDArray[np.float64] = rows.select(COLUMNS[1:]).to_numpy()
        return truth

    def _read(self) -> Iterator[pl.DataFrame]:
        header = (",".join(COLUMNS) + "\n").encode()
        for number, block in enumerate(self._raw.blocks(BLOCK_BYTES)):
            if number == 0:
                if not block.startswith(header):
                    raise DataError(f"{self._raw.where}: expected the header {','.join(COLUMNS)}")
                yield _as_frame(block[len(header) :], self._raw)
            else:
                yield _as_frame(block, self._raw)


def _as_frame(block: bytes, raw: RawFile) -> pl.DataFrame:
    schema = {COLUMNS[0]: pl.Int64, COLUMNS[1]: pl.Float64, COLUMNS[2]: pl.Float64}
    if not block:
        return pl.DataFrame(schema=schema)
    try:
        return pl.read_csv(io.BytesIO(block), has_header=False, schema=schema)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{raw.where} cannot be read: {str(error).splitlines()[0]}") from None
