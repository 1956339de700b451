"""Archives that were made to do harm: nothing leaves its folder, nothing exhausts the machine."""

import gzip
import io
import lzma
import resource
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from cvrbench.data import archives
from cvrbench.data.archives import locate
from cvrbench.errors import DataError

GOOD = b"a,b\n1,2\n"
ESCAPES = ("../../canary", "/tmp/cvrbench-canary", "a/../../canary", "..\\..\\canary", "C:\\canary")


def tar_of(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def named(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def zip_of(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def content(place: Path) -> bytes:
    return locate(place, ["log.csv"], dataset="mine")["log.csv"].read()


def everything(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def place(tmp_path):
    """A folder two levels down, beside which nothing may appear."""
    folder = tmp_path / "raw" / "mine"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("path", ESCAPES)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_path_that_leads_out_is_read_by_its_last_part_and_written_nowhere(
    path, kind, place, tmp_path
):
    inside = f"{path}/log.csv"
    whole = tar_of((named(inside), GOOD)) if kind == "tar" else zip_of(**{inside: GOOD})
    file = place / ("x.tar.gz" if kind == "tar" else "x.zip")
    file.write_bytes(whole)
    before = everything(tmp_path)
    assert content(place) == GOOD
    assert everything(tmp_path) == before
    assert not Path("/tmp/cvrbench-canary").exists()


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, "../../secret"),
        (tarfile.LNKTYPE, "../../secret"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_links_and_devices_are_no_files(kind, link, place, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (place / "x.tar").write_bytes(tar_of((named("log.csv", kind, link), b""), mode="w"))
    with pytest.raises(DataError, match=r"has no file log\.csv"):
        locate(place, ["log.csv"], dataset="mine")


def test_a_link_in_a_zip_is_the_path_that_it_holds_and_is_not_followed(place):
    link = zipfile.ZipInfo("log.csv")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(place / "x.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert content(place) == b"/etc/passwd"


@pytest.fixture
def small_limits(monkeypatch):
    monkeypatch.setattr(archives, "ALWAYS_FINE", 1 << 20)


def bomb(size: int = 16 << 20) -> bytes:
    return bytes(size)


def test_a_gzip_bomb_is_stopped_before_it_is_whole(place, small_limits):
    (place / "log.csv.gz").write_bytes(gzip.compress(bomb()))
    with pytest.raises(DataError, match=r"log\.csv\.gz unpacks to .* as no log does"):
        content(place)
    with pytest.raises(DataError, match="unpacks to"):
        list(locate(place, ["log.csv"], dataset="mine")["log.csv"].blocks(1 << 16))


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_a_bomb_in_an_archive_is_told_by_the_size_that_it_declares(suffix, place, small_limits):
    whole = zip_of(log=bomb()) if suffix == "zip" else tar_of((named("log"), bomb()))
    (place / f"x.{suffix}").write_bytes(whole)
    with pytest.raises(DataError, match="unpacks to"):
        locate(place, ["log"], dataset="mine")


def test_many_small_bombs_are_one(place, small_limits):
    files = {f"{number}.csv": bomb(1 << 19) for number in range(32)}
    (place / "x.zip").write_bytes(zip_of(**files))
    with pytest.raises(DataError, match="unpacks to"):
        locate(place, ["0.csv"], dataset="mine")


def test_archives_within_archives_end_somewhere(place):
    whole = zip_of(**{"log.csv": GOOD})
    for depth in range(archives.DEEPEST - 1):
        whole = zip_of(**{f"{depth}.zip": whole})
    (place / "x.zip").write_bytes(whole)
    assert content(place) == GOOD
    (place / "x.zip").write_bytes(zip_of(**{"more.zip": whole}))
    with pytest.raises(DataError, match="archives in archives"):
        locate(place, ["log.csv"], dataset="mine")


def test_a_file_beside_its_archive_is_taken_once_and_another_of_its_name_is_refused(place):
    (place / "x.zip").write_bytes(zip_of(**{"log.csv": GOOD}))
    (place / "log.csv").write_bytes(GOOD)
    assert content(place) == GOOD
    (place / "log.csv").write_bytes(GOOD + GOOD)
    with pytest.raises(DataError, match=r"are both log\.csv, with different contents"):
        content(place)


def test_too_many_members_are_refused(place, monkeypatch):
    monkeypatch.setattr(archives, "MOST_FILES", 100)
    (place / "x.zip").write_bytes(zip_of(**{f"{n}.csv": GOOD for n in range(101)}))
    with pytest.raises(DataError, match="more than 100 files"):
        locate(place, ["0.csv"], dataset="mine")


HUGE_HEADERS = """
import gzip, sys, tarfile
from pathlib import Path
from cvrbench.data.archives import locate
from cvrbench.errors import DataError
try:
    locate(Path(sys.argv[1]), ["log.csv"], dataset="mine")
except DataError as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the data segment")
@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_name_of_gigabytes_takes_no_memory(kind, place):
    member = named("long", kind)
    member.size = 4 << 30
    with gzip.open(place / "x.tar.gz", "wb", compresslevel=1) as file:
        file.write(member.tobuf())
        for _ in range(128):
            file.write(bytes(1 << 20))

    def narrow():
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 28, 1 << 28))

    done = subprocess.run(
        [sys.executable, "-c", HUGE_HEADERS, str(place)],
        preexec_fn=narrow,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "a header of 4,294,967,296 bytes" in done.stdout


def test_a_sparse_member_of_a_terabyte_takes_no_memory(place):
    member = named("log.csv", tarfile.GNUTYPE_SPARSE)
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    member.size = 512
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    # One piece of 512 bytes at the start, and a real size of a terabyte (tar's old GNU format).
    header[386:410] = b"00000000000\0" + b"00000001000\0"
    header[483:495] = b"\x80" + (1 << 40).to_bytes(11, "big")
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    (place / "x.tar").write_bytes(bytes(header) + bytes(512) + bytes(1024))
    with tarfile.open(place / "x.tar") as archive:
        assert archive.getmembers()[0].size == 1 << 40
    with pytest.raises(DataError, match="unpacks to 1099"):
        locate(place, ["log.csv"], dataset="mine")


def test_an_encrypted_member_is_told(place):
    whole = bytearray(zip_of(**{"log.csv": GOOD}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(signature) + offset] |= 1
    (place / "x.zip").write_bytes(whole)
    with pytest.raises(DataError, match="encrypted"):
        content(place)


@pytest.mark.parametrize("whole", [b"PK\x05\x06", b"\x1f\x8b" + bytes(40), lzma.compress(GOOD)])
@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tar", "log.csv.gz"])
def test_garbage_is_told_as_such(whole, name, place):
    (place / name).write_bytes(whole)
    with pytest.raises(DataError):
        content(place)


def test_an_honest_log_of_few_words_is_no_bomb(place):
    (place / "log.csv.gz").write_bytes(gzip.compress(b"1,0,0\n" * 1_000_000))
    assert len(content(place)) == 6_000_000
