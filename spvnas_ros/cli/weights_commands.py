"""Commands on weights: the zoo, other projects' checkpoints, what a checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spvnas_ros.cli.errors import readable_errors
from spvnas_ros.cli.options import WEIGHTS, CacheOption, WeightsOption

zoo = typer.Typer(help="Published models: list them, fetch them into the cache.", no_args_is_help=True)


@zoo.command("list")
def zoo_list(cache: CacheOption = None) -> None:
    """Show the models that can be named as weights: size, score, label map, licence, and which are there already."""
    from rich.console import Console

    from spvnas_ros.zoo.cache import cache_folder
    from spvnas_ros.zoo.table import zoo_table

    Console().print(zoo_table(cache or cache_folder()))


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
    from spvnas_ros.zoo.cards import DATA_TERMS, find_card
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
    typer.echo(f"{path}\n{card.upstream} of {card.project}: {card.licence}; {DATA_TERMS}")


@readable_errors
def import_(
    source: Annotated[Path, typer.Argument(help="`init` of mit-han-lab, `.pth` of mmdetection3d, or their folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .safetensors file to write.")],
    config: Annotated[Path | None, typer.Option(help="The net.config of an SPVNAS network.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="spvcnn or minkunet, for mit-han-lab files that cannot be told apart by their weights."),
    ] = None,
) -> None:
    """Convert a checkpoint of one of these projects, published or your own. Nothing that the file has pickled is run.

    What a trainer has wrapped around the network (entries, prefixes, losses) is looked through and named.
    """
    from spvnas_ros.zoo.checkpoint import save_checkpoint
    from spvnas_ros.zoo.importers.projects import import_checkpoint

    notes: list[str] = []
    net, facts = import_checkpoint(source, config=config, kind=kind, say=notes.append)
    save_checkpoint(out, net, facts)
    count = sum(parameter.numel() for parameter in net.parameters())
    typer.echo(f"{out}: {facts.name}, {count:,} parameters, label map {facts.label_map} ({facts.provenance})")
    for note in notes:
        typer.echo(f"  {note}")


@readable_errors
def inspect(
    weights: WeightsOption = "default",
    scan: Annotated[Path | None, typer.Option(help="Count multiply-accumulates on this scan.")] = None,
) -> None:
    """Show what a checkpoint holds: network, classes, provenance, and what it costs on a scan."""
    from rich.console import Console

    from spvnas_ros.zoo.cache import resolve_weights
    from spvnas_ros.zoo.inspect import describe

    console = Console()
    for part in describe(resolve_weights(weights), scan):
        console.print(part)


@readable_errors
def blend(
    tuned: Annotated[str, typer.Argument(help=f"The network that was fine-tuned. {WEIGHTS}")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .safetensors file to write.")],
    weights: Annotated[str, typer.Option("-w", "--weights", help="The network it was fine-tuned from.")] = "default",
    share: Annotated[float, typer.Option(help="Of the fine-tuned network, 0..1; 0 is the other one.")] = 0.5,
    half: Annotated[bool, typer.Option("--half", help="Store in half precision: half the file.")] = False,
) -> None:
    """Mix the weights of a network with those it was fine-tuned to, which keeps most of what either knows."""
    from spvnas_ros.zoo.blend import blend as mix
    from spvnas_ros.zoo.cache import resolve_weights
    from spvnas_ros.zoo.checkpoint import load_checkpoint, save_checkpoint

    net, facts = mix(load_checkpoint(resolve_weights(weights)), load_checkpoint(resolve_weights(tuned)), share)
    save_checkpoint(out, net, facts, half=half)
    typer.echo(f"{out}: {facts.provenance}")
