"""A whole search on tiny drives: its result depends on the recipe alone, and is a network that every command takes."""

from __future__ import annotations

import json
import select
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import places
from searches import TINY, write_drives
from spvnas_cli import spvnas
from spvnas_ros.nets.space import Candidate
from spvnas_ros.zoo.checkpoint import load_checkpoint

RESULTS = ("candidates.jsonl", "front.json", "found_1.json", "found_2.json", "front.png")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    training = {
        "name": "supernet",
        "supernet": {"lowest": TINY.lowest, "highest": TINY.highest, "validated": 0, "calibration": 1},
        "data": {"voxel_size": 0.5, "workers": 0},
        "schedule": {"warmup_steps": 0},
        "trainer": {"steps": 2, "batch_size": 1, "device": "cpu"},
    }
    (folder / "supernet.yaml").write_text(json.dumps(training))
    document = {
        "name": "tiny",
        "supernet": {"recipe": str(folder / "supernet.yaml"), "folder": str(folder / "supernet")},
        "data": {
            "train": [str(write_drives(folder / "drives", 3))],
            "learn": ["00-01"],
            "score": ["02"],
            "statistics_batches": 1,
        },
        "limits": [{"macs": 20e6}, {"parameters": 60e3}],
        "strategy": {"population": 4, "generations": 2, "parents": 2},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="module")
def reported(recipe: Path) -> tuple[Path, str]:
    """A whole search: its folder, and what it printed."""
    out = recipe.parent / "finished"
    result = spvnas("search", recipe, "--out", out, "--processes", 1)
    assert result.exit_code == 0, result.output
    return out, result.stdout


@pytest.fixture(scope="module")
def finished(reported: tuple[Path, str]) -> Path:
    return reported[0]


def advised(printed: str, word: str) -> list[list[str]]:
    """The commands that follow a word in what was printed."""
    return [shlex.split(line.partition(word)[2]) for line in printed.splitlines() if word in line]


def test_every_network_is_within_its_limit_and_the_best_is_a_checkpoint(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "candidates.jsonl").read_text().splitlines()]
    assert [line["limit"] for line in lines] == sorted(line["limit"] for line in lines)
    assert all(line["macs"] <= 20e6 for line in lines if line["limit"] == 1)
    assert all(line["parameters"] <= 60e3 for line in lines if line["limit"] == 2)
    assert all(TINY.contains(Candidate.from_dict(line["candidate"])) for line in lines)
    assert {line["origin"] for line in lines} >= {"uniform", "random"}
    net, facts = load_checkpoint(finished / "found_1.safetensors")
    best = max((line for line in lines if line["macs"] <= 20e6), key=lambda line: line["marks"]["miou"])
    assert net.spec == Candidate.from_dict(best["candidate"]).spec
    assert "found by spvnas search, recipe tiny, within 0.02 GMACs" in facts.provenance


def test_a_found_network_scores_what_the_search_says(finished: Path, recipe: Path) -> None:
    settings = yaml.safe_load(recipe.read_text())
    drives = settings["data"]["train"][0]
    result = spvnas("evaluate", drives, "-w", finished / "found_1.safetensors", "--sequences", "02", "--json")
    found = json.loads((finished / "found_1.json").read_text())
    assert json.loads(result.stdout)["miou"] == pytest.approx(found["marks"]["miou"], abs=1e-12)


def test_a_search_that_is_killed_goes_on_to_the_same_result_with_more_workers(finished: Path, recipe: Path) -> None:
    out = recipe.parent / "killed"
    command = [sys.executable, "-m", "spvnas_ros.cli", "search", str(recipe), "--out", str(out), "--processes", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = out / "candidates.jsonl"
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= 3):
        select.select([], [], [], 0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with journal.open("ab") as file:
        file.write(b'{"limit": 1, "gen')  # a line that was cut short
    refused = spvnas("search", recipe, "--out", out)
    assert refused.exit_code == 1
    assert "go on with --resume" in refused.output
    result = spvnas("search", recipe, "--out", out, "--processes", 2, "--resume")
    assert result.exit_code == 0, result.output
    for name in RESULTS:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name
    for name in ("found_1.safetensors", "found_2.safetensors"):
        (_, one), (_, other) = (load_checkpoint(folder / name) for folder in (out, finished))
        assert (one, one.weights_sha256) == (other, other.weights_sha256)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data.score=[01-02]", "have 2 scan(s) in common"),
        ("data.score=[]", "name sequences for both"),
        ("limits=[{macs: 1}]", "no network of the space is within 1e-09 GMACs: the smallest has"),
        ("limits=[{flops: 1}]", "limits.0.flops: there is no such key"),
        ("data.score=[07]", "has no sequence 07"),
        ("supernet.checkpoint=x.safetensors", "either a checkpoint or a recipe"),
        ("supernet={checkpoint: x.safetensors, folder: y}", "supernet.checkpoint names one; leave them out"),
        ("strategy.parents=5", "strategy.parents is 5, but before the last generation only 4 networks"),
        (
            "limits=[{macs: -5}]",
            "cannot be used:\n  limits.0.macs: found -5, expected: Input should be greater than or equal to 0\n",
        ),
    ],
)
@pytest.mark.usefixtures("finished")
def test_what_cannot_be_searched_is_said(recipe: Path, tmp_path: Path, change: str, words: str) -> None:
    result = spvnas("search", recipe, change, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert words in result.stderr


@pytest.mark.usefixtures("finished")
def test_drives_that_the_supernet_learnt_from_or_was_validated_on_are_refused(recipe: Path, tmp_path: Path) -> None:
    (drives,) = yaml.safe_load(recipe.read_text())["data"]["train"]
    supernet = tmp_path / "best.safetensors"
    supernet.write_bytes((recipe.parent / "supernet" / "best.safetensors").read_bytes())
    own = f"supernet={{checkpoint: {supernet}}}"
    for data, words in (
        ({"train": [drives]}, "learnt from 2 of the 2 scans of data.score"),
        ({"train": [drives], "sequences": ["00"], "validation": [drives]}, "was validated on 2 of the 2 scans"),
    ):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"name": "supernet", "data": data}))
        result = spvnas("search", recipe, own, "--out", tmp_path / "out")
        assert result.exit_code == 1
        assert words in result.stderr


def test_what_it_advises_in_the_end_can_be_done(
    reported: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, printed = reported
    monkeypatch.chdir(places.RECIPES.parent.parent)
    commands = advised(printed, "fine-tune it on all training drives: ")
    assert [command[3] for command in commands] == [
        f"start={out / name}.safetensors" for name in ("found_1", "found_2")
    ]
    quick = ["trainer.steps=1", "schedule.warmup_steps=0", "data.workers=0", "trainer.device=cpu"]
    result = spvnas(*commands[1][1:], *quick, "--out", tmp_path / "tuned")
    assert result.exit_code == 0, result.output
    assert "tiny_found_2: 6 scans, 1 steps" in result.stderr
    (scratch,) = advised(printed, "train one from scratch: ")
    recipe = tmp_path / "plain.yaml"
    recipe.write_text(yaml.safe_dump({"name": "plain", "data": {"train": commands[1][4].partition("[")[2][:-1]}}))
    words = [recipe if word == "RECIPE" else word for word in scratch]
    result = spvnas(*words[1:], *quick, "trainer.batch_size=1", "--out", tmp_path / "scratch")
    assert result.exit_code == 0, result.output
    (one, facts), (other, _) = (
        load_checkpoint(path) for path in (tmp_path / "scratch" / "last.safetensors", out / "found_2.safetensors")
    )
    assert (one.spec, facts.voxel_size) == (other.spec, 0.5)


def test_any_network_that_was_tried_is_written_as_it_was_scored(finished: Path, recipe: Path) -> None:
    lines = (finished / "candidates.jsonl").read_text().splitlines()
    best = json.loads((finished / "found_1.json").read_text())["candidate"]
    number, other = next(n for n, line in enumerate(lines, 1) if json.loads(line)["candidate"] == best), len(lines)
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    result = spvnas("search", recipe, "--out", finished, "--processes", 1, "--export", number, "--export", other)
    assert result.exit_code == 0, result.output
    (one, facts), (found, _) = (
        load_checkpoint(finished / f"{name}.safetensors") for name in (f"candidate_{number}", "found_1")
    )
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in one.state_dict().items())
    assert f"subnet {number} that spvnas search tried, recipe tiny, mIoU" in facts.provenance
    assert json.loads((finished / f"candidate_{other}.json").read_text()) == json.loads(lines[-1])
    assert len(advised(result.stdout, "fine-tune it on all training drives: ")) == 2
    for path in finished.glob("candidate_*"):
        path.unlink()
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before
    for out, words in ((finished, "has no line 99: it has"), (recipe.parent / "none", "no network has been tried yet")):
        result = spvnas("search", recipe, "--out", out, "--export", 99)
        assert result.exit_code == 1
        assert words in result.stderr
