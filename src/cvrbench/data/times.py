"""A column that orders rows: numbers, dates or times, decided once for all of its rows.

Text is taken where one form, of a short list that can be read in one way only, fits every value.
`03/04/2021` is none of them: whether that is in March or in April, the user must say.
"""

from datetime import UTC, datetime
from typing import Any, NamedTuple

import polars as pl

from cvrbench.errors import DataError

Value = int | float | str


class Form(NamedTuple):
    """A way in which times are written as text."""

    words: str
    pattern: str
    """Regular expression that a value must match, after `_tidy`."""
    format: str | None
    """As polars reads it; None for numbers."""


DAY, CLOCK, ZONE = r"^\d{4}-\d{1,2}-\d{1,2}", r" \d{1,2}:\d{2}", r"[+-]\d{4}$"
FORMS = (
    # Digits that begin with 0 may be a day, 09302021, whose order is not that of the number.
    Form("whole numbers", r"^[+-]?(0|[1-9]\d{0,17})$", None),
    Form("numbers", r"^[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?$", None),
    *(
        Form(words, pattern.replace("-", sign, 2) if sign == "/" else pattern, form)
        for sign in "-/"
        for words, pattern, form in (
            (f"days like 2021{sign}09{sign}30", f"{DAY}$", f"%Y{sign}%m{sign}%d"),
            ("times to the minute", f"{DAY}{CLOCK}$", f"%Y{sign}%m{sign}%d %H:%M"),
            ("times", rf"{DAY}{CLOCK}:\d{{2}}(\.\d+)?$", f"%Y{sign}%m{sign}%d %H:%M:%S%.f"),
            ("times with zones", f"{DAY}{CLOCK}{ZONE}", f"%Y{sign}%m{sign}%d %H:%M%z"),
            (
                "times with zones",
                rf"{DAY}{CLOCK}:\d{{2}}(\.\d+)?{ZONE}",
                f"%Y{sign}%m{sign}%d %H:%M:%S%.f%z",
            ),
        )
    ),
    Form("times like 20210930T100000", r"^\d{8}T\d{6}$", "%Y%m%dT%H%M%S"),
    Form(
        "times like 30 Sep 2021 10:00:00 +0000",
        r"^\d{1,2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2}[+-]\d{4}$",
        "%d %b %Y %H:%M:%S%z",
    ),
)
GUESSES = (
    *(
        f"{day}{clock}"
        for day in ("%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y年%m月%d日")
        for clock in ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
    ),
    *(
        "%m%d%Y",
        "%d%m%Y",
        "%Y.%m.%d",
        "%d-%b-%Y",
        "%d/%b/%Y:%H:%M:%S %z",
        "%d %b %Y",
        "%b %d, %Y",
        "%m/%d/%y",
    ),
)
"""Formats that an error may propose, and that are never taken unasked."""
EPOCHS = ((8e8, 8e9), (8e11, 8e12), (8e14, 8e15), (8e17, 8e18))
"""Between which numbers the seconds, ms, us and ns since 1970 of our times are."""
FAR, FIRST_YEAR = 30, 1000
DAYS = (1_01_1970, 31_12_2099)
EXPECTED = (
    "times are numbers, dates or timestamps, or text in one of these forms throughout: 1632996000, "
    "2021-09-30, 2021-09-30 10:00[:00.5][+08:00], 30 Sep 2021 10:00:00 +0000"
)


def _tidy(text: pl.Series) -> pl.Series:
    """Return times in text with the parts that ISO 8601 and RFC 5322 leave open made alike."""
    return (
        text.str.strip_chars()
        .str.replace(r"^(\d{4}[-/]\d{1,2}[-/]\d{1,2})[Tt]", "${1} ")
        .str.replace(r"(:\d{2}),(\d)", "${1}.${2}")
        .str.replace(r"^[A-Z][a-z]{2}, ", "")
        .str.replace(r"(:\d{2}(?:\.\d+)?) ?(?:[Zz]|UTC|GMT|UT)$", "${1}+0000")
        .str.replace(r"(:\d{2}(?:\.\d+)?) ?([+-]\d{2}):?(\d{2})$", "${1}${2}${3}")
        .str.replace(r"(:\d{2}(?:\.\d+)?) ?([+-]\d{2})$", "${1}${2}00")
    )


def _read(text: pl.Series, form: Form) -> pl.Series:
    """Return text as times, null where it is not of this form."""
    fits = text.set(~text.str.contains(form.pattern).fill_null(value=False), None)
    if form.format is None:
        whole = form.words == "whole numbers"
        return fits.cast(pl.Int64 if whole else pl.Float64, strict=False)
    return _parse(fits, form.format)


def _parse(text: pl.Series, form: str) -> pl.Series:
    clock = any(sign in form for sign in ("%H", "%I", "%T", "%R", "%s", "%k", "%l", "%c", "%X"))
    if not clock:
        return text.str.to_date(form, strict=False)
    zone = "UTC" if "%z" in form or "%:z" in form or "%#z" in form else None
    return text.str.to_datetime(form, strict=False, time_unit="us", time_zone=zone)


class TimeColumn:
    """The times of a column, chunk after chunk; 8 bytes a row are held."""

    def __init__(self, name: str, time_format: str | None = None) -> None:
        self.name, self._format = name, time_format
        forms = FORMS if time_format is None else (Form(f"like {time_format}", "", time_format),)
        self._read: dict[Form, list[pl.Series]] = {form: [] for form in forms}
        self._typed: list[pl.Series] = []

    def add(self, values: pl.Series, kept: pl.Series, file: str, first_row: int) -> None:
        """Add the times of those rows that are kept; the first of all has this number in the file.

        Raises:
            DataError: A value is absent, or none that orders rows as those before it.
        """
        if values.dtype in (pl.Categorical, pl.Enum):
            values = values.cast(pl.String)
        if values.dtype == pl.Time:
            raise DataError(
                f"{file}: column {self.name!r} holds times of day without their days, which give "
                "rows no order; write both as one timestamp"
            )
        if self._format is not None and values.dtype.is_integer():
            width = len(datetime(2021, 11, 11, tzinfo=UTC).strftime(self._format))
            values = values.cast(pl.String).str.zfill(width)
        if values.dtype.is_float():
            values = values.set(~values.is_finite(), None)
        where = f"{file}: column {self.name!r} orders the rows, but"
        if values.null_count():
            row = values.is_null().arg_true()[0]
            raise DataError(
                f"{where} {values.null_count():,} have no value there (first: row "
                f"{first_row + row:,}); leave such rows out of the file, or choose another split"
            )
        if values.dtype == pl.String:
            self._add_text(values, kept, where, first_row)
        elif self._format is not None:
            raise DataError(
                f"{where} holds {values.dtype}, which needs no format; set dataset.time_format=null"
            )
        elif values.dtype.is_numeric() or values.dtype.is_temporal():
            self._typed.append(values.filter(kept))
        else:
            raise DataError(f"{where} holds {values.dtype}, which has no order in time; {EXPECTED}")

    def _add_text(self, values: pl.Series, kept: pl.Series, where: str, first_row: int) -> None:
        text = values if self._format is not None else _tidy(values)
        failed: dict[Form, int] = {}
        for form in tuple(self._read):
            try:
                times = _read(text, form) if form.pattern else _parse(text, form.format or "")
            except pl.exceptions.PolarsError:
                raise DataError(
                    f"dataset.time_format={form.format!r} is no format of times, such as "
                    "'%d.%m.%Y %H:%M'"
                ) from None
            if times.null_count():
                failed[form] = int(times.is_null().arg_true()[0])
            else:
                self._read[form].append(times.filter(kept))
        if len(failed) == len(self._read):
            form, row = max(failed.items(), key=lambda item: item[1])
            before = bool(row) or bool(self._read[form])
            like = f", not {form.words} as in the rows before it" if before else ""
            if self._format is not None:
                like = f", which is not as dataset.time_format={self._format!r} says"
            raise DataError(
                f"{where} holds {values[row]!r} in row {first_row + row:,}{like}; {EXPECTED}"
                f"{self._proposal(values)}"
            )
        for form in failed:
            del self._read[form]

    def _proposal(self, values: pl.Series) -> str:
        fitting = [f for f in GUESSES if not _parse(values, f).null_count()]
        if self._format is not None or not fitting:
            return "" if self._format is not None else ", or as dataset.time_format says"
        if len(fitting) == 1:
            return f"; if that is {fitting[0]}, set dataset.time_format='{fitting[0]}'"
        return f"; say which it is with dataset.time_format: {' or '.join(map(repr, fitting))}"

    def finish(self) -> pl.Series:
        """Return the times of all rows in their order."""
        parts = self._typed or next(iter(self._read.values()))
        frames = [part.alias("time").to_frame() for part in parts]
        times = pl.concat(frames, how="vertical_relaxed")["time"]
        self._check_scale(times)
        return times

    def _check_scale(self, times: pl.Series) -> None:
        """Refuse numbers of several units, days written as numbers, and dates that mean none.

        Raises:
            DataError: The times' order is not that of their values.
        """
        if times.dtype in (pl.Date, pl.Datetime) and (wrong := times.dt.year() < FIRST_YEAR).any():
            raise DataError(
                f"column {self.name!r} orders the rows, but holds {times.filter(wrong)[0]}; are "
                "its years written with two digits, %y, or its days and months without a 0?"
            )
        numbers = times.cast(pl.Datetime("us")) if times.dtype == pl.Date else times
        if isinstance(numbers.dtype, pl.Datetime):
            numbers = numbers.dt.cast_time_unit("us").to_physical()
        if not numbers.dtype.is_numeric():
            return
        numbers = numbers.cast(pl.Float64)
        for low, high in EPOCHS:
            inside = numbers.is_between(low, high)
            if 2 * int(inside.sum()) < len(numbers):
                continue
            first, last = numbers.filter(inside).min(), numbers.filter(inside).max()
            far = (numbers * FAR < first) | (numbers > FAR * last)  # type: ignore[operator]
            if far.any() and (inside | far).all():
                place = far.arg_true()[0]
                raise DataError(
                    f"column {self.name!r} orders the rows, but holds {times[place]} beside times "
                    f"such as {times.filter(inside)[0]} ({int(far.sum()):,} rows): another unit, "
                    "or a word for no time; write all times in one unit, or leave such rows out"
                )
        if times.dtype.is_integer() and DAYS[0] <= numbers.min() <= numbers.max() <= DAYS[1]:  # type: ignore[operator]
            text = times.unique().cast(pl.String).str.zfill(8)
            forms = [f for f in ("%m%d%Y", "%d%m%Y") if not _parse(text, f).null_count()]
            if forms and _parse(text, "%Y%m%d").null_count():
                raise DataError(
                    f"column {self.name!r} orders the rows, but holds {times[0]}, which looks like "
                    f"a day; if it is, set dataset.time_format={' or '.join(map(repr, forms))}"
                )

    def boundary(self, key: str, value: Value, times: pl.Series) -> Any:
        """Return a time that the user gave in the type of the column.

        Raises:
            DataError: It is none, or of another kind than the column's.
        """
        if times.dtype.is_numeric():
            if isinstance(value, str):
                read = pl.Series([value]).cast(pl.Float64, strict=False)[0]
                value = read if read is not None else value
            if not isinstance(value, str):
                return value
        else:
            text = pl.Series([str(value)])
            forms = [Form("", ".", self._format)] if self._format else []
            for form in (*forms, *FORMS[2:]):
                found = _read(text if form.format == self._format else _tidy(text), form)
                if found.null_count():
                    continue
                if isinstance(times.dtype, pl.Datetime):
                    zone = times.dtype.time_zone
                    found = found.cast(pl.Datetime("us", getattr(found.dtype, "time_zone", None)))
                    if zone is not None and found.dtype.time_zone is None:  # type: ignore[attr-defined]
                        found = found.dt.replace_time_zone(
                            zone, ambiguous="earliest", non_existent="null"
                        )
                    if zone is None and found.dtype.time_zone is not None:  # type: ignore[attr-defined]
                        continue
                elif found.dtype != times.dtype:
                    continue
                if not found.null_count():
                    return found[0]
        raise DataError(
            f"dataset.{key}={value!r} is no value of column {self.name!r}, which holds "
            f"{times.dtype} such as {times[0]}"
        )
