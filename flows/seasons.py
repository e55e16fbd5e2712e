"""Ten seasons in a row: retrain, judge, publish, roll out to real device processes, farm offline, sync, and again.

Started by ``make seasons`` (``python -m flows.seasons``) or from the Prefect UI. A season that is over is kept; stopped
anywhere, the next start goes on with the season that was under way.
"""

# No postponed annotations here: a scheduled run loads this file as a script and could not resolve them.
import argparse
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from tasks.environment import prepare_environment
from tasks.fleet.season_loop import Play, add_to_history, open_play, season
from tasks.report.seasons_page import write_page
from tasks.stages import find_root
from tasks.terminal import say


@flow(name="seasons", persist_result=False)
def seasons(
    first: Annotated[int, Field(description="first season")] = 2009,
    last: Annotated[int, Field(description="last season")] = 2018,
    devices: Annotated[int, Field(ge=2, description="device processes; every third stands in wheat")] = 12,
    fields_per_device: Annotated[int, Field(ge=1, description="fields that each device advises on")] = 4,
    changes: Annotated[dict[str, Any] | None, Field(description="params that differ, by dotted key")] = None,
    folder: Annotated[Path | None, Field(description="where to play; none: .headland/seasons")] = None,
) -> Path:
    """Play the seasons that are not over yet; returns the page that tells of all."""
    root = find_root(Path.cwd())
    play = Play((folder or root / ".headland" / "seasons").resolve(), devices, fields_per_device, _say)
    open_play(root, play, changes or {})
    over = {each["as_of"] for each in play.history}
    for as_of in range(first, last + 1):
        if as_of not in over:
            play_season = play_one.with_options(name=f"season {as_of}", task_run_name=f"season {as_of}")
            add_to_history(play, play_season(play, as_of))
    page = write_page(play.folder / "report", play.history)
    _say(f"page: {page}")
    return page


@task(cache_policy=NO_CACHE, persist_result=False)
def play_one(play: Play, as_of: int) -> dict[str, Any]:
    """One season, from its retrain to its sync."""
    return season(play, as_of)


def _say(line: str) -> None:
    say(line)
    get_run_logger().info("%s", line)


def _changes(words: list[str]) -> dict[str, Any]:
    import yaml

    return {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in words)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m flows.seasons", description=seasons.description)
    parser.add_argument("--first", type=int, default=2009)
    parser.add_argument("--last", type=int, default=2018)
    parser.add_argument("--devices", type=int, default=12)
    parser.add_argument("--fields-per-device", type=int, default=8)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a value of params to change")
    options = vars(parser.parse_args())
    prepare_environment(find_root(Path.cwd()))
    seasons(changes=_changes(options.pop("set")), **options)
