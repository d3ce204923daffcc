"""Getting checkpoints: from a server on this machine that behaves well, badly, or not at all."""

import hashlib
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from easi3r_ros.io import hub as weights
from easi3r_ros.io.download import CHUNK, DownloadError, announced_sha256, download
from easi3r_ros.io.hub import KnownCheckpoint, RemoteFile, WeightsError

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """Serves `content` at every path; what is set on it changes how. Records the Range headers it was asked for."""

    def __init__(self):
        self.content, self.etag = CONTENT, '"v1"'
        self.resumes = True
        self.status = 200  # anything else: an error for every request
        self.cut = None  # bytes after which the connection breaks
        self.announce = None  # X-Linked-Etag of a redirect, as the hub sends it
        self.ranges = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                outer._answer(self, body=False)

            def do_GET(self):
                outer._answer(self, body=True)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/file"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request, body):
        if self.status != 200:
            return request.send_error(self.status)
        if self.announce and not request.path.startswith("/storage"):
            request.send_response(302)
            request.send_header("X-Linked-Etag", f'"{self.announce}"')
            request.send_header("Location", self.url.replace("/file", "/storage").replace("127.0.0.1", "localhost"))
            request.send_header("Content-Length", "0")
            return request.end_headers()
        start = 0
        asked = request.headers.get("Range")
        if body:
            self.ranges.append(asked)
        if asked and self.resumes and request.headers.get("If-Range", self.etag) == self.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(self.content):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(self.content)}")
                request.send_header("Content-Length", "0")
                return request.end_headers()
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(len(self.content) - start))
        request.send_header("ETag", self.etag)
        request.end_headers()
        if not body:
            return None
        if self.cut is not None:
            request.wfile.write(self.content[start : self.cut])
            request.close_connection = True
            return None
        request.wfile.write(self.content[start:])
        return None


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.close()


@contextmanager
def broken_off(server, after):
    server.cut = after
    yield
    server.cut = None


def test_a_file_arrives_whole_and_progress_is_told(server, tmp_path):
    told = []
    assert download(server.url, tmp_path / "deep" / "f", SHA256, lambda *item: told.append(item)) == SHA256
    assert (tmp_path / "deep" / "f").read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT)) and len(CONTENT) > CHUNK
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["f"]


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    with (
        broken_off(server, 700_000),
        pytest.raises(DownloadError, match=r"(closed|broke) after 700000.*again to go on"),
    ):
        download(server.url, tmp_path / "f", SHA256)
    assert not (tmp_path / "f").exists()
    download(server.url, tmp_path / "f", SHA256)
    assert server.ranges == [None, "bytes=700000-"]
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path):
    with broken_off(server, 1000), pytest.raises(DownloadError):
        download(server.url, tmp_path / "f")
    server.content, server.etag = CONTENT[::-1], '"v2"'
    download(server.url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT[::-1]


def test_a_server_that_cannot_resume_sends_all_again(server, tmp_path):
    with broken_off(server, 1000), pytest.raises(DownloadError):
        download(server.url, tmp_path / "f")
    server.resumes = False
    download(server.url, tmp_path / "f", SHA256)
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_part_that_was_complete_is_not_fetched_again(server, tmp_path):
    (tmp_path / "f.part").write_bytes(CONTENT)
    (tmp_path / "f.part.tag").write_text(server.etag)
    download(server.url, tmp_path / "f", SHA256)
    assert server.ranges == [f"bytes={len(CONTENT)}-"]


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    (tmp_path / "f.part").write_bytes(CONTENT + b"more")
    (tmp_path / "f.part.tag").write_text(server.etag)
    download(server.url, tmp_path / "f", SHA256)
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_wrong_sum_leaves_nothing_behind(server, tmp_path):
    with pytest.raises(DownloadError, match=f"wrong checksum: expected sha256 {'0' * 64}, got {SHA256}"):
        download(server.url, tmp_path / "f", "0" * 64)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_and_a_dead_server_are_clear_errors(server, tmp_path):
    server.status = 404
    with pytest.raises(DownloadError, match="the server answers 404 Not Found"):
        download(server.url, tmp_path / "f")
    server.close()
    for attempt in (lambda: download(server.url, tmp_path / "f"), lambda: announced_sha256(server.url)):
        with pytest.raises(DownloadError, match="cannot reach 127.0.0.1:.*Connection refused"):
            attempt()


def test_a_full_disk_is_noticed_before(server, tmp_path, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with pytest.raises(DownloadError, match="0.00 GB free"):
        download(server.url, tmp_path / "f")


def test_the_sum_that_the_hub_announces_is_found_before_the_redirect(server):
    assert announced_sha256(server.url) is None
    server.announce = SHA256
    assert announced_sha256(server.url) == SHA256


@pytest.fixture
def checkpoint(server, tmp_path, monkeypatch):
    """Registered under the name `testnet`, served by the server."""
    monkeypatch.setenv("EASI3R_HOME", str(tmp_path / "home"))
    entry = KnownCheckpoint("testnet", "A test", "somebody/Some_metric", gigabytes=0.01, files=(RemoteFile("a.bin"),))
    monkeypatch.setattr(KnownCheckpoint, "page", property(lambda self: server.url))
    monkeypatch.setattr(weights, "CHECKPOINTS", (entry,))
    return entry


def test_a_checkpoint_without_a_known_sum_is_recorded_and_checked_later(checkpoint, server):
    place = weights.folder(checkpoint)
    assert place.name == "Some_metric"  # by its name the loader knows that it predicts metres
    (first,) = weights.get(checkpoint)
    assert (first.sha256, first.checked_against) == (SHA256, "")
    assert (place / "SHA256SUMS").read_text() == f"{SHA256}  a.bin\n"
    assert weights.known_sums(checkpoint) == {"a.bin": SHA256}
    (again,) = weights.get(checkpoint)
    assert again.checked_against == "sum recorded at the first download" and len(server.ranges) == 1
    (place / "a.bin").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="is damaged: expected sha256 .*Delete it"):
        weights.get(checkpoint)
    (place / "a.bin").unlink()
    server.content, server.etag = b"other", '"v2"'
    with pytest.raises(DownloadError, match="wrong checksum"):  # not what was there before
        weights.get(checkpoint)


def test_published_and_announced_sums_are_used(checkpoint, server):
    server.announce = "1" * 64
    with pytest.raises(DownloadError, match=r"wrong checksum.*By hand: fetch .*save it as '.*a.bin'"):
        weights.get(checkpoint)
    server.announce = SHA256
    assert weights.get(checkpoint)[0].checked_against == "sum announced by the server"
    published = replace(checkpoint, files=(RemoteFile("a.bin", SHA256),))
    assert weights.get(published)[0].checked_against == "published sum"


def test_a_name_stands_for_a_stored_checkpoint_only(checkpoint):
    with pytest.raises(WeightsError, match="easi3r weights get testnet"):
        weights.resolve("testnet")
    weights.get(checkpoint)
    assert weights.resolve("testnet") == str(weights.folder(checkpoint))
    assert weights.resolve("/some/file.pth") == "/some/file.pth"
    with pytest.raises(WeightsError, match="no checkpoint is called 'tset'; known: testnet"):
        weights.find("tset")


def test_home_is_in_the_cache_unless_told(monkeypatch, tmp_path):
    monkeypatch.delenv("EASI3R_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.home() == tmp_path / ".cache" / "easi3r"


def test_every_registered_checkpoint_is_complete_and_non_commercial():
    for entry in weights.CHECKPOINTS:
        assert "CC BY-NC-SA 4.0" in entry.licence and 2 < entry.gigabytes < 3
        assert entry.url(entry.files[0]) == f"https://huggingface.co/{entry.repository}/resolve/main/config.json"
        assert all(file.sha256 is None or len(file.sha256) == 64 for file in entry.files)


def test_networks_are_named_like_their_checkpoints(tmp_path):
    assert weights.network_named("dust3r-224-linear").image_size == (224, 224)
    assert weights.network_named("monst3r").head == "dpt"
    (tmp_path / "config.json").write_text('{"enc_embed_dim": 96, "enc_depth": 4, "enc_num_heads": 6}')
    assert weights.network_named(str(tmp_path / "config.json")).encoder_depth == 4
    (tmp_path / "list.json").write_text("[1]")
    for wrong in ("nothing", str(tmp_path), str(tmp_path / "list.json")):
        with pytest.raises(WeightsError, match="neither a file nor|no network configuration"):
            weights.network_named(wrong)
