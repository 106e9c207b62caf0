"""Runs `spvnas search`: turns a recipe into networks for a budget. What the folder holds, journal.py says.

A search that was stopped or killed goes on with `--resume`, and ends with the same result.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from spvnas_ros.executor import Call, Executor, open_executor
from spvnas_ros.frame import Points
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.nets.space import Candidate, Space
from spvnas_ros.offline.search import scoring
from spvnas_ros.offline.search.budget import Cost, Prices
from spvnas_ros.offline.search.drives import (
    Drives,
    check_unseen,
    quoted,
    sizes_of,
    sources_of,
    training_changes,
    usable,
)
from spvnas_ros.offline.search.evolution import UNIFORM, Scored, Trial, best_within, front, search
from spvnas_ros.offline.search.front_picture import save_front
from spvnas_ros.offline.search.journal import (
    CANDIDATES,
    CONFIG,
    FRONT,
    LATENCY,
    PICTURE,
    RUN,
    Journal,
    entries_at,
    entry_of,
    unknown,
)
from spvnas_ros.offline.search.keeping import Kept, fine_tuning, keep, write_json
from spvnas_ros.offline.search.latency import (
    TURNS,
    LatencyTable,
    Measured,
    Stopwatch,
    probes,
    rank_correlation,
    table_of,
)
from spvnas_ros.offline.search.search_config import SearchRecipe, load_search
from spvnas_ros.offline.training import command as training
from spvnas_ros.offline.training.config import ConfigError
from spvnas_ros.offline.training.recipe_files import load_recipe
from spvnas_ros.offline.training.recorder import BEST
from spvnas_ros.offline.training.simulated import make_missing
from spvnas_ros.zoo.checkpoint import Facts
from spvnas_ros.zoo.supernet_checkpoint import load_supernet

CHECKED = 30
"""Networks whose frame times are predicted and measured by `--check-latency`."""
GOOD_CORRELATION = 0.95
_QUIET = 30.0
"""Seconds between two lines where there is no terminal."""


def run(
    config: Path,
    overrides: Sequence[str],
    out: Path | None,
    *,
    resume: bool = False,
    processes: int | None = None,
    ray: str | None = None,
    check_latency: bool = False,
    export: Sequence[int] = (),
) -> int:
    """Searches, or writes networks that a search has tried as checkpoints.

    Returns the exit status: 0, that of the supernet's training where it ended otherwise, or 1 where `check_latency`
    found predictions that do not rank networks as measurements do.

    export: numbers of lines of `candidates.jsonl`, from 1 on; nothing is searched then

    Raises ConfigError for a recipe that cannot be used or a folder of another search, the errors of trainings, of
    checkpoints, data and executors, and UserError where no network is within a limit.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    recipe = load_search(config, overrides)
    out = out or Path("runs") / "search" / recipe.name
    _check_folder(out, recipe, resume=resume or check_latency or bool(export))
    exported = entries_at(out / CANDIDATES, export) if export else {}
    make_missing(recipe.data.simulate, console.print)
    split = recipe.data
    sources = [path.resolve() for path in sources_of(split)]
    # Before a training that takes long: whether the drives are there, and apart.
    drives = Drives.open(sources, split.learn, split.score, split.score_scans, split.label_map or SEMANTIC_KITTI.name)
    if check_latency:
        return _check_latency(recipe, _space(recipe, config, len(drives.score.label_map.classes)), drives, console)
    checkpoint, status = _supernet(recipe, config)
    if status:
        return status
    supernet, facts = load_supernet(checkpoint)
    label_map = split.label_map or facts.label_map
    if remark := check_unseen(split, checkpoint, label_map):
        console.print(f"warning: {remark}")
    drives = Drives.open(sources, split.learn, split.score, split.score_scans, label_map)
    if drives.score.label_map.classes != facts.classes:
        raise ConfigError(
            f"{checkpoint} tells {', '.join(facts.classes)} apart, but label map {label_map} has "
            f"{', '.join(drives.score.label_map.classes)}; choose another data.label_map"
        )
    _begin(out, recipe, facts, drives)
    exam = scoring.Exam(
        str(checkpoint.resolve()), facts.weights_sha256 or "", tuple(map(str, sources)), split.learn, split.score,
        split.score_scans, label_map, split.statistics_batches, split.statistics_scans, split.max_voxels, recipe.seed,
    )  # fmt: skip
    if export:
        with open_executor(processes, ray) as executor:
            networks = [_exported(recipe, number, entry, facts, out) for number, entry in exported.items()]
            keep(networks, exam, executor)
        _report_exported(recipe, networks, sources, label_map)
        return 0
    prices = _prices(recipe, supernet.space, drives, out, console)
    with open_executor(processes, ray) as executor, Journal(out / CANDIDATES) as journal:
        marks = _Marks(recipe, exam, executor, journal, console)
        try:
            with marks.shown():
                found = search(
                    supernet.space, recipe.limits, recipe.strategy, prices.cost, marks.scores_of, recipe.seed
                )
        except KeyboardInterrupt:
            again = _resuming(config, overrides, out, processes, ray)
            raise KeyboardInterrupt(f"{len(journal)} networks are scored and kept; go on with: {again}") from None
        best = [best_within(found, limit) for limit in recipe.limits]
        keep([_kept(recipe, number, each, facts, out) for number, each in enumerate(best)], exam, executor)
    _write_front(recipe, found, out)
    _report(recipe, found, best, out, sources, label_map)
    return 0


def _supernet(recipe: SearchRecipe, config: Path) -> tuple[Path, int]:
    """Returns the supernet's checkpoint, trained where it is not there, and the exit status of the training."""
    if recipe.supernet.checkpoint:
        return Path(recipe.supernet.checkpoint), 0
    path, changes, folder = _training(recipe, config)
    return folder / BEST, training.run(path, changes, folder, resume=True)


def _training(recipe: SearchRecipe, config: Path) -> tuple[Path, list[str], Path]:
    """Returns the recipe by which the supernet is trained, what changes in it, and the folder of the training."""
    asked = recipe.supernet
    path = config.parent / asked.recipe
    if not path.exists():
        path = Path(asked.recipe)
    changes = [*asked.changes, *training_changes(recipe.data)]
    return path, changes, Path(asked.folder or Path("runs") / "train" / load_recipe(path, changes).name)


def _space(recipe: SearchRecipe, config: Path, num_classes: int) -> Space:
    """Returns the design space, for which the supernet need not be trained yet.

    Raises ConfigError where the recipe's training is not of a supernet.
    """
    if recipe.supernet.checkpoint:
        return load_supernet(recipe.supernet.checkpoint)[0].space
    path, changes, _ = _training(recipe, config)
    trained = load_recipe(path, changes)
    if trained.supernet is None:
        raise ConfigError(f"{path} trains no supernet; it has no key `supernet`, from which a search takes its space")
    return trained.supernet.space(num_classes, trained.data.voxel_size)


def _check_folder(out: Path, recipe: SearchRecipe, *, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file, expected a folder for the search")
    if not (out / CONFIG).exists():
        return
    if not resume:
        raise ConfigError(f"{out} holds a search; go on with --resume, or name another folder with --out")
    try:
        begun = load_search(out / CONFIG)
    except (OSError, ConfigError) as error:
        raise ConfigError(f"{out / CONFIG} cannot be read ({error}), so the search cannot go on") from error
    before, now = begun.document(), recipe.document()
    if differ := [f"{key} {before[key]!r}, now {now[key]!r}" for key in now if before[key] != now[key]]:
        raise ConfigError(
            f"{out} holds a search with other settings: {'; '.join(differ)}; name another folder with --out"
        )


def _begin(out: Path, recipe: SearchRecipe, facts: Facts, drives: Drives) -> None:
    """Notes what the search works with. Raises ConfigError where it was begun with something else."""
    now = {
        "supernet": facts.weights_sha256,
        "learn": drives.learn.inventory(),
        "score": drives.score.inventory(),
    }
    if (out / RUN).is_file():
        try:
            begun = json.loads((out / RUN).read_text())
        except ValueError as error:
            raise ConfigError(f"{out / RUN} cannot be read ({error}), so the search cannot go on") from error
        if differ := [key for key in now if begun.get(key) != json.loads(json.dumps(now[key]))]:
            raise ConfigError(
                f"{out} holds a search with another {' and other '.join(differ)}; bring back what it was begun with, "
                "or name another folder with --out"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / CONFIG).write_text(yaml.safe_dump(recipe.document(), sort_keys=False))
    write_json(out / RUN, now)


def _sample(drives: Drives, voxel_size: float) -> Points:
    """Returns the scan that networks are timed on: that in the middle."""
    return usable(drives.score[len(drives.score) // 2].points, voxel_size)


def _measured(
    recipe: SearchRecipe,
    space: Space,
    drives: Drives,
    voxel_size: float,
    console: Console,
    others: Sequence[Candidate] = (),
) -> tuple[LatencyTable, list[Measured]]:
    """Returns the measured layers, and what other networks took, which are not among them."""
    points = _sample(drives, voxel_size)
    chosen = probes(space, voxel_size, recipe.timing.probes, np.random.default_rng(recipe.seed))
    timing = recipe.timing
    stopwatch = Stopwatch(timing.device, timing.threads, timing.repeats, timing.precision)
    with _bar("measuring layers", TURNS * (len(chosen) + len(others)), console) as advance:
        found = stopwatch.measured([*chosen, *others], points, advance)
    return table_of(stopwatch, sizes_of([points], voxel_size), found[: len(chosen)]), found[len(chosen) :]


def _prices(recipe: SearchRecipe, space: Space, drives: Drives, out: Path, console: Console) -> Prices:
    """Returns what tells costs. Layers are measured once; a search that goes on has those of its beginning."""
    sizes = {size: drives.sizes(size) for size in space.voxel_sizes}
    if not recipe.timed:
        return Prices(sizes, {})
    if not (out / LATENCY).exists():
        tables = {size: _measured(recipe, space, drives, size, console)[0] for size in space.voxel_sizes}
        write_json(out / LATENCY, [{"voxel_size": size, **table.to_dict()} for size, table in tables.items()])
    read = json.loads((out / LATENCY).read_text())
    return Prices(sizes, {each["voxel_size"]: LatencyTable.from_dict(each) for each in read})


def _check_latency(recipe: SearchRecipe, space: Space, drives: Drives, console: Console) -> int:
    """Prints predicted and measured frame times of random networks, and their rank correlation."""
    rng = np.random.default_rng((recipe.seed, 1))
    show = Console(soft_wrap=True, highlight=False, markup=False).print
    worst = 1.0
    for size in space.voxel_sizes:
        others = [Candidate(space.sample(rng).spec, size) for _ in range(CHECKED)]
        table, found = _measured(recipe, space, drives, size, console, others)
        predicted = [1e3 * table.seconds(each.spec) for each in found]
        measured = [1e3 * each.whole for each in found]
        points = len(_sample(drives, size))
        on = f"{table.device}, {table.threads} thread(s)" if table.device == "cpu" else table.device
        show(f"frames of {points} points, voxels of {size:g} m, {on}; milliseconds\npredicted  measured")
        for pair in zip(predicted, measured, strict=True):
            show("{:9.2f}  {:8.2f}".format(*pair))
        correlation = rank_correlation(predicted, measured)
        errors = np.abs(np.array(predicted) / np.array(measured) - 1)
        show(
            f"rank correlation (Spearman) of {CHECKED} random networks: {correlation:.3f}; "
            f"relative error {np.median(errors):.1%} in the median, {errors.max():.1%} at most"
        )
        worst = min(worst, correlation)
    if worst < GOOD_CORRELATION:
        show(
            f"That is less than {GOOD_CORRELATION}: is the machine busy? Then measure when it is not, or with larger "
            "timing.repeats and timing.probes."
        )
        return 1
    return 0


@contextmanager
def _bar(doing: str, count: int, console: Console) -> Iterator[Callable[[], None]]:
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(doing, total=count)
        yield lambda: progress.advance(task)


@dataclass
class _Marks:
    """Scores candidates by an executor, keeps what they scored in the journal and shows how far the search is."""

    recipe: SearchRecipe
    exam: scoring.Exam
    executor: Executor
    journal: Journal
    console: Console
    tried: int = 0
    best: float = 0.0
    pace: float = 0.0
    said: float = float("-inf")

    def __post_init__(self) -> None:
        strategy = self.recipe.strategy
        self.total = len(self.recipe.limits) * strategy.population * strategy.generations
        columns = (TextColumn("searching"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"))
        self._bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self._task = self._bar.add_task("searching", total=self.total, said="")

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows progress."""
        if len(self.journal):
            self.console.print(f"{len(self.journal)} networks were scored before")
        with self._bar:
            yield

    def scores_of(self, trials: Sequence[Trial]) -> list[float]:
        """Returns the scores of a generation."""
        new = list(unknown(self.journal, trials))
        exam = self.exam.to_dict()
        calls = [
            Call(
                f"limit {trial.limit + 1}, generation {trial.generation + 1}, a {trial.origin} network",
                scoring.FUNCTION,
                {"exam": exam, "candidate": trial.candidate.to_dict()},
            )
            for trial in new
        ]
        begun = monotonic()
        before = self.tried
        self.tried += len(trials) - len(new)
        for number, (trial, outcome) in enumerate(zip(new, self.executor.outcomes(calls), strict=True), 1):
            self.journal.add(trial, outcome.value())
            self.tried += 1
            self.pace = (monotonic() - begun) / number
            self._show(trials[0])
        scores = [float((self.journal.marks(trial.candidate) or {})["miou"]) for trial in trials]
        self.best = max([*scores, self.best if trials[0].generation else 0.0]) if trials else self.best
        self.tried = before + len(trials)
        if trials:
            self._show(trials[0], last=True)
        return scores

    def _show(self, trial: Trial, *, last: bool = False) -> None:
        left = self.pace * (self.total - self.tried)
        said = f"limit {trial.limit + 1} of {len(self.recipe.limits)}, best {self.best:.1%}, {_duration(left)} left"
        self._bar.update(self._task, completed=self.tried, said=said)
        if last and (self._bar.disable or trial.generation + 1 == self.recipe.strategy.generations):
            limit = self.recipe.limits[trial.limit].words()
            self.console.print(
                f"{limit}, generation {trial.generation + 1}/{self.recipe.strategy.generations}: best {self.best:.1%}, "
                f"{_duration(left)} left"
            )
        elif self._bar.disable and monotonic() - self.said > _QUIET:
            self.said = monotonic()
            self.console.print(f"{self.tried}/{self.total} networks, {said}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _found(number: int) -> str:
    return f"found_{number + 1}.safetensors"


def _kept(recipe: SearchRecipe, number: int, best: Scored, facts: Facts, out: Path) -> Kept:
    """Returns what is written of the best network of a limit."""
    story = (
        f"{facts.provenance}; subnet found by spvnas search, recipe {recipe.name}, within "
        f"{recipe.limits[number].words()}, mIoU {best.score:.1%} on held-out training drives before any fine-tuning"
    )
    entry = entry_of(best.trial, {"miou": best.score})
    return Kept(out / _found(number), f"{recipe.name}_{number + 1}", story, entry)


def _exported(recipe: SearchRecipe, number: int, entry: dict[str, Any], facts: Facts, out: Path) -> Kept:
    """Returns what is written of a network that was asked for."""
    story = (
        f"{facts.provenance}; subnet {number} that spvnas search tried, recipe {recipe.name}, mIoU "
        f"{entry['marks']['miou']:.1%} on held-out training drives before any fine-tuning"
    )
    return Kept(out / f"candidate_{number}.safetensors", f"{recipe.name}_candidate_{number}", story, entry)


def _axis(recipe: SearchRecipe) -> tuple[str, str, float]:
    """Returns which cost the front is about: its name, unit, and how many of its own units that is."""
    if recipe.timed:
        return "milliseconds", "milliseconds", 1.0
    if any(limit.macs for limit in recipe.limits) or not any(limit.parameters for limit in recipe.limits):
        return "macs", "GMACs", 1e9
    return "parameters", "million parameters", 1e6


def _write_front(recipe: SearchRecipe, found: Sequence[Scored], out: Path) -> None:
    name, unit, scale = _axis(recipe)

    def cost(of: Cost) -> float:
        return float(getattr(of, name)) / scale

    best = front(found, cost)
    write_json(out / FRONT, [entry_of(each.trial, {"miou": each.score}) for each in best])
    limits = [value / scale for limit in recipe.limits if (value := getattr(limit, name))]
    save_front(out / PICTURE, found, cost, unit, f"{recipe.name}: {len(found)} networks", limits)


def _report(
    recipe: SearchRecipe,
    found: Sequence[Scored],
    best: Sequence[Scored],
    out: Path,
    sources: Sequence[Path],
    label_map: str,
) -> None:
    show = Console(soft_wrap=True, highlight=False, markup=False).print
    for number, (limit, each) in enumerate(zip(recipe.limits, best, strict=True)):
        show(f"within {limit.words()}: {out / _found(number)}: mIoU {each.score:.1%}, {each.trial.cost.words()}")
        for other in found:
            if other.trial.limit == number and other.trial.origin == UNIFORM:
                show(f"  uniformly narrowed: mIoU {other.score:.1%}, {other.trial.cost.words()}")
        show(f"  fine-tune it on all training drives: {fine_tuning(recipe, out / _found(number), sources, label_map)}")
    show(f"all networks: {out / CANDIDATES}; the front: {out / FRONT}, {out / PICTURE}")
    one = out / _found(len(best) - 1)
    show(f"label with one: spvnas segment SOURCE -w {shlex.quote(str(one))} -o DIR")
    form = shlex.quote(f"net={{like: {quoted(str(one.with_suffix('.json')))}}}")
    show(f"train one from scratch: spvnas train RECIPE {form} data.voxel_size=0")


def _report_exported(recipe: SearchRecipe, networks: Sequence[Kept], sources: Sequence[Path], label_map: str) -> None:
    show = Console(soft_wrap=True, highlight=False, markup=False).print
    for each in networks:
        show(f"{each.path}: mIoU {each.entry['marks']['miou']:.1%}")
        show(f"  fine-tune it on all training drives: {fine_tuning(recipe, each.path, sources, label_map)}")


def _resuming(config: Path, overrides: Sequence[str], out: Path, processes: int | None, ray: str | None) -> str:
    words = ["spvnas", "search", str(config), *overrides, "--out", str(out), "--resume"]
    words += [] if processes is None else ["--processes", str(processes)]
    words += [] if ray is None else ["--ray", ray]
    return shlex.join(words)
