"""The commands of ``controlrnn``; what they call is imported when it is called, so that help is quick."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controlrnn import __version__
from controlrnn.command.exits import Exit, exit_of, table
from controlrnn.command.showing import Listener, Show, own_logging
from controlrnn.errors import ControlRnnError, SettingError

if TYPE_CHECKING:
    from controlrnn.road import Entry, Stage, Verdict

app = typer.Typer(
    name="controlrnn",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="From measurements to a controller that keeps its limits: a certified model, and what it may be wrong by.\n\n"
    "* `controlrnn init tanks.csv`\n\n* `controlrnn run`\n\n"
    "`init` looks at the data and writes `road.toml`; `run` does everything that is not done yet, stage by stage, into "
    "the folder `road`. `controlrnn COMMAND --help` says more.",
    epilog=f"Exit codes: {table()}.",
)


class Target(StrEnum):
    """What a model or controller is exported to."""

    C = "c"
    CASADI = "casadi"
    ONNX = "onnx"
    FMU = "fmu"


class Timing(StrEnum):
    """What comes first in a sample."""

    MEASURED_FIRST = "measured_first"
    INPUT_FIRST = "input_first"


File = Annotated[Path, typer.Option("--file", "-f", help="The road file.")]
Folder = Annotated[
    Path | None, typer.Option("--folder", "-o", help="Folder of results; the road file's name without .toml.")
]
Json = Annotated[bool, typer.Option("--json", help="Give one JSON value on stdout.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the whole log.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only.")]
Redo = Annotated[bool, typer.Option("--redo", help="Do it even if nothing has changed.")]
ROAD = Path("road.toml")


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    """Show the version, or the help."""
    if version:
        typer.echo(f"controlrnn {__version__}")
        raise typer.Exit


@app.command()
def init(
    data: Annotated[list[Path], typer.Argument(help="Files of measurements: CSV, Parquet, MATLAB, HDF5.")],
    file: File = ROAD,
    inputs: Annotated[str, typer.Option(help="Columns of the inputs, with commas; by their names when left out.")] = "",
    outputs: Annotated[str, typer.Option(help="Columns of the outputs, with commas.")] = "",
    time: Annotated[str | None, typer.Option(help="Column of time stamps.")] = None,
    dt: Annotated[float | None, typer.Option(help="Sample time [s], where there are no stamps.")] = None,
    timing: Annotated[Timing, typer.Option(help="What comes first in a sample.")] = Timing.MEASURED_FIRST,
    budget: Annotated[float, typer.Option(help="Seconds for the search of a model.")] = 180.0,
    reading: Annotated[
        list[str] | None, typer.Option(help="An option of reading, e.g. 'missing = [-9999.0]'; may be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the road file.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look at measurements and write a commented road file.

    For example:

    * `controlrnn init tanks.csv`
    * `controlrnn init a.csv b.csv --inputs pump,valve --outputs level --time stamp`
    * `controlrnn init log.csv --dt 0.1 --reading 'missing = [-9999.0]'`
    """
    show = Show(as_json=as_json, quiet=quiet)
    from controlrnn.records import write_atomic
    from controlrnn.records.writing import exists
    from controlrnn.road import draft_road

    if exists(file) and not force:
        raise SettingError(f"{file} is there already: say --force to replace it, or --file OTHER.toml")
    made = draft_road(
        data,
        base=file.parent,
        inputs=_names(inputs),
        outputs=_names(outputs),
        time=time,
        dt=dt,
        timing=str(timing),
        budget=budget,
        reading="\n".join(reading or ()),
    )
    write_atomic(file, made.text.encode())
    channels = ", ".join(c.name for c in made.file.inputs), ", ".join(c.name for c in made.file.outputs)
    told = " (by their names: check that)" if made.guessed else ""
    text = [
        str(made.report),
        f"inputs: {channels[0]}; outputs: {channels[1]}{told}",
        f"wrote {file}: put the plant's limits into it, then `controlrnn run`",
    ]
    show.result("\n".join(text), {"file": str(file), "guessed": made.guessed, "road": made.file.model_dump()})


def _names(text: str) -> list[str]:
    return [n.strip() for n in text.split(",") if n.strip()]


def _done(
    stage: str, file: Path, folder: Path | None, show: Show, *, redo: bool = False
) -> tuple[Path, dict[Stage, Entry]]:
    """Do the stages up to one."""
    from controlrnn.road import Road, Stage, run_road

    place = folder or (file.with_suffix("") if file.suffix else file.with_name(f"{file.name}.results"))
    road = Road.made(file, place)
    try:
        return place, run_road(road, file.parent, until=Stage(stage), redo=redo, listener=Listener(show))
    except KeyboardInterrupt:
        show.note("interrupted: the same command goes on from there")
        raise


def _value(place: Path, found: dict[Stage, Entry]) -> dict[str, Any]:
    """What stages found, as JSON."""
    stages = {
        str(s): {"figures": e.figures, "words": list(e.words), "seconds": e.seconds, "files": list(e.files)}
        for s, e in found.items()
    }
    return {"folder": str(place), "stages": stages}


def _within_limits(found: dict[Stage, Entry], show: Show) -> None:
    """End with a code of its own where loops with tightened limits left them."""
    from controlrnn.road import Stage

    if Stage.SIMULATE in found and found[Stage.SIMULATE].figures["tightened"]["loops_that_left_limits"]:
        show.note(
            "loops with tightened limits left them: the plant is not what was declared, or it ran for longer than the "
            "promise says; see the report"
        )
        raise typer.Exit(Exit.LIMITS)


def _add_stage(stage: str, text: str) -> None:
    """Add the command of one stage; ``text`` is its help."""

    def command(
        file: File = ROAD,
        folder: Folder = None,
        redo: Redo = False,
        as_json: Json = False,
        verbose: Verbose = False,
        quiet: Quiet = False,
    ) -> None:
        show = Show(as_json=as_json, verbose=verbose, quiet=quiet)
        place, found = _done(stage, file, folder, show, redo=redo)
        last = list(found)[-1]
        show.result("\n".join(found[last].words), _value(place, {last: found[last]}))
        _within_limits(found, show)

    app.command(stage, help=text)(command)


_add_stage(
    "check",
    """Read the data, say what is wrong with them, and deal them out.

    For example:

    * `controlrnn check --json`
    """,
)
_add_stage(
    "identify",
    """Search for a model; linear ones are always among those compared.

    A search that is interrupted goes on where it was.

    For example:

    * `controlrnn identify -v`
    """,
)
_add_stage(
    "certify",
    """Prove that a model forgets its start, and bound its prediction errors.

    Exit code 4 where nothing could be proven.

    For example:

    * `controlrnn certify`
    """,
)
_add_stage(
    "tighten",
    """Calibrate the model error, and say how far the controller stays away from its limits.

    Exit code 5 where nothing is left between them.

    For example:

    * `controlrnn tighten`
    """,
)
_add_stage(
    "simulate",
    """Run closed loops: on the model with the errors it had on records, or on a plant, `simulate.plant`.

    Exit code 6 where a loop with tightened limits left them.

    For example:

    * `controlrnn simulate --redo`
    """,
)
_add_stage(
    "report",
    """Write one HTML page for whoever decides.

    For example:

    * `controlrnn report`
    """,
)


@app.command()
def run(
    file: File = ROAD, folder: Folder = None, as_json: Json = False, verbose: Verbose = False, quiet: Quiet = False
) -> None:
    """Do everything that is not done yet, then verify it.

    A stage is redone only where what it is made from has changed: a new limit starts no new search.

    For example:

    * `controlrnn run`
    * `controlrnn run --file other.toml --json > result.json`
    """
    from controlrnn.road import verify_folder

    show = Show(as_json=as_json, verbose=verbose, quiet=quiet)
    place, found = _done("report", file, folder, show)
    verdicts = verify_folder(place)
    text = ["\n".join([f"[{s}]", *(f"  {w}" for w in e.words)]) for s, e in found.items()]
    text += ["\n".join(["[verify]", *(f"  {_said(v)}" for v in verdicts)])]
    show.result("\n".join(text), _value(place, found) | {"verdicts": [_judged(v) for v in verdicts]})
    _proven(verdicts)
    _within_limits(found, show)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of results.")] = Path("road"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prove or compute again what a folder claims, without a solver and without torch.

    Exit code 4 where a claim does not hold.

    For example:

    * `controlrnn verify road`
    """
    from controlrnn.road import verify_folder

    verdicts = verify_folder(folder)
    text = "\n".join(map(_said, verdicts))
    Show(as_json=as_json, quiet=quiet).result(text, [_judged(v) for v in verdicts])
    _proven(verdicts)


def _said(verdict: Verdict) -> str:
    return f"{'holds' if verdict.holds else 'FAILS'}: {verdict.claim} ({verdict.words})"


def _judged(verdict: Verdict) -> dict[str, Any]:
    return {"claim": verdict.claim, "holds": verdict.holds, "words": verdict.words}


def _proven(verdicts: Sequence[Verdict]) -> None:
    """End with a code of its own where a claim does not hold."""
    if not all(v.holds for v in verdicts):
        raise typer.Exit(Exit.NOT_PROVEN)


@app.command()
def export(
    to: Annotated[Target, typer.Option("--to", help="Format.")],
    folder: Annotated[Path, typer.Argument(help="Folder of results.")] = Path("road"),
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write to; FOLDER/export when left out.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the controller as C, or the model for CasADi, ONNX or as FMU.

    For example:

    * `controlrnn export --to c`
    * `controlrnn export road --to onnx --out models`
    """
    show = Show(as_json=as_json, quiet=quiet)
    from controlrnn.command.exporting import export_road

    paths = export_road(folder, str(to), folder / "export" if out is None else out)
    show.result("\n".join(f"wrote {p}" for p in paths), {"files": [str(p) for p in paths]})


@app.command("new-plant")
def new_plant(
    name: Annotated[str, typer.Argument(help="Name of the class, e.g. HeatedVessel.")],
    folder: Annotated[Path, typer.Option("--folder", "-o", help="Folder to write to.")] = Path(),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a plant of your own to start from, with a test that it passes.

    For example:

    * `controlrnn new-plant HeatedVessel`
    """
    show = Show(as_json=as_json, quiet=quiet)
    from controlrnn.command.plant_file import write_plant

    source, test = write_plant(name, folder)
    module = source.stem
    text = (
        f"wrote {source} and {test}: change the equations, then `python -m pytest {test}`\n"
        f'a road runs on it with simulate.plant = "{module}:{name}"'
    )
    show.result(text, {"plant": f"{module}:{name}", "files": [str(source), str(test)]})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; the process ends with one of the exit codes.

    Args:
        arguments: The command line without the program's name; that of the process when left out.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with own_logging():
            app(args=given, prog_name="controlrnn")
    except ControlRnnError as error:
        if "--json" in given:
            typer.echo(json.dumps({"error": type(error).__name__, "message": str(error)}, indent=2))
        typer.echo(f"error: {error}", err=True)
        sys.exit(exit_of(error))
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
