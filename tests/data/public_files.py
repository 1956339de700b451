"""Small raw files of large public datasets, in their true formats, every value known."""

import random
from collections.abc import Callable

from cvrbench.data.sources import kuaishou, logs

Row = dict[str, float | int | str]
Table = list[Row]


def text(rows: Table, *, separator: str = ",", header: bool = True) -> str:
    lines = [separator.join(rows[0])] if header else []
    return "".join(f"{line}\n" for line in [*lines, *(_line(row, separator) for row in rows)])


def _line(row: Row, separator: str) -> str:
    return separator.join(str(value) for value in row.values())


def tiktok_rows(n: int = 600, seed: int = 0) -> Table:
    rng = random.Random(seed)
    rows = []
    for k in range(n):
        row: Row = {name: rng.randint(0, 30) for name in logs.TIKTOK_COLUMNS}
        row |= {"finish": int(rng.random() < 0.4), "like": int(rng.random() < 0.1)}
        row |= {"create_time": 53_085_000_000 + (k // 3) * 7, "video_duration": rng.randint(0, 60)}
        if k % 5 == 0:
            row |= {"item_city": -1, "music_id": -1}
        rows.append(row)
    rng.shuffle(rows)  # nothing may depend on the order of time in the file
    return rows


def tenrec_rows(n: int = 900, seed: int = 0) -> Table:
    rng = random.Random(seed)
    rows = []
    for _ in range(n):
        click = int(rng.random() < 0.3)
        history = [rng.randint(1, 50) for _ in range(rng.randint(0, 10))]
        row: Row = {
            "user_id": rng.randint(1, 60),
            "item_id": rng.randint(1, 90),
            "click": click,
            "follow": click * int(rng.random() < 0.1),
            "like": int(rng.random() < (0.3 if click else 0.01)),
            "share": click * int(rng.random() < 0.1),
            "video_category": rng.randint(0, 5),
            "watching_times": click,
            "gender": rng.randint(0, 2),
            "age": rng.randint(0, 7),
        }
        rows.append(row | {f"hist_{k + 1}": v for k, v in enumerate(history + [0] * 10) if k < 10})
    return rows


CRITEO_COLUMNS = (
    "timestamp", "uid", "campaign", "conversion", "conversion_timestamp", "conversion_id",
    "attribution", "click", "click_pos", "click_nb", "cost", "cpo", "time_since_last_click",
    *(f"cat{k}" for k in range(1, 10)),
)  # fmt: skip


def criteo_rows(n: int = 900, seed: int = 0) -> Table:
    rng = random.Random(seed)
    rows = []
    for k in range(n):
        click = int(rng.random() < 0.4)
        sale = int(rng.random() < 0.3)
        values = {name: rng.randint(0, 30) for name in CRITEO_COLUMNS}
        values |= {
            "timestamp": k * 31 * 86_400 // n,
            "uid": rng.randint(0, 80),
            "conversion": sale,
            "attribution": sale * click * int(rng.random() < 0.7),
            "click": click,
            "cost": round(rng.random(), 6),
            "cpo": round(rng.random(), 6),
            "time_since_last_click": rng.choice([-1, rng.randint(0, 90_000)]),
            "cat3": rng.choice([-1, 5, 6]),
        }
        rows.append({name: values[name] for name in CRITEO_COLUMNS})
    return rows


def kuairec_tables(n: int = 900, seed: int = 0) -> dict[str, Table]:
    rng = random.Random(seed)

    def view(user: int, video: int, time: float | str) -> Row:
        return {
            "user_id": user,
            "video_id": video,
            "play_duration": rng.randint(0, 60_000),
            "video_duration": rng.randint(1_000, 60_000),
            "time": "2020-07-05 05:27:48.378",
            "date": 20200705,
            "timestamp": time,
            "watch_ratio": round(rng.random() * 4, 6),
        }

    small = [view(user, video, "") for user in range(12) for video in range(10)]
    big = [
        view(rng.randint(0, 40), rng.randint(0, 60), 1_593_898_068.378 + k * 60) for k in range(n)
    ]
    users: Table = [
        {"user_id": user}
        | {c: '"[10,50)"' if c.endswith("_range") else user % 4 for c in kuaishou.USER_FIELDS}
        for user in range(41)
    ]
    items: Table = [{"video_id": v, "feat": f'"[{v % 7}, {v % 5}]"'} for v in range(61)]
    return {
        kuaishou.BIG: big,
        kuaishou.SMALL: small,
        kuaishou.PEOPLE: users,
        kuaishou.ITEMS: items,
    }


def aliexpress_tables(pages: int = 30, seed: int = 0) -> dict[str, Table]:
    """Pages in another order than the items that refer to them; some items have no page."""
    rng = random.Random(seed)
    tables: dict[str, Table] = {}
    for half, first in (("train", 0), ("test", 10_000)):
        users: Table = []
        items: Table = []
        for search in range(first, first + pages):
            row = {c: round(rng.random(), 6) for c in logs.USER_COLUMNS}
            users.append(row | {"search_id": search} | _codes(rng, logs.USER_IDS))
            for _ in range(rng.randint(1, 12)):
                item = {c: round(rng.random(), 6) for c in logs.ITEM_COLUMNS}
                label = rng.choice([0, 0, 0, 1, 1, 2])
                item |= {"search_id": search} | _codes(rng, logs.ITEM_IDS)
                items.append(item | {"item_49": label})
        for orphan in items[:3]:
            items.append(orphan | {"search_id": 999_999})
        rng.shuffle(users)
        tables |= {f"nl_user_{half}.csv": users, f"nl_item_{half}.csv": items}
    return tables


def _codes(rng: random.Random, names: tuple[str, ...]) -> Row:
    return {name: rng.randint(0, 9) for name in names}


def kuairand_large(variant: str = "27k", n: int = 900, seed: int = 0) -> dict[str, Table]:
    rng = random.Random(seed)

    def view(k: int) -> Row:
        click = int(rng.random() < 0.5)
        row: Row = dict.fromkeys(kuaishou.LOG_COLUMNS, 0)
        day = 20220408 + k * 22 // n if k * 22 // n < 22 else 20220430
        day = day if day <= 20220430 else 20220501 + (day - 20220431)
        return row | {
            "user_id": rng.randint(0, 40),
            "video_id": rng.randint(0, 60),
            "date": day if k < n * 9 // 10 else 20220503,
            "hourmin": 100 * rng.randint(0, 23),
            "is_click": click,
            "long_view": int(rng.random() < (0.6 if click else 0.02)),
            "duration_ms": rng.randint(1_000, 60_000),
            "tab": rng.randint(0, 3),
        }

    log = [view(k) for k in range(n)]
    users: Table = [
        {"user_id": user}
        | {c: '"[1,10)"' if c.endswith("_range") else user % 4 for c in kuaishou.USER_FIELDS}
        | dict.fromkeys(kuaishou.COUNTS, user)
        for user in range(41)
    ]
    videos: Table = [
        {
            "video_id": v,
            "author_id": v % 9,
            "video_type": "NORMAL",
            "upload_dt": "2022-04-01",
            "upload_type": "ShortImport",
            "music_id": v % 8,
            "music_type": 4.0,
            "tag": '"12,65"' if v % 3 else v % 5,
        }
        for v in range(61)
    ]
    return {
        f"log_standard_4_08_to_4_21_{variant}_part1.csv": log[: n // 2],
        f"log_standard_4_22_to_5_08_{variant}_part1.csv": log[n // 2 :],
        f"user_features_{variant}.csv": users,
        f"video_features_basic_{variant}_part1.csv": videos[:30],
        f"video_features_basic_{variant}_part2.csv": videos[30:],
    }


Files = Callable[[], dict[str, str]]
FILES: dict[str, Files] = {
    "tiktok": lambda: {"final_track2_train.txt": text(tiktok_rows(), separator="\t", header=False)},
    "tenrec": lambda: {"ctr_data_1M.csv": text(tenrec_rows())},
    "criteo_attribution": lambda: {
        "criteo_attribution_dataset.tsv": text(criteo_rows(), separator="\t")
    },
    "kuairec": lambda: {name: text(rows) for name, rows in kuairec_tables().items()},
    "aliexpress": lambda: {
        name: text(rows, header=False) for name, rows in aliexpress_tables().items()
    },
    "kuairand_1k": lambda: {n: text(rows) for n, rows in kuairand_large("1k").items()},
    "kuairand_27k": lambda: {n: text(rows) for n, rows in kuairand_large("27k").items()},
}
