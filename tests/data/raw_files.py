"""Small raw files in the true formats of the public datasets, drawn at random."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from cvrbench.data.sources import kuaishou, small_tables


def kuairand_files(rows: int = 600, seed: int = 0) -> dict[str, str]:
    rng = np.random.default_rng(seed)
    lines = [",".join(kuaishou.LOG_COLUMNS)]
    for row in range(rows):
        click = int(rng.random() < 0.4)
        values = dict.fromkeys(kuaishou.LOG_COLUMNS, 0)
        values |= {
            "user_id": int(rng.integers(40)),
            "video_id": int(rng.integers(30)),
            "date": 20220428 + int(rng.integers(3)) if row % 2 else 20220501 + int(rng.integers(8)),
            "hourmin": 100 * int(rng.integers(24)),
            "time_ms": 1_650_000_000_000 + row,
            "is_click": click,
            "long_view": click * int(rng.random() < 0.6),
            "is_like": click * int(rng.random() < 0.2),
            "duration_ms": int(rng.integers(1000, 60000)),
            "play_time_ms": 997 * row % 70_000,
            "tab": int(rng.integers(3)),
        }
        lines.append(",".join(str(values[column]) for column in kuaishou.LOG_COLUMNS))
    users = [
        "user_id",
        *kuaishou.USER_FIELDS,
        "follow_user_num",
        "fans_user_num",
        "friend_user_num",
        "register_days",
    ]
    user_lines = [",".join(users)]
    for user in range(40):
        row = ['"[100,1k)"' if c.endswith("_range") else str(user % 5) for c in users]
        row[0] = str(user)
        user_lines.append(",".join(row))
    videos = ["video_id", *kuaishou.VIDEO_FIELDS, "tag"]
    video_lines = [",".join(videos)]
    for video in range(30):
        tags = '"1,2"' if video % 3 else ""
        video_lines.append(",".join([str(video), *["7"] * len(kuaishou.VIDEO_FIELDS), tags]))
    return {
        "log_standard_4_25_to_5_08_pure.csv": "\n".join(lines) + "\n",
        kuaishou.USERS: "\n".join(user_lines) + "\n",
        kuaishou.VIDEOS: "\n".join(video_lines) + "\n",
    }


def census_files(rows: int = 400, seed: int = 0) -> dict[str, str]:
    rng = np.random.default_rng(seed)
    files = {}
    for file in small_tables.CENSUS_FILES:
        lines = []
        for _ in range(rows):
            values = dict.fromkeys(small_tables.CENSUS_COLUMNS, "Not in universe")
            values |= {column: str(int(rng.integers(60))) for column in small_tables.CENSUS_NUMBERS}
            values["education"] = str(rng.choice([*small_tables.COLLEGE, "Children", "10th grade"]))
            values["marital_stat"] = str(rng.choice(["Never married", "Divorced"]))
            values["instance_weight"] = "1700.09"
            values["income_50k"] = str(rng.choice(["- 50000.", "50000+."]))
            lines.append(", ".join(values[column] for column in small_tables.CENSUS_COLUMNS))
        files[file] = "\n".join(lines) + "\n"
    return files


def adult_files(rows: int = 300, seed: int = 0) -> dict[str, str]:
    rng = np.random.default_rng(seed)

    def line(dot: str) -> str:
        married = rng.choice(["Never-married", "Divorced"])
        income = rng.choice(["<=50K", ">50K"])
        age = rng.integers(17, 90)
        return (
            f"{age}, Private, 77516, Bachelors, 13, {married}, Sales, Wife, White, Male, "
            f"{rng.integers(5000)}, 0, 40, ?, {income}{dot}"
        )

    learn = "\n".join(line("") for _ in range(rows))
    test = "\n".join(line(".") for _ in range(rows))
    return {"adult.data": f"{learn}\n\n", "adult.test": f"|1x3 Cross validator\n{test}\n\n"}


def hillstrom_files(rows: int = 600, seed: int = 0) -> dict[str, str]:
    rng = np.random.default_rng(seed)
    lines = [
        "recency,history_segment,history,mens,womens,zip_code,newbie,channel,segment,visit,"
        "conversion,spend"
    ]
    for _ in range(rows):
        visit = int(rng.random() < 0.4)
        bought = visit * int(rng.random() < 0.3)
        lines.append(
            f"{rng.integers(1, 13)},2) $100 - $200,{rng.random() * 300:.2f},1,0,Rural,0,Web,"
            f"No E-Mail,{visit},{bought},{bought * 29.99}"
        )
    return {small_tables.HILLSTROM_FILE: "\n".join(lines) + "\n"}


FILES = {
    "kuairand": kuairand_files,
    "census_income": census_files,
    "adult": adult_files,
    "hillstrom": hillstrom_files,
}


def write(files: dict[str, str], folder: Path, kind: str = "plain") -> Path:
    """Write files as a plain or gzipped folder, or as an archive; give what `--raw` would name."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "plain":
        for name, text in files.items():
            (folder / name).write_text(text)
        return folder
    if kind == "gz":
        for name, text in files.items():
            (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        return folder
    if kind == "zip":
        with zipfile.ZipFile(folder / "raw.zip", "w") as archive:
            for name, text in files.items():
                archive.writestr(f"inside/{name}", text)
        return folder / "raw.zip"
    with tarfile.open(folder / "raw.tar.gz", "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"inside/data/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return folder / "raw.tar.gz"
