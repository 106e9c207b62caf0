"""A download goes on where it broke off, and never glues what does not belong together."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from model_site import Site, models, unfinished
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.zoo.cache import FetchError
from spvnas_ros.zoo.cards import Card
from spvnas_ros.zoo.checkpoint import load_checkpoint
from spvnas_ros.zoo.download import download
from spvnas_ros.zoo.fetch import fetch


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("tags", [True, False])
def test_a_cut_connection_is_an_error_and_the_next_try_goes_on(
    site: Site, card: Card, file: bytes, tmp_path: Path, ranges: bool, tags: bool
) -> None:
    site.files["/init"], site.ranges, site.tags, site.cut_after = file, ranges, tags, 100_000
    with pytest.raises(FetchError, match=r"cut after 100,000 of [\d,]+ bytes; run the same command again"):
        fetch(card, tmp_path, url=f"{site.url}/init")
    assert models(tmp_path) == []
    assert [path.stat().st_size for path in unfinished(tmp_path)] == [100_000]
    path = fetch(card, tmp_path, url=f"{site.url}/init")
    assert site.requests == [("/init", None), ("/init", "bytes=100000-")]
    assert load_checkpoint(path)[1].source_sha256 == hashlib.sha256(file).hexdigest()
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
    site: Site, card: Card, file: bytes, tmp_path: Path
) -> None:
    site.files["/init"], site.lengths, site.tags = file, False, False
    assert load_checkpoint(fetch(card, tmp_path, url=f"{site.url}/init"))[0].spec == NetSpec.spvcnn(4)


def test_a_disk_that_fills_up_is_a_clear_error(site: Site, file: bytes, tmp_path: Path) -> None:
    site.files["/init"] = file
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
