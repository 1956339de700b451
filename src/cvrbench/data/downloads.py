"""Download public raw data over HTTP: resumed, checked, in place only when whole."""

import errno
import hashlib
import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cvrbench import __version__
from cvrbench.errors import DataError, did_you_mean

CHUNK = 1 << 18
ATTEMPTS = 5
SLOWEST = 1024
"""Bytes per second below which a connection counts as broken, over `timeout` seconds: a server that
drips a byte now and then never times out."""
MOST_UNTOLD = 1 << 36
"""Bytes taken of a server that does not say how many there are."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """One file: where it is and, where known, what it must hash to."""

    url: str
    file_name: str
    checksum: str | None
    """`md5:...` or `sha256:...` of the file as downloaded."""


@dataclass(frozen=True, kw_only=True)
class Public:
    """Raw data that anyone may download."""

    licence: str
    page: str
    downloads: tuple[Download, ...]


@dataclass(frozen=True, kw_only=True)
class BehindLogin:
    """Raw data that a person must download: what, and from where."""

    licence: str
    page: str
    files: tuple[str, ...]


SOURCES: Mapping[str, Public | BehindLogin] = {
    "kuairand": Public(
        licence="CC BY-SA 4.0",
        page="https://kuairand.com",
        downloads=(
            Download(
                url="https://zenodo.org/records/10439422/files/KuaiRand-Pure.tar.gz",
                file_name="KuaiRand-Pure.tar.gz",
                checksum="md5:0820331067a3784d9691136f772b35a7",
            ),
        ),
    ),
    "kuairand_1k": Public(
        licence="CC BY-SA 4.0",
        page="https://kuairand.com",
        downloads=(
            Download(
                url="https://zenodo.org/records/10439422/files/KuaiRand-1K.tar.gz",
                file_name="KuaiRand-1K.tar.gz",
                checksum="md5:6b0b9c8222d67fcd4c676218edca3f1f",
            ),
        ),
    ),
    "kuairand_27k": Public(
        licence="CC BY-SA 4.0",
        page="https://kuairand.com",
        downloads=(
            Download(
                url="https://zenodo.org/records/10439422/files/KuaiRand-27K.tar.gz",
                file_name="KuaiRand-27K.tar.gz",
                checksum="md5:3e3c799a24e2d23a4d2c757fbf9adf59",
            ),
        ),
    ),
    "kuairec": Public(
        licence="CC BY-SA 4.0",
        page="https://kuairec.com",
        downloads=(
            Download(
                url="https://zenodo.org/records/18164998/files/KuaiRec.zip",
                file_name="KuaiRec.zip",
                checksum=None,
            ),
        ),
    ),
    "census_income": Public(
        licence="CC BY 4.0",
        page="https://archive.ics.uci.edu/dataset/117/census+income+kdd",
        downloads=tuple(
            Download(
                url=f"https://archive.ics.uci.edu/ml/machine-learning-databases/census-income-mld/{name}",
                file_name=name,
                checksum=None,
            )
            for name in ("census-income.data.gz", "census-income.test.gz")
        ),
    ),
    "adult": Public(
        licence="CC BY 4.0",
        page="https://archive.ics.uci.edu/dataset/2/adult",
        downloads=tuple(
            Download(
                url=f"https://archive.ics.uci.edu/ml/machine-learning-databases/adult/{name}",
                file_name=name,
                checksum=f"sha256:{digest}",
            )
            for name, digest in (
                ("adult.data", "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d"),
                ("adult.test", "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05"),
            )
        ),
    ),
    "hillstrom": Public(
        licence="public challenge data, no formal licence",
        page="https://blog.minethatdata.com/2008/03/minethatdata-e-mail-analytics-and-data.html",
        downloads=(
            Download(
                url=(
                    "http://www.minethatdata.com/"
                    "Kevin_Hillstrom_MineThatData_E-MailAnalytics_DataMiningChallenge_2008.03.20.csv"
                ),
                file_name=(
                    "Kevin_Hillstrom_MineThatData_E-MailAnalytics_DataMiningChallenge_2008.03.20.csv"
                ),
                checksum="sha256:0e5893329d8b93cefecc571777672028290ab69865718020c78c7284f291aece",
            ),
        ),
    ),
    "aliexpress": BehindLogin(
        licence="the provider's terms, shown with the download",
        page="https://tianchi.aliyun.com/dataset/74690",
        files=("aliexpress_NL_datasets.zip", "or another country's"),
    ),
    "tenrec": BehindLogin(
        licence="Tencent's licence agreement",
        page="https://static.qblv.qq.com/qblv/h5/algo-frontend/tenrec_dataset.html",
        files=("ctr_data_1M.csv", "or another scenario's"),
    ),
    "tiktok": BehindLogin(
        licence="academic use only",
        page="https://www.biendata.xyz/competition/icmechallenge2019/",
        files=("final_track2_train.txt.tgz",),
    ),
    "criteo_attribution": BehindLogin(
        licence="CC BY-NC-SA 4.0",
        page="https://ailab.criteo.com/criteo-attribution-modeling-bidding-dataset/",
        files=("criteo_attribution_dataset.tsv.gz",),
    ),
    "aliccp": BehindLogin(
        licence="the provider's terms, shown with the download",
        page="https://tianchi.aliyun.com/dataset/408",
        files=("sample_train.tar.gz", "sample_test.tar.gz"),
    ),
}
OWN = {"synthetic": "none: drawn by cvrbench", "table": "yours"}


def licence_of(kind: str) -> str:
    """Give the terms of a source's data, by the dataset's kind."""
    return OWN.get(kind) or SOURCES[kind].licence


@dataclass(frozen=True, kw_only=True)
class FetchProgress:
    """A moment of a download, in bytes; the total is None where the server does not say."""

    file_name: str
    received: int
    total: int | None


OnFetchProgress = Callable[[FetchProgress], None]


class _BrokenOffError(Exception):
    """The connection broke; what was received is kept."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server elsewhere, but not where the file could be forged on the way.

    Never from https to http or to another scheme; and to another host only for a file whose
    checksum is known.
    """

    def __init__(self, download: Download) -> None:
        self.download = download

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Give the request that follows, or refuse."""
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in {"https", old.scheme}:
            raise DataError(f"{self.download.url} redirects from {old.scheme} to {new.scheme}")
        if self.download.checksum is None and not _same_site(old.hostname, new.hostname):
            raise DataError(
                f"{self.download.url} redirects to {new.hostname}, and no checksum is known by "
                "which to tell the file; download it yourself"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(
    name: str,
    folder: Path,
    *,
    sources: Mapping[str, Public | BehindLogin] = SOURCES,
    on_progress: OnFetchProgress | None = None,
    timeout: float = 30.0,
) -> list[Path]:
    """Download a dataset's raw files into `folder`.

    A broken download is kept as `<file>.part` and continued, next time too. A file that is there
    already is not downloaded again.

    Args:
        name: Name of the source.
        folder: Usually `data_dir/raw/<name>`.
        sources: What can be downloaded.
        on_progress: Called after every piece received.
        timeout: Seconds without a byte after which a connection counts as broken.

    Raises:
        DataError: No such source, a login is needed, the server refuses, the checksum differs,
            or the disk is full.
    """
    source = sources.get(name)
    if source is None:
        raise DataError(
            f"nothing to fetch is called {name!r}.{did_you_mean(name, sources)} "
            f"Choices: {', '.join(sorted(sources))}"
        )
    if isinstance(source, BehindLogin):
        raise DataError(
            f"{name} needs a login: download {' and '.join(source.files)} from {source.page} "
            f"({source.licence}) and put them into {folder}"
        )
    return [_fetch_one(d, folder, on_progress or _ignore, timeout) for d in source.downloads]


def _fetch_one(
    download: Download, folder: Path, on_progress: OnFetchProgress, timeout: float
) -> Path:
    target = folder / download.file_name
    part = target.with_name(f"{target.name}.part")
    if urlsplit(download.url).scheme not in {"http", "https"}:
        raise DataError(f"{download.url} is neither http nor https")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if target.is_file() and _matches(target, download.checksum):
            return target
        for attempt in range(ATTEMPTS):
            try:
                _receive(download, part, on_progress, timeout)
                break
            except _BrokenOffError as broken:
                if attempt == ATTEMPTS - 1:
                    raise DataError(
                        f"{download.url} broke off {ATTEMPTS} times ({broken}); "
                        f"what came is kept in {part}, and the same command goes on from there"
                    ) from None
                time.sleep(0.2 * 2**attempt)
        if not _matches(part, download.checksum):
            part.unlink()
            raise DataError(
                f"{download.url} does not have the expected {download.checksum}; it was deleted. "
                "Fetch it again; if it stays so, the file was changed at its source"
            )
        part.replace(target)
    except OSError as error:
        reason = "no space left" if error.errno == errno.ENOSPC else error.strerror or error
        raise DataError(f"cannot write {target}: {reason}; use --data-dir elsewhere") from None
    _mark(part).unlink(missing_ok=True)
    return target


def _receive(download: Download, part: Path, on_progress: OnFetchProgress, timeout: float) -> None:
    """Ask for what is missing of a file, and append it."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": f"cvrbench/{__version__}"}
    mark = _mark(part)
    if have and mark.is_file():
        # If-Range: the server sends the rest only if the file is still the one we began.
        headers |= {"Range": f"bytes={have}-", "If-Range": mark.read_text()}
    request = urllib.request.Request(download.url, headers=headers)
    opener = urllib.request.build_opener(_Redirects(download))
    try:
        with opener.open(request, timeout=timeout) as response:
            start = _start_of(response, have, mark)
            _note_version(mark, response)
            length = response.headers.get("Content-Length", "")
            total = start + int(length) if length.isascii() and length.isdigit() else None
            _check_space(part, download.url, start, total)
            for received in _append(response, part, start, total, timeout):
                name = download.file_name
                on_progress(FetchProgress(file_name=name, received=received, total=total))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
            raise _BrokenOffError("the part on disk did not fit") from None
        if error.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _BrokenOffError(f"HTTP {error.code}") from None
        raise DataError(
            f"{download.url}: the server answers HTTP {error.code} {error.reason}"
        ) from None
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        ConnectionError,
        TimeoutError,
        ValueError,  # an address or a header that is none
    ) as error:
        reason = getattr(error, "reason", None) or error
        raise _BrokenOffError(str(reason)) from None


def _note_version(mark: Path, response: http.client.HTTPResponse) -> None:
    tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
    if tag is None or tag.startswith("W/") or not (tag.isascii() and tag.isprintable()):
        mark.unlink(missing_ok=True)  # nothing to tell versions apart by: never continue
    else:
        mark.write_text(tag)


def _append(
    response: http.client.HTTPResponse,
    part: Path,
    start: int,
    total: int | None,
    timeout: float,
) -> Iterator[int]:
    """Write what comes behind what is there; give the bytes of the whole so far."""
    received = start
    clock, before = time.monotonic(), start
    with part.open("r+b" if start else "wb") as file:
        file.truncate(start)
        file.seek(start)
        while piece := response.read1(CHUNK):
            file.write(piece)
            received += len(piece)
            if total is None and received > MOST_UNTOLD:
                raise DataError(f"{part.name}: the server sends without an end")
            if (now := time.monotonic()) - clock > timeout:
                if received - before < SLOWEST * (now - clock):
                    raise _BrokenOffError(f"less than {SLOWEST:,} bytes a second")
                clock, before = now, received
            yield received
    if total is not None and received < total:
        raise _BrokenOffError(f"{received:,} of {total:,} bytes")


def _check_space(part: Path, url: str, start: int, total: int | None) -> None:
    """Refuse what the disk has no room for, before it is full."""
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - start > free:
        raise DataError(
            f"{url}: the server announces {total / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free "
            f"in {part.parent}"
        )


def _start_of(response: http.client.HTTPResponse, have: int, mark: Path) -> int:
    """Where the answer begins: after what we have, or at 0 if the server sends it all."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return 0
    begins = re.match(r"bytes ([0-9]{1,18})-", response.headers.get("Content-Range", ""))
    if begins is None or int(begins[1]) != have:
        mark.unlink(missing_ok=True)  # so that it is not asked for a part again
        raise _BrokenOffError("the server sent another range than asked for")
    return have


def _same_site(one: str | None, other: str | None) -> bool:
    """Whether two hosts are one, or one is a part of the other."""
    if one is None or other is None:
        return False
    return one == other or one.endswith(f".{other}") or other.endswith(f".{one}")


def _mark(part: Path) -> Path:
    """Where the version of a half-received file is noted."""
    return part.with_name(f"{part.name}.version")


def _matches(file: Path, checksum: str | None) -> bool:
    if checksum is None:
        return True
    kind, _, digest = checksum.partition(":")
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest() == digest


def _ignore(_: FetchProgress) -> None:
    """The progress of a download nobody watches."""
