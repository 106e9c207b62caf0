"""Commands on weights: the zoo, other projects' checkpoints, what a checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spvnas_ros.cli.errors import readable_errors
from spvnas_ros.cli.options import WEIGHTS, CacheOption, ReplaceOption, WeightsOption

zoo = typer.Typer(help="Published models: list them, fetch them into the cache.", no_args_is_help=True)


@zoo.command("list")
def zoo_list(cache: CacheOption = None) -> None:
    """Show the published models: size, score, label map, licence, and which are there already."""
    from rich.console import Console

    from spvnas_ros.zoo.cache import cache_folder
    from spvnas_ros.zoo.table import detector_table, zoo_table

    console, folder = Console(), cache or cache_folder()
    console.print(zoo_table(folder))
    console.print()
    console.print(detector_table(folder))


@zoo.command("fetch")
@readable_errors
def zoo_fetch(
    name: Annotated[str, typer.Argument(help="A name from `spvnas zoo list`.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="A file you have already, instead of a download.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="With --from: the net.config of an SPVNAS model.")] = None,
    url: Annotated[str | None, typer.Option(help="Another address of the weights.")] = None,
    cache: CacheOption = None,
) -> None:
    """Put a published model into the cache: download (or take a file), check its hash, convert."""
    from spvnas_ros.zoo.cache import DEFAULT, cache_folder, shipped_path
    from spvnas_ros.zoo.cards import DATA_TERMS, DETECTOR_DATA_TERMS, DetectorCard, find_card
    from spvnas_ros.zoo.fetch import adopt, fetch
    from spvnas_ros.zoo.table import download_bar

    if source and url:
        raise typer.BadParameter("a model comes from a file (--from) or from an address (--url), not from both")
    if name == DEFAULT:
        typer.echo(f"{shipped_path()}\n{DEFAULT} comes with the package; there is nothing to fetch")
        return
    card, folder = find_card(name), cache or cache_folder()
    if source:
        path = adopt(card, folder, source, config=config)
    else:
        with download_bar(card.name) as progress:
            path = fetch(card, folder, url=url, progress=progress)
    terms = DETECTOR_DATA_TERMS if isinstance(card, DetectorCard) else DATA_TERMS
    typer.echo(f"{path}\n{card.upstream} of {card.project}: {card.licence}; {terms}")


@readable_errors
def import_(
    source: Annotated[
        Path, typer.Argument(help="`init` of mit-han-lab, `.pth` of mmdetection3d or OpenPCDet, or their folder.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .safetensors file to write.")],
    config: Annotated[
        Path | None, typer.Option(help="The net.config of an SPVNAS network; of a supernet, which subnet.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="spvcnn or minkunet, for mit-han-lab files that cannot be told apart by their weights."),
    ] = None,
    force: ReplaceOption = False,
) -> None:
    """Convert a checkpoint of one of these projects, published or your own. Nothing that the file has pickled is run.

    Networks that label points, supernets and SECOND, which finds boxes, are told apart by the names in the file. A
    supernet is kept whole, or with --config one of its networks is cut out. What a trainer has wrapped around the
    network (entries, prefixes, losses) is looked through and named.
    """
    from spvnas_ros.zoo.checkpoint import check_writable, save_checkpoint
    from spvnas_ros.zoo.detector_checkpoint import save_detector
    from spvnas_ros.zoo.importers.detectors import Detector, WholeSupernet, import_either
    from spvnas_ros.zoo.supernet_checkpoint import save_supernet

    check_writable(out, force=force)
    notes: list[str] = []
    found = import_either(source, config=config, kind=kind, say=notes.append)
    count = sum(parameter.numel() for parameter in found[0].parameters())
    if isinstance(found, Detector):
        save_detector(out, *found)
        classes = f"boxes of {', '.join(found.facts.classes)}"
        typer.echo(f"{out}: {found.facts.name}, {count:,} parameters, {classes} ({found.facts.provenance})")
    elif isinstance(found, WholeSupernet):
        save_supernet(out, *found)
        nets = f"a supernet of some 10^{len(str(found.net.space.size)) - 1} networks"
        typer.echo(f"{out}: {nets}, {count:,} parameters ({found.facts.provenance})")
    else:
        save_checkpoint(out, *found)
        facts = found[1]
        typer.echo(f"{out}: {facts.name}, {count:,} parameters, label map {facts.label_map} ({facts.provenance})")
    for note in notes:
        typer.echo(f"  {note}")


@readable_errors
def inspect(
    context: typer.Context,
    named: Annotated[
        str | None, typer.Argument(metavar="[WEIGHTS]", help="The same as --weights.", show_default=False)
    ] = None,
    weights: WeightsOption = "default",
    scan: Annotated[Path | None, typer.Option(help="Count multiply-accumulates on this scan.")] = None,
) -> None:
    """Show what a checkpoint holds: network, classes, provenance, and what it costs on a scan."""
    from rich.console import Console

    from spvnas_ros.zoo.cache import resolve_weights
    from spvnas_ros.zoo.checkpoint import LABELS, gives, load_checkpoint
    from spvnas_ros.zoo.inspect import describe

    source = context.get_parameter_source("weights")
    if named is not None and source is not None and source.name == "COMMANDLINE":
        raise typer.BadParameter(f"weights are named twice: {named} and --weights {weights}; leave one of them out")
    console, path = Console(), resolve_weights(named or weights)
    for part in describe(path, scan):
        console.print(part)
    if gives(path) == LABELS:
        from spvnas_ros.engine.cpu import precision_of

        typer.echo("precision auto on this machine's CPU: {} ({})".format(*precision_of(load_checkpoint(path)[0])))


@readable_errors
def blend(
    tuned: Annotated[str, typer.Argument(help=f"The network that was fine-tuned. {WEIGHTS}")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .safetensors file to write.")],
    weights: Annotated[str, typer.Option("-w", "--weights", help="The network it was fine-tuned from.")] = "default",
    share: Annotated[float, typer.Option(help="Of the fine-tuned network, 0..1; 0 is the other one.")] = 0.5,
    half: Annotated[bool, typer.Option("--half", help="Store in half precision: half the file.")] = False,
    force: ReplaceOption = False,
) -> None:
    """Mix the weights of a network with those it was fine-tuned to, which keeps most of what either knows."""
    from spvnas_ros.zoo.blend import blend as mix
    from spvnas_ros.zoo.cache import resolve_weights
    from spvnas_ros.zoo.checkpoint import check_writable, load_checkpoint, save_checkpoint

    check_writable(out, force=force)
    both = [load_checkpoint(resolve_weights(each)) for each in (weights, tuned)]
    net, facts = mix(both[0], both[1], share)
    save_checkpoint(out, net, facts, half=half)
    if facts.spec.boxes is None and any(each.spec.boxes for _, each in both):
        typer.echo("labels alone: the networks do not have the same box branch", err=True)
    typer.echo(f"{out}: {facts.provenance}")
