"""Commands of `nbcore`; each imports what it needs when it runs, so that `--help` is quick."""

# ruff: noqa: PLC0415
from __future__ import annotations

import math
import shlex
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table as RichTable

import nbcore
from nbcore.cli import console
from nbcore.common import plugins as plugin_registry
from nbcore.errors import NetworkError, OptionError, RunFolderError

if TYPE_CHECKING:
    from nbcore.cli.job import Outcome

app = typer.Typer(
    name="nbcore",
    help="Make part of a neural network Bayesian: train, choose weights, sample them, predict.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.toml", show_default=False)]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Keep no compiled programs, see `nbcore cache`.")
]


def run(arguments: Sequence[str] | None) -> int:
    """Run a command and return its exit status."""
    try:
        with console.remarks():
            app(args=None if arguments is None else list(arguments), prog_name="nbcore")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    return 0


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"nbcore {nbcore.__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Declare the options of `nbcore` itself."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("nbcore-demo"),
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A tiny network on 100 molecules, to see it work.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run.")] = False,
    no_cache: NoCache = False,
) -> None:
    """Run the main job on real molecules: 1,025 to train on, 257 to predict."""
    from nbcore.cli import demo as demonstration
    from nbcore.common.storage import whole_folder
    from nbcore.report import summary_picture

    _keep_compiled(no_cache)
    with tempfile.TemporaryDirectory(prefix="nbcore-") as scratch:
        project = Path(scratch)
        config = demonstration.write_project(project, seed=seed, quick=quick)
        outcome = _fit(config, out, overwrite)
        from nbcore.cli.run_folder import MARKER, write_run

        with whole_folder(out, MARKER, overwrite=overwrite, remedy="--overwrite") as folder:
            data = write_run(outcome, folder)
            demonstration.copy_data(project, folder)
            (folder / "summary.png").write_bytes(summary_picture(data))
    _show(outcome, out, "report.html", "summary.png")
    molecules, place = out / "data" / "test.csv", shlex.quote(str(out))
    _next(f"nbcore predict {place} --input {shlex.quote(str(molecules))}",
          f"nbcore run {shlex.quote(str(out / 'config.toml'))} --out my-run")  # fmt: skip


@app.command("run")
def run_config(
    config: ConfigFile,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("nbcore-run"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run.")] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Folder for the state of sampling; the same command resumes from it."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Run even if it is estimated to take more than an hour.")
    ] = False,
    distributed: Annotated[
        bool,
        typer.Option("--distributed", help="Be one of several processes, see docs/devices.md."),
    ] = False,
    no_cache: NoCache = False,
) -> None:
    """Train, choose weights, sample and evaluate, by a configuration."""
    from nbcore.common.storage import whole_folder
    from nbcore.sampling.placement import connect

    _keep_compiled(no_cache)
    if distributed:
        connect()
    outcome = _fit(config, out, overwrite, checkpoint, yes=yes)
    from nbcore.cli.run_folder import MARKER, write_run

    if not _is_first():
        return

    with whole_folder(out, MARKER, overwrite=overwrite, remedy="--overwrite") as folder:
        write_run(outcome, folder)
    _show(outcome, out, "report.html", "metrics.json", "predictions.csv")
    _next(f"nbcore predict {shlex.quote(str(out))} --input new.csv")


@app.command()
def compare(
    config: ConfigFile,
    out: Annotated[
        Path, typer.Option(help="Folder of the comparison; the same command goes on there.")
    ] = Path("nbcore-comparison"),
    jobs: Annotated[int, typer.Option(help="Processes, one cell at a time in each.")] = 1,
    executor: Annotated[str, typer.Option(help="processes, or dask: a cluster.")] = "processes",
    address: Annotated[str | None, typer.Option(help="Address of the Dask scheduler.")] = None,
    no_cache: NoCache = False,
) -> None:
    """Compare samplers, selectors and sizes of subsets at an equal budget."""
    from nbcore import compare as comparison
    from nbcore.cli.comparison import read_plan
    from nbcore.compare.standings import cell_name

    _keep_compiled(no_cache)
    plan, shown = read_plan(config), console.err()

    def tell(row: comparison.Row, done: int, count: int) -> None:
        ended = f"{row['seconds_total']:.0f} s" if "seconds_total" in row else ""
        failed = f" [red]{escape(row['error'])}[/]" if row["status"] == "failed" else ""
        shown.print(f"{done}/{count} {escape(cell_name(row))}: {ended}{failed}")

    where: Any = {"executor": executor, "address": address}
    rows = comparison.run(plan, out, jobs=jobs, on_row=tell, **where)
    failed = sum(row["status"] == "failed" for row in rows)
    out_of = console.out()
    out_of.print(f"{len(rows)} cells, {failed} of them failed: {escape(str(out))}", soft_wrap=True)
    for file in (out / "table.csv", comparison.report(out), comparison.report(out, "md")):
        out_of.print(f"  {escape(str(file))}", soft_wrap=True)


@app.command()
def predict(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", show_default=False)],
    table: Annotated[Path, typer.Option("--input", help="CSV file with the inputs.")],
    output: Annotated[
        Path | None, typer.Option(help="CSV file to write; standard output without it.")
    ] = None,
    delimiter: Annotated[str, typer.Option(help="Character between the cells of the input.")] = ",",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a file with rows that cannot be read.")
    ] = False,
    no_cache: NoCache = False,
) -> None:
    """Predict new rows with a run: mean, intervals, and the parts of the variance."""
    from nbcore.cli.inputs import encode
    from nbcore.cli.run_folder import predictions_csv, read_run
    from nbcore.common.storage import write_text
    from nbcore.datasets import read_csv

    if output is not None and output.exists() and not overwrite:
        raise RunFolderError(f"{output} exists. Give another file, or --overwrite.")
    _keep_compiled(no_cache)
    model = read_run(run_dir)
    rows = read_csv(table, delimiter=delimiter)
    reading = model.inputs.read(rows)
    if strict or not len(reading.rows):
        encode(model.inputs, rows)  # raises, naming all unreadable rows
    _remark_on(reading.status)
    y = rows.numbers(model.target)[0] if model.target in rows.columns else None
    text = predictions_csv(rows, model.inputs, model.predict(reading), reading.status, y)
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_text(output, text)
        console.err().print(f"{len(reading.rows):,} predictions: {escape(str(output))}")


def _remark_on(status: Sequence[str]) -> None:
    """Print how many rows are unlike the training rows; the column `status` states why."""
    unreadable = sum(text.startswith("unreadable") for text in status)
    unlike = sum(text.startswith("unlike") for text in status)
    if unreadable:
        console.remark(
            f"{unreadable} of {len(status)} rows cannot be read and have no prediction: the column "
            "status says why. Type --strict to refuse such files."
        )
    if unlike:
        console.remark(
            f"{unlike} of {len(status)} rows are unlike anything in training: tokens never seen, "
            "or numbers far outside. Their intervals cannot be trusted; see the column status."
        )


@app.command()
def layers(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG.toml]", show_default=False)
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="A network of `nbcore plugins`, instead of a configuration.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="Option of the network: name=value.")
    ] = None,
    features: Annotated[
        int | None, typer.Option(help="Columns of the table, for networks that read one.")
    ] = None,
) -> None:
    """Show the layers of a network: the names by which weights are selected."""
    from nbcore.networks.describe import layer_table, layers_of

    if (config is None) == (network is None):
        raise OptionError(
            "Give a configuration or a network: nbcore layers CONFIG.toml, or nbcore layers "
            "--network mlp --features 8"
        )
    if config is not None:
        from nbcore.cli.config import read_config
        from nbcore.cli.job import prepare

        job = prepare(read_config(config))
        model, example = job.network[0], job.train.X
    else:
        import numpy as np

        options = dict(_option(text) for text in option or ())
        model = plugin_registry.build("network", network or "", options)
        example = None if features is None else np.zeros((1, features), np.float32)
    try:
        found = layers_of(model, example)
    except NetworkError as error:
        if example is not None:
            raise
        raise NetworkError(
            f"The network {network!r} takes its sizes from the table that it reads. Type: nbcore "
            f"layers --network {network} --features 8"
        ) from error
    typer.echo(layer_table(found))


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise OptionError(f"--option is name=value, such as d_model=32; got {text!r}.")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


@app.command()
def plugins() -> None:
    """List samplers, selectors and networks with their distributions, and broken plugins."""
    registry = plugin_registry.registry()
    table = RichTable(box=None, pad_edge=False, header_style="bold")
    for heading in ("kind", "name", "declares", "plugin", "distribution", "extra"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for kind in ("backend", "selector", "network"):
        for name, offers in sorted(registry.providers(kind).items()):
            for plugin, spec in offers:
                declared = ", ".join(sorted(spec.capabilities))
                twice = " [red](offered twice)[/]" if len(offers) > 1 else ""
                who = (escape(plugin.name), escape(plugin.distribution), escape(spec.extra))
                table.add_row(kind, escape(name) + twice, escape(declared), *who)
    console.out().print(table)
    broken = [plugin for plugin in registry.plugins if plugin.error]
    for plugin in broken:
        who = escape(f"{plugin.name} of {plugin.distribution}: {plugin.error}")
        console.out().print(f"[red]broken[/] {who}", soft_wrap=True)


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove the compiled programs.")] = False,
) -> None:
    """Show where compiled programs are kept, so that the next run does not compile them again."""
    from nbcore.cli.compiled import cache_folder, stored_programs

    folder = cache_folder()
    if folder is None:
        raise OptionError(
            "There is no home folder to keep compiled programs in. Type: "
            "JAX_COMPILATION_CACHE_DIR=/a/folder nbcore ..."
        )
    programs = list(stored_programs(folder))
    size = sum(path.stat().st_size for path in programs)
    count = sum(path.name.endswith("-cache") for path in programs)
    if clear:
        for path in programs:
            path.unlink(missing_ok=True)
    done = "removed from" if clear else "kept in"
    what = f"Compiled programs: {count:,} ({size / 2**20:,.1f} MiB), {done} {escape(str(folder))}"
    console.out().print(what, soft_wrap=True)
    if not clear:
        _next("nbcore cache --clear", "nbcore run CONFIG.toml --no-cache")


def _keep_compiled(no_cache: bool) -> None:
    from nbcore.cli.compiled import keep_compiled, keep_nothing

    keep_nothing() if no_cache else keep_compiled()


def _is_first() -> bool:
    """Whether this is the process, of one or several, that prints and writes."""
    import jax

    return jax.process_index() == 0


def _fit(
    config_file: Path,
    out: Path,
    overwrite: bool,
    checkpoint: Path | None = None,
    *,
    yes: bool = False,
) -> Outcome:
    """Run all checks, then train and sample."""
    from nbcore.cli.config import read_config
    from nbcore.common.storage import check_free

    config = read_config(config_file)
    from nbcore.cli.job import execute, prepare
    from nbcore.cli.patience import LIMIT_SECONDS, Patience
    from nbcore.cli.run_folder import MARKER

    check_free(out, MARKER, overwrite=overwrite, remedy="--overwrite")
    job = prepare(config)
    if not _is_first():
        return execute(job, lambda report: None, checkpoint)
    limit = math.inf if yes else LIMIT_SECONDS
    console.err().print(
        f"{len(job.train.y):,} rows to train on, {len(job.test.y):,} to test on", style="dim"
    )
    with console.progress() as progress:
        return execute(job, Patience(progress, limit), checkpoint)


def _show(outcome: Outcome, out: Path, *names: str) -> None:
    results = [{"name": way.name, **way.to_data()} for way in outcome.evaluations]
    title = f"{len(outcome.job.test.y):,} test rows, {outcome.job.config.data.target}"
    shown = console.out()
    shown.print()
    shown.print(console.results_table(results, title))
    shown.print(f"\nRun: [bold]{escape(str(out))}[/]", soft_wrap=True)
    for name in names:
        shown.print(f"  {escape(str(out / name))}", soft_wrap=True)


def _next(*commands: str) -> None:
    shown = console.out()
    shown.print("\nNext:")
    for command in commands:
        shown.print(f"  {escape(command)}", soft_wrap=True)
