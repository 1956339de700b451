"""Small Ali-CCP files of which the test knows every value, written without the package's help."""

import math
import random
from dataclasses import dataclass, field
from pathlib import Path

BLOCKS = {
    "101": (1, 400), "109_14": (446_200, 446_260), "110_14": (1_000_000, 1_000_300),
    "121": (3_438_658, 3_438_754), "122": (3_438_755, 3_438_767), "124": (3_438_768, 3_438_769),
    "125": (3_438_770, 3_438_776), "126": (3_438_777, 3_438_779), "127": (3_438_780, 3_438_782),
    "127_14": (3_500_000, 3_500_200), "128": (3_864_885, 3_864_886), "129": (3_864_887, 3_864_890),
    "150_14": (3_900_000, 3_900_090), "205": (5_000_000, 5_000_400), "206": (8_316_200, 8_316_230),
    "207": (8_500_000, 8_500_200), "210": (9_050_000, 9_050_050), "216": (9_200_000, 9_200_100),
    "301": (9_351_664, 9_351_666), "508": (9_400_000, 9_400_030), "509": (9_500_000, 9_500_100),
    "702": (9_900_000, 9_900_090), "853": (10_010_000, 10_010_060),
}  # fmt: skip
COMMON_SINGLES = ("101", "121", "122", "124", "125", "126", "127", "128", "129")
COMMON_BAGS = ("109_14", "110_14", "127_14", "150_14")
SINGLES = ("205", "206", "207", "216", "301")
BAGS = ("210", "508", "509", "702", "853")

Token = tuple[str, int, str]


@dataclass
class Context:
    """A line of a common file."""

    index: str
    tokens: list[Token]

    def line(self) -> str:
        return f"{self.index},{len(self.tokens)},{features(self.tokens)}"


@dataclass
class Row:
    """A line of a skeleton file."""

    sample_id: int
    click: int
    conversion: int
    context: Context
    tokens: list[Token]

    def line(self) -> str:
        head = f"{self.sample_id},{self.click},{self.conversion},{self.context.index}"
        return f"{head},{len(self.tokens)},{features(self.tokens)}"

    def values(self, name: str) -> list[tuple[int, float]]:
        """Ids and weights of a field, wherever it stands, in the order of the file."""
        both = [*self.context.tokens, *self.tokens]
        return [(identity, float(text)) for of, identity, text in both if of == name]


@dataclass
class Half:
    """Both files of one half."""

    contexts: list[Context]
    rows: list[Row]
    truth: list[tuple[float, float]] = field(default_factory=list)


def features(tokens: list[Token]) -> str:
    return "\x01".join(f"{name}\x02{identity}\x03{text}" for name, identity, text in tokens)


def weight(rng: random.Random) -> str:
    """ln(1 + count) as the files have it: five decimals, trailing zeros cut."""
    return repr(round(math.log(1 + rng.randint(1, 400)), 5))


def draw(seed: int, n_contexts: int = 12, n_rows: int = 150, first_key: int = 0) -> Half:
    """Draw one half; the contexts stand in another order than the rows that refer to them."""
    rng = random.Random(f"{seed} {first_key}")
    contexts = [_context(rng, first_key + k) for k in range(n_contexts)]
    rows = []
    for number in range(1, n_rows + 1):
        click = int(rng.random() < 0.4)
        conversion = int(rng.random() < (0.4 if click else 0.03))
        context = contexts[min(number * n_contexts // n_rows, n_contexts - 1)]
        rows.append(Row(number, click, conversion, context, _tokens(rng, SINGLES, BAGS, 6)))
    truth = [(round(rng.random(), 7), round(rng.random(), 7)) for _ in rows]
    rng.shuffle(contexts)
    return Half(contexts, rows, truth)


def _context(rng: random.Random, key: int) -> Context:
    index = f"{(key * 0x9E3779B97F4A7C15 + 12345) % (1 << 64):016x}"
    return Context(index, _tokens(rng, COMMON_SINGLES, COMMON_BAGS, 9))


def _tokens(
    rng: random.Random, singles: tuple[str, ...], bags: tuple[str, ...], longest: int
) -> list[Token]:
    groups = [
        [(name, rng.randint(*BLOCKS[name]), "1.0")] for name in singles if rng.random() < 0.85
    ]
    groups += [
        [(name, rng.randint(*BLOCKS[name]), weight(rng)) for _ in range(rng.randint(0, longest))]
        for name in bags
    ]
    rng.shuffle(groups)
    tokens = [token for group in groups for token in group]
    return tokens or [(singles[0], BLOCKS[singles[0]][0], "1.0")]


def write(folder: Path, train: Half, test: Half, *, truth: bool = False) -> Path:
    """Write the files as the provider's archives unpack."""
    for name, half in (("train", train), ("test", test)):
        place = folder / f"sample_{name}"
        place.mkdir(parents=True, exist_ok=True)
        write_lines(place / f"common_features_{name}.csv", [c.line() for c in half.contexts])
        write_lines(place / f"sample_skeleton_{name}.csv", [r.line() for r in half.rows])
        if truth:
            pairs = zip(half.rows, half.truth, strict=True)
            lines = [f"{row.sample_id},{click},{conversion}" for row, (click, conversion) in pairs]
            write_lines(folder / f"truth_{name}.csv", ["sample_id,p_ctr,p_cvr", *lines])
    return folder


def write_lines(path: Path, lines: list[str]) -> None:
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
