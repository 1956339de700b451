"""Downloads against a local HTTP server that behaves well, badly, and changes its mind."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cvrbench.data import downloads as fetch_module
from cvrbench.data.downloads import SOURCES, BehindLogin, Download, Public, fetch
from cvrbench.errors import DataError

CONTENT = bytes(range(256)) * 4000
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class Server(ThreadingHTTPServer):
    """What a test sets decides how requests are answered; every Range header is kept."""

    daemon_threads = True
    content = CONTENT
    tag = '"one"'
    honours_ranges = True
    cut_after: list[int]
    status = 200
    ranges: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.ranges.append(asked)
        start = 0
        if server.status != 200:
            self.send_error(server.status)
            return
        if asked and server.honours_ranges and self.headers.get("If-Range") == server.tag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/*")
        else:
            self.send_response(200)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.tag)
        self.end_headers()
        cut = server.cut_after.pop(0) if server.cut_after else len(body)
        self.wfile.write(body[:cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(fetch_module.time, "sleep", lambda _: None)
    running = Server(("127.0.0.1", 0), Handler)
    running.ranges, running.cut_after = [], []
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def source(server: Server, checksum: str | None = DIGEST, path: str = "data.bin"):
    url = f"http://127.0.0.1:{server.server_port}/{path}"
    download = Download(url=url, file_name="data.bin", checksum=checksum)
    return {"mine": Public(licence="ours", page="here", downloads=(download,))}


def test_a_file_arrives_whole_with_progress(server, tmp_path):
    seen = []
    (file,) = fetch("mine", tmp_path / "raw", sources=source(server), on_progress=seen.append)
    assert file.read_bytes() == CONTENT
    assert [p.name for p in (tmp_path / "raw").iterdir()] == ["data.bin"]
    assert seen[-1].received == seen[-1].total == len(CONTENT)


def test_a_file_that_is_there_is_not_downloaded_again(server, tmp_path):
    fetch("mine", tmp_path, sources=source(server))
    fetch("mine", tmp_path, sources=source(server))
    assert server.ranges == [None]


def test_a_broken_connection_is_continued_where_it_broke(server, tmp_path):
    server.cut_after = [300_000, 200_000]
    (file,) = fetch("mine", tmp_path, sources=source(server))
    assert file.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=500000-"]


def test_what_came_is_kept_and_the_next_command_goes_on(server, tmp_path):
    server.cut_after = [1000] * fetch_module.ATTEMPTS
    with pytest.raises(DataError, match=r"broke off 5 times.*data.bin.part"):
        fetch("mine", tmp_path, sources=source(server))
    assert (tmp_path / "data.bin.part").stat().st_size == 5000
    (file,) = fetch("mine", tmp_path, sources=source(server))
    assert file.read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=5000-"


def test_a_server_without_ranges_sends_it_all_again(server, tmp_path):
    server.honours_ranges = False
    server.cut_after = [300_000]
    (file,) = fetch("mine", tmp_path, sources=source(server))
    assert file.read_bytes() == CONTENT


def test_two_versions_of_a_file_are_never_glued_together(server, tmp_path):
    server.cut_after = [1000] * fetch_module.ATTEMPTS
    with pytest.raises(DataError):
        fetch("mine", tmp_path, sources=source(server))
    server.content, server.tag = CONTENT[::-1], '"two"'
    (file,) = fetch("mine", tmp_path, sources=source(server, checksum=None))
    assert file.read_bytes() == CONTENT[::-1]


def test_another_content_than_expected_is_deleted(server, tmp_path):
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(DataError, match="does not have the expected sha256"):
        fetch("mine", tmp_path, sources=source(server))
    assert not list(tmp_path.iterdir()) or [p.suffix for p in tmp_path.iterdir()] == [".version"]


def test_what_the_server_refuses_is_said(server, tmp_path):
    server.status = 404
    with pytest.raises(DataError, match="HTTP 404"):
        fetch("mine", tmp_path, sources=source(server))
    assert len(server.ranges) == 1


def test_a_server_in_trouble_is_asked_again(server, tmp_path):
    server.status = 503
    with pytest.raises(DataError, match=r"broke off 5 times \(HTTP 503\)"):
        fetch("mine", tmp_path, sources=source(server))


def test_no_server_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_module.time, "sleep", lambda _: None)
    nowhere = Download(url="http://127.0.0.1:9/x", file_name="x", checksum=None)
    sources = {"mine": Public(licence="", page="", downloads=(nowhere,))}
    with pytest.raises(DataError, match="broke off 5 times"):
        fetch("mine", tmp_path, sources=sources)


def test_other_schemes_are_refused(tmp_path):
    local = Download(url="file:///etc/passwd", file_name="x", checksum=None)
    with pytest.raises(DataError, match="neither http nor https"):
        fetch("mine", tmp_path, sources={"mine": Public(licence="", page="", downloads=(local,))})


def test_data_behind_a_login_say_what_to_download_and_where_to_put_it(tmp_path):
    source = SOURCES["aliccp"]
    assert isinstance(source, BehindLogin)
    with pytest.raises(DataError, match=r"login.*sample_train.tar.gz.*" + source.page) as error:
        fetch("aliccp", tmp_path / "aliccp")
    assert str(tmp_path / "aliccp") in str(error.value)


def test_an_unknown_name_gets_the_nearest(tmp_path):
    with pytest.raises(DataError, match=r"'kuairnd'. Did you mean 'kuairand'"):
        fetch("kuairnd", tmp_path)
