import gzip
import hashlib
import io
import logging.handlers
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pooch
import pytest

from rebatch.data.catalog import CATALOG, Download, File, Layout, PublishedSet
from rebatch.data.fetch import fetch, status
from rebatch.errors import RequestError, RunError

Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


def whole(request: BaseHTTPRequestHandler, content: bytes) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)


def failing(request: BaseHTTPRequestHandler, _: bytes) -> None:
    request.send_response(500)
    request.send_header("Content-Length", "0")
    request.end_headers()


def truncated(request: BaseHTTPRequestHandler, content: bytes) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content[: len(content) // 2])


def wrong(request: BaseHTTPRequestHandler, content: bytes) -> None:
    whole(request, content[::-1])


class Server:
    """Answers GET requests on the loopback: by file name what to send, and how each next request is answered."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.answers: list[Answer] = []
        self.seen: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.strip("/")
                outer.seen.append(name)
                answer = outer.answers.pop(0) if outer.answers else whole
                answer(self, outer.contents[name])

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def download(self, name: str, content: bytes) -> Download:
        self.contents[name] = content
        return Download(f"{self.url}/{name}", hashlib.sha256(content).hexdigest(), len(content))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time.sleep", lambda _: None)
    running = Server()
    yield running
    running.close()


IMAGES = bytes(range(256)) * 1_000
LABELS = b"labels"
BATCH = b"record" * 50_000


def _mnist(server: Server) -> PublishedSet:
    """Two files, fetched as they are."""
    contents = {"images": IMAGES, "labels": LABELS}
    packed = {name: gzip.compress(content) for name, content in contents.items()}
    files = tuple(File(name, len(content), len(packed[name])) for name, content in contents.items())
    layout = Layout("MNIST/raw", "idx", files, ())
    downloads = tuple(server.download(f"{name}.gz", content) for name, content in packed.items())
    return replace(CATALOG["mnist"], layouts=(layout,), downloads=downloads)


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _cifar(server: Server, members: dict[str, bytes] | None = None) -> PublishedSet:
    """Two files and a readme in an archive."""
    published = CATALOG["cifar100"]
    layout = Layout("cifar-100-binary", "cifar100-binary", (File("train.bin", len(BATCH)),), (File("test.bin", 4),))
    members = members or {"train.bin": BATCH, "test.bin": b"test", "readme.html": b"cite"}
    content = archive({f"{layout.folder}/{name}": data for name, data in members.items()})
    downloads = (server.download("cifar-100-binary.tar.gz", content),)
    return replace(published, layouts=(layout, published.layouts[1]), downloads=downloads)


@pytest.fixture
def mnist(server: Server, monkeypatch: pytest.MonkeyPatch) -> PublishedSet:
    published = _mnist(server)
    monkeypatch.setitem(CATALOG, "mnist", published)
    return published


@pytest.fixture
def cifar(server: Server, monkeypatch: pytest.MonkeyPatch) -> PublishedSet:
    published = _cifar(server)
    monkeypatch.setitem(CATALOG, "cifar100", published)
    return published


def files_below(folder: Path) -> list[str]:
    """All that lies there but the lock, which is empty."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != ".fetch.lock")
    return sorted(str(path.relative_to(folder)) for path in found)


FETCHED_MNIST = ["MNIST/raw/images.gz", "MNIST/raw/labels.gz"]
FETCHED_CIFAR = [f"cifar-100-binary/{name}" for name in ("readme.html", "test.bin", "train.bin")]


@pytest.mark.usefixtures("mnist", "cifar")
def test_what_is_fetched_is_present_and_nothing_else(tmp_path: Path) -> None:
    data_dir = tmp_path / "not" / "yet"
    for name, files in (("mnist", FETCHED_MNIST), ("cifar100", FETCHED_MNIST + FETCHED_CIFAR)):
        assert status(name, data_dir) == "missing"
        fetch(name, data_dir, progress=False)
        assert status(name, data_dir) == "present"
        assert files_below(data_dir) == sorted(files)
    assert gzip.decompress((data_dir / "MNIST/raw/images.gz").read_bytes()) == IMAGES
    assert (data_dir / "cifar-100-binary/train.bin").read_bytes() == BATCH


@pytest.mark.usefixtures("mnist")
def test_what_is_there_is_not_fetched_again(tmp_path: Path, server: Server) -> None:
    fetch("mnist", tmp_path, progress=False)
    (tmp_path / "MNIST/raw/labels.gz").unlink()
    fetch("mnist", tmp_path, progress=False)
    fetch("mnist", tmp_path, progress=False)
    assert server.seen == ["images.gz", "labels.gz", "labels.gz"]


@pytest.mark.usefixtures("cifar")
def test_the_python_layout_needs_no_download(tmp_path: Path, server: Server) -> None:
    (tmp_path / "cifar-100-python").mkdir()
    for name in ("train", "test"):
        assert status("cifar100", tmp_path) != "present"
        (tmp_path / "cifar-100-python" / name).write_bytes(b"some pickle")
    assert status("cifar100", tmp_path) == "present"
    fetch("cifar100", tmp_path, progress=False)
    assert server.seen == []


@pytest.mark.parametrize("answer", [failing, truncated, wrong])
@pytest.mark.usefixtures("mnist")
def test_a_download_that_fails_once_is_tried_again(tmp_path: Path, server: Server, answer: Answer) -> None:
    server.answers = [answer]
    fetch("mnist", tmp_path, progress=False)
    assert server.seen == ["images.gz", "images.gz", "labels.gz"]
    assert status("mnist", tmp_path) == "present"


FAILURES = {
    "server error": (failing, "could not be downloaded: HTTP status 500 Internal Server Error"),
    "broken off": (truncated, "could not be downloaded: the connection broke off"),
    "other bytes": (wrong, r"came damaged: expected \d+ bytes with SHA-256 [0-9a-f]{64}, got something else"),
}


@pytest.mark.parametrize(("answer", "message"), FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("name", ["mnist", "cifar100"])
def test_a_download_that_keeps_failing_is_told_in_one_line(
    tmp_path: Path, mnist: PublishedSet, cifar: PublishedSet, server: Server, answer: Answer, message: str, name: str
) -> None:
    server.answers = [answer] * 3
    with pytest.raises(RunError, match=message) as caught:
        fetch(name, tmp_path, progress=False, retries=2)
    published = CATALOG[name]
    text = str(caught.value)
    by_hand = {"mnist": "images.gz labels.gz", "cifar100": "train.bin test.bin"}[name]
    assert text.startswith(published.downloads[0].url)
    assert text.endswith(
        f"; 3 attempts; try again later, or put these files into {tmp_path / published.layouts[0].folder} "
        f"by hand: {by_hand}"
    )
    assert "\n" not in text
    assert files_below(tmp_path) == []
    assert len(server.seen) == 3


def test_no_network_is_told_in_one_line(
    tmp_path: Path, mnist: PublishedSet, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = tuple(replace(row, url="http://127.0.0.1:1/images.gz") for row in mnist.downloads)
    monkeypatch.setitem(CATALOG, "mnist", replace(mnist, downloads=refused))
    message = r"http://127\.0\.0\.1:1/images\.gz could not be downloaded: no connection to the server; 1 attempt;"
    with pytest.raises(RunError, match=message):
        fetch("mnist", tmp_path, progress=False, retries=0)


@pytest.mark.usefixtures("mnist")
def test_a_server_that_falls_silent_is_given_up(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    silence = Event()

    def silent(request: BaseHTTPRequestHandler, _: bytes) -> None:
        silence.wait(10)

    monkeypatch.setattr("rebatch.data.fetch.TIMEOUT_SECONDS", 0.1)
    server.answers = [silent]
    with pytest.raises(RunError, match=r"no answer within 0\.1 s"):
        fetch("mnist", tmp_path, progress=False, retries=0)
    silence.set()


@pytest.mark.usefixtures("mnist")
def test_a_damaged_file_is_told_and_mended(tmp_path: Path, server: Server) -> None:
    fetch("mnist", tmp_path, progress=False)
    path = tmp_path / "MNIST/raw/images.gz"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:1_000])
    assert status("mnist", tmp_path) == f"damaged (images.gz, expected size {size} bytes, found 1000)"
    fetch("mnist", tmp_path, progress=False)
    assert status("mnist", tmp_path) == "present"
    assert server.seen == ["images.gz", "labels.gz", "images.gz"]


@pytest.mark.usefixtures("mnist")
def test_a_damaged_unpacked_file_gives_way_to_the_published_one(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    (folder / "images").write_bytes(IMAGES[:1_000])
    (folder / "labels").write_bytes(LABELS)
    assert status("mnist", tmp_path) == "damaged (images, expected size 256000 bytes, found 1000)"
    fetch("mnist", tmp_path, progress=False)
    assert files_below(tmp_path) == ["MNIST/raw/images.gz", "MNIST/raw/labels"]
    assert status("mnist", tmp_path) == "present"


@pytest.mark.usefixtures("cifar")
def test_a_part_that_is_missing_is_told_and_mended(tmp_path: Path) -> None:
    fetch("cifar100", tmp_path, progress=False)
    (tmp_path / "cifar-100-binary/test.bin").unlink()
    assert status("cifar100", tmp_path) == "damaged (test.bin, missing)"
    fetch("cifar100", tmp_path, progress=False)
    assert status("cifar100", tmp_path) == "present"


ARCHIVES = {
    "climbs out": ({"../../outside": b"x", "train.bin": BATCH, "test.bin": b"test"}, "cannot be unpacked"),
    "lacks a file": ({"train.bin": BATCH}, "does not hold what was published: test.bin, missing"),
    "short file": ({"train.bin": b"x", "test.bin": b"test"}, "train.bin, expected size 300000 bytes, found 1"),
}


@pytest.mark.parametrize(("members", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_an_archive_that_is_not_right_leaves_nothing(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes], message: str
) -> None:
    monkeypatch.setitem(CATALOG, "cifar100", _cifar(server, members))
    with pytest.raises(RunError, match=message):
        fetch("cifar100", tmp_path / "data", progress=False)
    assert files_below(tmp_path) == []


def test_what_is_no_archive_is_told_in_one_line(
    tmp_path: Path, server: Server, cifar: PublishedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = server.download("cifar-100-binary.tar.gz", archive({"cifar-100-binary/train.bin": BATCH})[:-50])
    monkeypatch.setitem(CATALOG, "cifar100", replace(cifar, downloads=(broken,)))
    with pytest.raises(RunError, match="cannot be unpacked"):
        fetch("cifar100", tmp_path, progress=False)
    assert files_below(tmp_path) == []


@contextmanager
def no_file_larger_than(limit: int) -> Iterator[None]:
    """The system refuses to write on, as a full disk does."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_is_told_in_one_line(tmp_path: Path, cifar: PublishedSet) -> None:
    # The archive is small, what it holds is not: the disk fills while unpacking.
    with no_file_larger_than(100_000), pytest.raises(RunError, match="File too large; it needs 1 MB there") as caught:
        fetch("cifar100", tmp_path, progress=False)
    assert str(caught.value).startswith(f"cifar100 cannot be written to {tmp_path}: ")
    assert files_below(tmp_path) == []


@pytest.mark.usefixtures("mnist")
def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"mnist cannot be written to .*/file/below: Not a directory"):
        fetch("mnist", tmp_path / "file" / "below", progress=False)


FETCH_IN_A_PROCESS = """
import sys, pathlib
from dataclasses import replace
from rebatch.data.catalog import CATALOG, Download, File, Layout
from rebatch.data.fetch import fetch
url, sha256, size, folder = sys.argv[1:]
layout = Layout("MNIST/raw", "idx", (File("images", 256_000, int(size)),), ())
CATALOG["mnist"] = replace(CATALOG["mnist"], layouts=(layout,), downloads=(Download(url, sha256, int(size)),))
fetch("mnist", pathlib.Path(folder), progress=False)
"""


def test_a_fetch_that_is_killed_leaves_no_half_file(tmp_path: Path, server: Server, mnist: PublishedSet) -> None:
    hang = Event()

    def half(request: BaseHTTPRequestHandler, content: bytes) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content[: len(content) // 2])
        request.wfile.flush()
        hang.wait(20)

    download = mnist.downloads[0]
    server.answers = [half]
    arguments = [download.url, download.sha256, str(download.size), str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-c", FETCH_IN_A_PROCESS, *arguments])
    deadline = time.monotonic() + 20
    while not files_below(tmp_path) and time.monotonic() < deadline:
        Event().wait(0.01)
    process.kill()
    process.wait()
    hang.set()
    assert all(name.startswith(".fetch-") for name in files_below(tmp_path))
    assert files_below(tmp_path)
    assert status("mnist", tmp_path) == "missing"
    fetch("mnist", tmp_path, progress=False)
    assert files_below(tmp_path) == FETCHED_MNIST


@pytest.mark.usefixtures("mnist")
def test_two_fetches_at_once_share_the_work(tmp_path: Path, server: Server) -> None:
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(fetch, "mnist", tmp_path, progress=False) for _ in range(2)]:
            done.result()
    assert sorted(server.seen) == ["images.gz", "labels.gz"]


def test_progress_is_told_to_the_caller_and_begins_again_with_every_attempt(
    tmp_path: Path, cifar: PublishedSet, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rebatch.data.fetch.CHUNK_BYTES", 50)
    told: list[tuple[str, int, int]] = []
    server.answers = [truncated]
    fetch("cifar100", tmp_path, progress=lambda name, done, total: told.append((name, done, total)))
    name, size = "cifar-100-binary.tar.gz", cifar.downloads[0].size
    assert {(name, total) for name, _, total in told} == {(name, size)}
    done = [done for _, done, _ in told]
    assert (done.count(50), done[-1], max(done)) == (2, size, size)


@pytest.mark.parametrize("progress", [False, True])
@pytest.mark.usefixtures("mnist")
def test_progress_goes_to_standard_error_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], progress: bool
) -> None:
    fetch("mnist", tmp_path, progress=progress)
    out, err = capfd.readouterr()
    assert out == ""
    assert ("images.gz" in err) == progress


@pytest.mark.usefixtures("mnist")
def test_the_library_below_says_nothing_of_its_own(tmp_path: Path, server: Server) -> None:
    logger, said = pooch.get_logger(), logging.handlers.BufferingHandler(100)
    logger.setLevel(logging.INFO)
    server.answers = [truncated]
    logger.addHandler(said)
    fetch("mnist", tmp_path, progress=False)
    logger.removeHandler(said)
    assert said.buffer == []
    assert logger.level == logging.INFO


def test_an_unknown_set_is_refused(tmp_path: Path) -> None:
    for verb in (status, fetch):
        with pytest.raises(RequestError, match="no published set named 'mnits'; did you mean 'mnist'"):
            verb("mnits", tmp_path)
    assert files_below(tmp_path) == []
