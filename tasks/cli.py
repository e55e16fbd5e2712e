"""The ``headland`` command. Each subcommand is thin: it calls the flow, the registry or the device package.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 advice refused, 4 gate refused, 5 drift found, 6 rolled back,
7 bundle or signature bad, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tasks.errors import errors_told
from tasks.fleet.commands import app as fleet_app

if TYPE_CHECKING:
    from tasks.summary import SeasonSummary

# The name under which a deployment knows the flow, too. Prefect finds it: what lies above `tasks` is not imported here.
FLOW = "flows.seasonal_retrain.seasonal_retrain"
ROLLOUT_FLOW = "flows.rollout.rollout"
SYNC_FLOW = "flows.field_sync.field_sync"

app = typer.Typer(
    name="headland",
    help="From real weather to signed advice on a device in a field.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(fleet_app, name="fleet")
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and Prefect's own log.")]
FleetDir = Annotated[Path | None, typer.Option(help="The fleet's folder; without it, .headland/fleet.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Entry point of the ``headland`` command."""
    app()


@app.command()
def retrain(
    force: Annotated[
        list[str] | None, typer.Option(help="Run this stage though unchanged: train, train@yield.")
    ] = None,
    until: Annotated[
        list[str] | None, typer.Option(help="Run only this stage and what it needs: bundle; without it, all.")
    ] = None,
    register: Annotated[bool, typer.Option(help="Register the bundle in MLflow and make it the candidate.")] = True,
    stage_timeout_h: Annotated[float, typer.Option(min=0.001, help="End a stage that takes longer, hours.")] = 6.0,
    debug: Debug = False,
) -> None:
    """Bring every stage up to date for the season in params.yaml, and register the bundle."""
    from tasks.child import signals_raise

    with errors_told(debug), signals_raise():
        from tasks.environment import prepare_environment
        from tasks.stages import find_root

        root = find_root(Path.cwd())
        prepare_environment(root, debug=debug)
        chosen = {"force": tuple(force or ()), "until": tuple(until or ())}
        _refuse_early(root, (*chosen["force"], *chosen["until"]))
        _conclude(root, _run_flow(FLOW, debug, **chosen, to_registry=register, stage_timeout_h=stage_timeout_h))


@app.command()
def rollout(
    publish: Annotated[
        bool, typer.Option(help="Judge and publish the candidate first; needs the offline keys.")
    ] = True,
    once: Annotated[bool, typer.Option("--once", help="Take one step and end; else go on to the end.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be signed.")] = False,
    every_s: Annotated[float, typer.Option(min=0.001, help="Seconds between two steps.")] = 60.0,
    fleet: FleetDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Judge and publish the candidate, and bring it to the fleet in waves; 4: gate refused, 6: halted."""
    with errors_told(debug):
        summary = _run_flow(
            ROLLOUT_FLOW, debug, to_publish=publish, once=once, dry_run=dry_run, every_s=every_s, fleet=fleet
        )
        if as_json:
            typer.echo(json.dumps(summary.as_dict(), indent=2))
        else:
            from rich.console import Console

            from tasks.fleet.rollout_summary import waves_table

            Console(soft_wrap=True).print(waves_table(summary.standing))
        if summary.is_halted:
            raise typer.Exit(6)


@app.command()
def sync(
    folder: Annotated[
        Path | None, typer.Option(help="An uplink's folder, a stick; without it, the fleet's own.")
    ] = None,
    fleet: FleetDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Take in what devices have sent, and keep their records as a new version of the field's data."""
    with errors_told(debug):
        summary = _run_flow(SYNC_FLOW, debug, folder=folder, fleet=fleet)
        if as_json:
            typer.echo(json.dumps(summary.as_dict(), indent=2))
        else:
            typer.echo("\n".join(f"{what:<16} {value}" for what, value in summary.in_words()))
        if summary.is_new:
            typer.echo(
                "next             git add data/field/records.dvc data/field/card.json, then headland retrain", err=True
            )


@app.command()
def worlds(
    to: Annotated[Path, typer.Option(help="A folder, made if need be.")],
    field_seasons: Annotated[int, typer.Option(min=1, help="How many; rounded up to whole parts.")] = 10_000,
    crop: Annotated[Literal["maize", "wheat"], typer.Option(help="What grows.")] = "maize",
    spliced: Annotated[bool, typer.Option(help="On years spliced from training years; else on these alone.")] = True,
    debug: Debug = False,
) -> None:
    """Farm as many field seasons as wanted, on training weather, into Parquet parts; goes on where it was stopped."""
    with errors_told(debug):
        from tasks.params import load
        from tasks.stages import find_root
        from tasks.worlds.stream import stream

        root = find_root(Path.cwd())
        weather = _existing_output("weather", "*.parquet").parent
        made = stream(load(root / "params.yaml"), weather, to, crop, field_seasons, spliced)
        typer.echo(f"{to / crop}: {made} parts made")


@app.command()
def report(
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False, debug: Debug = False
) -> None:
    """Print where the season's report is."""
    with errors_told(debug):
        path = _existing_output("report", "index.html")
        typer.echo(path)
        if open_it:
            typer.launch(path.as_uri())


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": ["--usage"]}
)
def advise(context: typer.Context) -> None:
    """Give advice as a device would: `--records FILE.csv [--bundle FILE.tar]`; without a bundle, this project's."""
    with errors_told(debug=False):
        from headland_edge.cli import main as edge_main

        arguments = list(context.args)
        if not any(argument in ("-h", "--help") or argument.startswith("--bundle") for argument in arguments):
            arguments += ["--bundle", str(_existing_output("bundle", "*.tar"))]
        raise typer.Exit(edge_main(["advise", *arguments]))


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False, debug: Debug = False) -> None:
    """Tell the season, which stages have changed, and what was registered last."""
    with errors_told(debug):
        from tasks.environment import prepare_environment
        from tasks.params import load
        from tasks.registry.register import last_registered
        from tasks.stages import Project

        project = Project.find(Path.cwd())
        prepare_environment(project.root, debug=debug)
        changed = project.changed()
        last = last_registered(project.root)
        content = {
            "as_of": load(project.root / "params.yaml").as_of,
            "changed": {name: list(why) for name, why in changed.items()},
            "unchanged": [stage.name for stage in project.stages if stage.name not in changed],
            "registered": None if last is None else {"version": last.version, "sha256": last.sha256},
        }
        typer.echo(json.dumps(content, indent=2) if as_json else _in_words(content))


def _in_words(content: dict[str, Any]) -> str:
    last = content["registered"]
    changed = [f"  {name}: {'; '.join(why)}" for name, why in content["changed"].items()]
    return "\n".join(
        [
            f"season      {content['as_of']}",
            f"registered  version {last['version']} ({last['sha256'][:12]})" if last else "registered  nothing yet",
            f"stages      {len(content['unchanged'])} up to date, {len(changed)} changed" + (":" if changed else ""),
            *changed,
            *(["next        headland retrain"] if changed else []),
        ]
    )


def _run_flow(name: str, debug: bool, **parameters: Any) -> Any:
    """Run a flow of this project in this process, until it ends or is stopped."""
    from tasks.child import signals_raise

    # Prefect passes SIGTERM on to the handler it found: ours lets Python end in order, and Prefect's server with it.
    with signals_raise():
        from tasks.environment import prepare_environment, start_prefect
        from tasks.stages import find_root

        prepare_environment(find_root(Path.cwd()), debug=debug)
        start_prefect()
        from prefect.flows import load_flow_from_entrypoint

        flow: Any = load_flow_from_entrypoint(name, use_placeholder_flow=False)
        return flow(**parameters)


def _refuse_early(root: Path, force: Iterable[str]) -> None:
    """Raise what the flow would raise, before Prefect takes its seconds to start."""
    from tasks.dvc_state import mend_after_crash
    from tasks.running import exclusive_run
    from tasks.stages import Project

    with exclusive_run(root):
        mend_after_crash(root)
        Project(root).select(force)


def _existing_output(stage: str, pattern: str) -> Path:
    from tasks.stages import Project, ProjectError

    found = Project.find(Path.cwd()).find_output(stage, pattern)
    if found is None:
        raise ProjectError(f"There is no {stage} yet. Make it with: headland retrain")
    return found


def _conclude(root: Path, summary: SeasonSummary) -> None:
    """Print what the run came to, and what to do next."""
    from rich.console import Console

    from tasks.summary import models_table, money_table

    console = Console(soft_wrap=True)
    for table in (models_table(root / "metrics"), money_table(root / "metrics")):
        if table is not None:
            console.print(table)
    ran = summary.named("ran")
    unchanged = len(summary.named("unchanged"))
    console.print(f"{len(ran)} stages ran, {unchanged} were unchanged." if ran else "Nothing had to run.", style="bold")
    registered = summary.registered
    places = {
        "report": summary.report,
        "bundle": summary.bundle,
        "registry": registered and f"version {registered.version}{'' if registered.is_new else ', as before'}",
        "browse": registered and f"mlflow ui --backend-store-uri {registered.tracking_uri}",
        "next": "headland report --open" if summary.report else "headland status",
    }
    for name, place in places.items():
        if place:
            console.print(f"{name:<9} {_short(place)}", markup=False, highlight=False)


def _short(place: Path | str) -> str:
    if isinstance(place, str):
        return place
    here = Path.cwd()
    return str(place.relative_to(here) if place.is_relative_to(here) else place)


if __name__ == "__main__":
    main()
