"""Published models are fetched from a real HTTP server; whatever goes wrong, the cache stays whole."""

from __future__ import annotations

import dataclasses
import hashlib
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from model_site import Site, models, published, unfinished
from spvnas_ros.cli import app
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.zoo.cache import FetchError, shipped_path
from spvnas_ros.zoo.cards import CARDS, Card, find_card
from spvnas_ros.zoo.checkpoint import CheckpointError, load_checkpoint
from spvnas_ros.zoo.fetch import adopt, fetch


def test_a_model_is_fetched_converted_and_then_found(site: Site, card: Card, file: bytes, tmp_path: Path) -> None:
    site.files["/init"] = file
    seen: list[tuple[int, int | None]] = []
    card = dataclasses.replace(card, urls=(f"{site.url}/absent", f"{site.url}/init"))
    path = fetch(card, tmp_path / "cache", progress=lambda done, total: seen.append((done, total)))
    net, facts = load_checkpoint(path)
    assert net.spec == NetSpec.spvcnn(4)
    assert (facts.name, facts.published_miou) == ("small", 60.7)
    assert facts.source_sha256 == hashlib.sha256(file).hexdigest()
    assert seen[-1] == (len(file), len(file))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert models(tmp_path / "cache") == ["small.safetensors"]
    assert unfinished(tmp_path / "cache") == []

    asked = len(site.requests)
    assert fetch(card, tmp_path / "cache") == path
    assert len(site.requests) == asked


def test_a_wrong_hash_is_an_error_and_nothing_is_kept(site: Site, card: Card, tmp_path: Path) -> None:
    other = published(NetSpec.spvcnn(4))
    site.files["/init"] = other
    with pytest.raises(FetchError) as caught:
        fetch(card, tmp_path, url=f"{site.url}/init")
    assert f"begins with {hashlib.sha256(other).hexdigest()[:8]}, expected {card.sha256_prefix}" in str(caught.value)
    assert f"{site.url}/init" in str(caught.value)
    assert models(tmp_path) == []
    assert unfinished(tmp_path) == []


def test_a_failed_renewal_keeps_the_model_that_was_there(site: Site, card: Card, file: bytes, tmp_path: Path) -> None:
    site.files |= {"/init": file, "/bad": b"something else"}
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


def test_a_cache_that_cannot_be_written_is_a_clear_error(site: Site, card: Card, file: bytes, tmp_path: Path) -> None:
    site.files["/init"] = file
    (tmp_path / "file").touch()
    with pytest.raises(FetchError, match=r"cannot write the cache folder .*SPVNAS_CACHE"):
        fetch(card, tmp_path / "file" / "cache", url=f"{site.url}/init")


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


def test_a_file_that_the_user_brings_is_checked_and_adopted(card: Card, file: bytes, tmp_path: Path) -> None:
    own, folder = tmp_path / "from a friend.pth", tmp_path / "cache"
    own.write_bytes(file)
    path = adopt(card, folder, own)
    assert load_checkpoint(path)[1].published_miou == 60.7
    assert own.read_bytes() == file

    own.write_bytes(published(NetSpec.spvcnn(4)))
    with pytest.raises(FetchError, match=r"is not the published small: its sha256 begins with .* `spvnas import`"):
        adopt(card, folder, own)
    with pytest.raises(FetchError, match="cannot read"):
        adopt(card, folder, tmp_path / "absent")
    assert models(folder) == ["small.safetensors"]
    load_checkpoint(path)


def zoo(*args: object) -> Result:
    """The command in this process, which spares the imports."""
    return CliRunner().invoke(app, ["zoo", *map(str, args)])


def test_the_zoo_commands(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPVNAS_CACHE", str(tmp_path))
    site.files["/init"] = published(NetSpec.spvcnn(16))
    url = f"{site.url}/init"
    # Two at once: neither may meet the other's unfinished file.
    command = [sys.executable, "-m", "spvnas_ros.cli", "zoo", "fetch", "spvcnn-30g", "--url", url]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    both = [subprocess.Popen(command, text=True, **pipes) for _ in range(2)]
    for process in both:
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert "non-commercial" in out
    assert load_checkpoint(tmp_path / "spvcnn-30g.safetensors")[0].spec == NetSpec.spvcnn(16)
    assert models(tmp_path) == ["spvcnn-30g.safetensors"]
    assert unfinished(tmp_path) == []

    table, _, note = zoo("list").stdout.partition("All published")
    rows = {line.split()[0]: line for line in table.splitlines()}
    assert list(rows)[:2] == ["name", "default"]
    net, _ = load_checkpoint(shipped_path())
    millions = sum(parameter.numel() for parameter in net.parameters()) / 1e6
    assert rows["default"].split()[1:] == [f"{millions:.1f}", "M", "semantic-kitti", "Apache-2.0", "shipped"]
    assert "simulated streets" in " ".join(note.split())
    nothing = zoo("fetch", "default")
    assert "nothing to fetch" in nothing.stdout
    assert nothing.exit_code == 0
    assert all(card.name in rows and f"{card.miou:.1f} %" in rows[card.name] for card in CARDS)
    assert [name for name, row in rows.items() if row.rstrip().endswith("yes")] == ["spvcnn-30g"]

    for arguments, message in [
        (("fetch", "mmdet3d-spvcnn-w16", "--url", url), "expected a2734d85"),
        (("fetch", "spvcnn-30"), "did you mean spvcnn-30g"),
    ]:
        refused = zoo(*arguments)
        assert refused.exit_code == 1
        assert message in refused.stderr
        assert isinstance(refused.exception, SystemExit), refused.exception
