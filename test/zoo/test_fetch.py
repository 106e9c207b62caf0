"""Published models are fetched from a real HTTP server; whatever goes wrong, the cache stays whole."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.perception import Perception
from spvnas_ros.zoo.cache import FetchError, cache_folder, resolve_weights, shipped_path
from spvnas_ros.zoo.cards import CARDS, Card, find_card
from spvnas_ros.zoo.checkpoint import CheckpointError, Facts, load_checkpoint, save_checkpoint
from spvnas_ros.zoo.download import download
from spvnas_ros.zoo.fetch import adopt, fetch
from spvnas_ros.zoo.importers.layouts import MIT_HAN_LAB


@dataclasses.dataclass
class Site:
    """What the server serves, and how well.

    cut_after: bytes of a body after which the connection breaks, once
    ranges:    whether parts of a file can be asked for
    tags:      whether files have an ETag
    lengths:   whether the length of a body is announced
    requests:  path and Range of every request
    """

    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    cut_after: int | None = None
    ranges: bool = True
    tags: bool = True
    lengths: bool = True
    kind: str = "application/octet-stream"
    requests: list[tuple[str, str | None]] = dataclasses.field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.requests.append((handler.path, asked))
        body = self.files.get(handler.path)
        if body is None:
            handler.send_error(404)
            return
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        if self.tags and handler.headers.get("If-Range", tag) != tag:
            start = 0
        if start >= len(body) > 0:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(body)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Type", self.kind)
        if self.lengths:
            handler.send_header("Content-Length", str(len(body) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if self.tags:
            handler.send_header("ETag", tag)
        handler.end_headers()
        end = len(body) if self.cut_after is None else self.cut_after
        self.cut_after = None
        handler.wfile.write(body[start:end])
        handler.close_connection = True


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    served = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield served
        server.shutdown()
        thread.join()


def published(spec: NetSpec) -> bytes:
    """A file as mit-han-lab publishes it, with random weights."""
    state = PointVoxelUNet(spec).state_dict()
    file = io.BytesIO()
    torch.save({"model": {theirs: state[ours] for theirs, ours in MIT_HAN_LAB.names().items() if ours in state}}, file)
    return file.getvalue()


@pytest.fixture
def weights() -> bytes:
    return published(NetSpec.spvcnn(4))


@pytest.fixture
def card(weights: bytes) -> Card:
    """A card of a model that is small enough for a test, with a published hash."""
    return dataclasses.replace(
        find_card("spvcnn-30g"),
        name="small",
        urls=("http://127.0.0.1:1/nobody-listens-here",),
        parameters=sum(p.numel() for p in PointVoxelUNet(NetSpec.spvcnn(4)).parameters()),
        sha256_prefix=hashlib.sha256(weights).hexdigest()[:8],
    )


def models(folder: Path) -> list[str]:
    """What the cache offers, and any unfinished file that is not kept to be continued."""
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def unfinished(folder: Path) -> list[Path]:
    return sorted((folder / "downloads").glob("*.part"))


def test_a_model_is_fetched_converted_and_then_found(site: Site, card: Card, weights: bytes, tmp_path: Path) -> None:
    site.files["/init"] = weights
    seen: list[tuple[int, int | None]] = []
    card = dataclasses.replace(card, urls=(f"{site.url}/absent", f"{site.url}/init"))
    path = fetch(card, tmp_path / "cache", progress=lambda done, total: seen.append((done, total)))
    net, facts = load_checkpoint(path)
    assert net.spec == NetSpec.spvcnn(4)
    assert (facts.name, facts.published_miou) == ("small", 60.7)
    assert facts.source_sha256 == hashlib.sha256(weights).hexdigest()
    assert seen[-1] == (len(weights), len(weights))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert models(tmp_path / "cache") == ["small.safetensors"]
    assert unfinished(tmp_path / "cache") == []

    asked = len(site.requests)
    assert fetch(card, tmp_path / "cache") == path
    assert len(site.requests) == asked


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("tags", [True, False])
def test_a_cut_connection_is_an_error_and_the_next_try_goes_on(
    site: Site, card: Card, weights: bytes, tmp_path: Path, ranges: bool, tags: bool
) -> None:
    site.files["/init"], site.ranges, site.tags, site.cut_after = weights, ranges, tags, 100_000
    with pytest.raises(FetchError, match=r"cut after 100,000 of [\d,]+ bytes; run the same command again"):
        fetch(card, tmp_path, url=f"{site.url}/init")
    assert models(tmp_path) == []
    assert [path.stat().st_size for path in unfinished(tmp_path)] == [100_000]
    path = fetch(card, tmp_path, url=f"{site.url}/init")
    assert site.requests == [("/init", None), ("/init", "bytes=100000-")]
    assert load_checkpoint(path)[1].source_sha256 == hashlib.sha256(weights).hexdigest()
    assert unfinished(tmp_path) == []


@pytest.mark.parametrize("tags", [True, False])
def test_a_file_that_changed_meanwhile_is_not_glued(site: Site, tmp_path: Path, tags: bool) -> None:
    path = tmp_path / "file"
    site.files["/f"], site.tags, site.cut_after = b"a" * 300_000, tags, 70_000
    with pytest.raises(FetchError, match="cut"):
        download(f"{site.url}/f", path)
    site.files["/f"] = b"b" * 200_000
    download(f"{site.url}/f", path)
    assert path.read_bytes() == site.files["/f"]


def test_a_file_that_shrank_below_our_part_comes_anew(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "file"
    site.files["/f"], site.tags, site.cut_after = b"a" * 300_000, False, 70_000
    with pytest.raises(FetchError, match="cut"):
        download(f"{site.url}/f", path)
    site.files["/f"] = b"b" * 50
    download(f"{site.url}/f", path)
    assert path.read_bytes() == site.files["/f"]


def test_a_part_of_another_address_is_not_continued(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "file"
    site.files |= {"/one": b"a" * 100_000, "/two": b"b" * 100_000}
    site.tags, site.cut_after = False, 70_000
    with pytest.raises(FetchError, match="cut"):
        download(f"{site.url}/one", path)
    download(f"{site.url}/two", path)
    assert path.read_bytes() == site.files["/two"]
    download(f"{site.url}/two", path)
    assert len(site.requests) == 2


def test_a_server_that_does_not_say_the_length_is_served_too(
    site: Site, card: Card, weights: bytes, tmp_path: Path
) -> None:
    site.files["/init"], site.lengths, site.tags = weights, False, False
    assert load_checkpoint(fetch(card, tmp_path, url=f"{site.url}/init"))[0].spec == NetSpec.spvcnn(4)


def test_a_wrong_hash_is_an_error_and_nothing_is_kept(site: Site, card: Card, tmp_path: Path) -> None:
    other = published(NetSpec.spvcnn(4))
    site.files["/init"] = other
    with pytest.raises(FetchError) as caught:
        fetch(card, tmp_path, url=f"{site.url}/init")
    assert f"begins with {hashlib.sha256(other).hexdigest()[:8]}, expected {card.sha256_prefix}" in str(caught.value)
    assert f"{site.url}/init" in str(caught.value)
    assert models(tmp_path) == []
    assert unfinished(tmp_path) == []


def test_a_failed_renewal_keeps_the_model_that_was_there(
    site: Site, card: Card, weights: bytes, tmp_path: Path
) -> None:
    site.files |= {"/init": weights, "/bad": b"something else"}
    before = fetch(card, tmp_path, url=f"{site.url}/init").read_bytes()
    with pytest.raises(FetchError):
        fetch(card, tmp_path, url=f"{site.url}/bad")
    assert (tmp_path / "small.safetensors").read_bytes() == before


def test_a_file_that_is_no_checkpoint_is_an_error_and_nothing_is_kept(site: Site, card: Card, tmp_path: Path) -> None:
    site.files["/init"] = b"these are not weights"
    with pytest.raises(CheckpointError, match=r"expected a file written by torch\.save.*has been removed"):
        fetch(dataclasses.replace(card, sha256_prefix=""), tmp_path, url=f"{site.url}/init")
    assert models(tmp_path) == []
    assert unfinished(tmp_path) == []


def test_servers_that_cannot_help_are_clear_errors(site: Site, card: Card, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="404 Not Found"):
        fetch(card, tmp_path, url=f"{site.url}/absent")
    site.files["/page"], site.kind = b"<html>moved</html>", "text/html; charset=utf-8"
    with pytest.raises(FetchError, match="a web page where the file should be"):
        fetch(card, tmp_path, url=f"{site.url}/page")
    with pytest.raises(FetchError, match="not an http or https address"):
        fetch(card, tmp_path, url="file:///etc/hostname")
    with pytest.raises(FetchError, match="cannot reach"):
        fetch(card, tmp_path, url="http://a host with spaces/")
    assert models(tmp_path) == []


def test_no_network_is_a_clear_error(card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/init"
        with pytest.raises(FetchError, match=r"cannot reach .*refused(.|\n)*spvnas zoo fetch small --from FILE"):
            fetch(card, tmp_path, url=url)
    assert models(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_a_clear_error(
    site: Site, card: Card, weights: bytes, tmp_path: Path
) -> None:
    site.files["/init"] = weights
    (tmp_path / "file").touch()
    with pytest.raises(FetchError, match=r"cannot write the cache folder .*SPVNAS_CACHE"):
        fetch(card, tmp_path / "file" / "cache", url=f"{site.url}/init")


def test_a_disk_that_fills_up_is_a_clear_error(site: Site, weights: bytes, tmp_path: Path) -> None:
    site.files["/init"] = weights
    script = f"""
import resource
from pathlib import Path
from spvnas_ros.zoo.cards import CARDS
from spvnas_ros.zoo.fetch import fetch
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    fetch(CARDS[0], Path({str(tmp_path)!r}), url={site.url + "/init"!r})
except OSError as error:
    print(type(error).__name__, error)
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.startswith("FetchError")
    assert "cannot write" in out
    assert "File too large" in out
    assert models(tmp_path) == []


def test_a_network_description_is_fetched_beside_the_weights(site: Site, shared: Path, tmp_path: Path) -> None:
    arrays = np.load(shared / "golden" / "spvnas_small_weights.npz")
    torch.save({"model": {k.removeprefix("sd/"): torch.from_numpy(arrays[k]) for k in arrays.files}}, tmp_path / "init")
    site.files["/zoo/init"] = (tmp_path / "init").read_bytes()
    card = dataclasses.replace(find_card("spvnas-65g"), parameters=959_519)
    with pytest.raises(FetchError, match=r"zoo/net\.config: the server answers 404"):
        fetch(card, tmp_path, url=f"{site.url}/zoo/init")
    config = shared / "golden" / "spvnas_small_net.config.json"
    site.files["/zoo/net.config"] = config.read_bytes()
    net, facts = load_checkpoint(fetch(card, tmp_path, url=f"{site.url}/zoo/init"))
    assert (net.spec.family, facts.published_miou) == ("spvnas", 64.7)
    assert load_checkpoint(adopt(card, tmp_path, tmp_path / "init", config=config))[1] == facts


def test_a_file_that_the_user_brings_is_checked_and_adopted(card: Card, weights: bytes, tmp_path: Path) -> None:
    own, folder = tmp_path / "from a friend.pth", tmp_path / "cache"
    own.write_bytes(weights)
    path = adopt(card, folder, own)
    assert load_checkpoint(path)[1].published_miou == 60.7
    assert own.read_bytes() == weights

    own.write_bytes(published(NetSpec.spvcnn(4)))
    with pytest.raises(FetchError, match=r"is not the published small: its sha256 begins with .* `spvnas import`"):
        adopt(card, folder, own)
    with pytest.raises(FetchError, match="cannot read"):
        adopt(card, folder, tmp_path / "absent")
    assert models(folder) == ["small.safetensors"]
    load_checkpoint(path)


def test_names_resolve_to_paths_or_say_how_to_get_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPVNAS_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FetchError, match="run: spvnas zoo fetch spvcnn-30g"):
        resolve_weights("spvcnn-30g")
    (tmp_path / "spvcnn-30g.safetensors").touch()
    assert resolve_weights("spvcnn-30g") == tmp_path / "spvcnn-30g.safetensors"
    assert resolve_weights("SemanticKITTI_val_SPVCNN@30GMACs") == tmp_path / "spvcnn-30g.safetensors"
    assert resolve_weights(tmp_path / "spvcnn-30g.safetensors") == tmp_path / "spvcnn-30g.safetensors"
    with pytest.raises(
        FetchError, match=r"there is no file spvcnn-30, and the zoo has no model .* did you mean spvcnn-30g"
    ):
        resolve_weights("spvcnn-30")
    for path in ("weights.safetensors", "folder/weights", "./weights"):
        with pytest.raises(FetchError, match=r"there is no file (folder/)?weights") as caught:
            resolve_weights(path)
        assert "zoo" not in str(caught.value)
    with pytest.raises(FetchError, match="is a folder"):
        resolve_weights(tmp_path)


def test_perception_takes_the_name_of_a_fetched_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPVNAS_CACHE", str(tmp_path))
    with pytest.raises(FetchError, match="run: spvnas zoo fetch spvcnn-30g"):
        Perception.load("spvcnn-30g", device="cpu", engine="torch")
    net = PointVoxelUNet(NetSpec.spvcnn(2))
    save_checkpoint(tmp_path / "spvcnn-30g.safetensors", net, Facts(spec=net.spec, name="here"))
    perception = Perception.load("spvcnn-30g", device="cpu", engine="torch")
    assert perception.facts.name == "here"
    assert len(perception(np.random.default_rng(0).random((50, 4), np.float32))) == 50


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPVNAS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/spvnas_ros")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/xdg")
    assert cache_folder() == Path("/var/xdg/spvnas_ros")
    monkeypatch.setenv("SPVNAS_CACHE", "/var/models")
    assert cache_folder() == Path("/var/models")


def command(*args: object, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "spvnas_ros.cli", "zoo", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"SPVNAS_CACHE": str(cache), "NO_PROXY": "127.0.0.1"},
    )


def test_the_zoo_commands(site: Site, tmp_path: Path) -> None:
    site.files["/init"] = published(NetSpec.spvcnn(16))
    url = f"{site.url}/init"
    # Two at once: neither may meet the other's unfinished file.
    both = [command("fetch", "spvcnn-30g", "--url", url, cache=tmp_path) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        assert "non-commercial" in out
    assert load_checkpoint(tmp_path / "spvcnn-30g.safetensors")[0].spec == NetSpec.spvcnn(16)
    assert models(tmp_path) == ["spvcnn-30g.safetensors"]
    assert unfinished(tmp_path) == []

    listing = command("list", cache=tmp_path)
    table, _, note = listing.communicate(timeout=60)[0].partition("All published")
    rows = {line.split()[0]: line for line in table.splitlines()}
    assert list(rows)[:2] == ["name", "default"]
    net, _ = load_checkpoint(shipped_path())
    millions = sum(parameter.numel() for parameter in net.parameters()) / 1e6
    assert rows["default"].split()[1:] == [f"{millions:.1f}", "M", "semantic-kitti", "Apache-2.0", "shipped"]
    assert "simulated streets" in " ".join(note.split())
    nothing = command("fetch", "default", cache=tmp_path)
    assert "nothing to fetch" in nothing.communicate(timeout=60)[0]
    assert nothing.returncode == 0
    assert all(card.name in rows and f"{card.miou:.1f} %" in rows[card.name] for card in CARDS)
    assert [name for name, row in rows.items() if row.rstrip().endswith("yes")] == ["spvcnn-30g"]

    for arguments, message in [
        (("fetch", "mmdet3d-spvcnn-w16", "--url", url), "expected a2734d85"),
        (("fetch", "spvcnn-30"), "did you mean spvcnn-30g"),
    ]:
        process = command(*arguments, cache=tmp_path)
        err = process.communicate(timeout=100)[1]
        assert process.returncode == 1
        assert message in err
        assert "Traceback" not in err
