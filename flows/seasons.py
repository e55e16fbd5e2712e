"""Ten seasons in a row: retrain, judge, publish, roll out to real device processes, farm offline, sync, and again.

Started by ``make seasons`` (``flows/play.py``) or from the Prefect UI. A season that is over is kept; stopped
anywhere, the next start goes on with the season that was under way.
"""

# No postponed annotations here: a scheduled run loads this file as a script and could not resolve them.
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from tasks.fleet.season_loop import (
    Play,
    add_to_history,
    bring_home,
    bring_to_devices,
    farm_offline,
    open_play,
    retrain,
)
from tasks.fleet.season_play import Played
from tasks.report.seasons_page import write_page
from tasks.running import exclusive_run
from tasks.stages import find_root
from tasks.terminal import say


@flow(name="seasons", persist_result=False)
def seasons(
    first: Annotated[int, Field(description="first season")] = 2009,
    last: Annotated[int, Field(description="last season")] = 2018,
    devices: Annotated[int, Field(ge=3, description="device processes; every third stands in wheat")] = 12,
    fields_per_device: Annotated[int, Field(ge=1, description="fields that each device advises on")] = 8,
    changes: Annotated[dict[str, Any] | None, Field(description="params that differ, by dotted key")] = None,
    folder: Annotated[Path | None, Field(description="where to play; none: .headland/seasons")] = None,
) -> Path:
    """Play the seasons that are not over yet; returns the page that tells of all."""
    root = find_root(Path.cwd())
    place = folder.resolve() if folder else root / ".headland" / "seasons"
    play = Play(place, devices, fields_per_device, _say)
    with exclusive_run(place):
        open_play(root, play, changes or {})
        over = {each["as_of"] for each in play.history}
        for as_of in (each for each in range(first, last + 1) if each not in over):
            made_from = retrained(play, as_of)
            rollout = rolled_out(play, as_of)
            played = farmed(play, as_of)
            sync = synced(play, as_of)
            add_to_history(play, as_of, made_from, rollout, played, sync)
        page = write_page(place / "report" if folder else root / "reports" / "seasons", play.history)
    _say(f"page: {page}")
    return page


@task(task_run_name="retrain {as_of}", cache_policy=NO_CACHE, persist_result=False)
def retrained(play: Play, as_of: int) -> str:
    """The season's models, learning on from the last one's; the commit they are made from."""
    return retrain(play, as_of)


@task(task_run_name="roll out {as_of}", cache_policy=NO_CACHE, persist_result=False)
def rolled_out(play: Play, as_of: int) -> dict[str, Any]:
    """The release judged, published and on the devices, or not."""
    return bring_to_devices(play, as_of)


@task(task_run_name="farm {as_of}", cache_policy=NO_CACHE, persist_result=False)
def farmed(play: Play, as_of: int) -> list[Played]:
    """The season on the devices' fields, without a network."""
    return farm_offline(play, as_of)


@task(task_run_name="sync {as_of}", cache_policy=NO_CACHE, persist_result=False)
def synced(play: Play, as_of: int) -> dict[str, Any]:
    """What the devices sent, as a version of the field's data."""
    return bring_home(play, as_of)


def _say(line: str) -> None:
    say(line)
    get_run_logger().info("%s", line)
