"""Field seasons by the million: all kinds of fields on training weather and years spliced from it, in parts on disk.

    <folder>/<crop>/part-00000.parquet     ``PART`` field seasons, daily records and truth as in ``data/seasons``

A part is drawn and farmed by its number alone, on any core, written aside and renamed. So memory is that of one part
for each process, and a run that was stopped goes on with the parts that are missing. Weather is of training seasons
only: what a test season holds is in no part. Fields and sensors are those of params; years change with every part.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
from joblib import Parallel, delayed

from tasks.advantage import worlds
from tasks.advantage.worlds import World, seasons_of, synthetic_years, world_of, years_of
from tasks.crops.interface import Crop, DailyWeather
from tasks.durable import replacing
from tasks.params import Params
from tasks.progress import track
from tasks.seasons.generate import code_hash, simulate
from tasks.seasons.schema import DAILY
from tasks.sources.daily import read_sites

PART = 1000
"""Field seasons in a part."""
PER_YEAR = 20
"""Of them in one year's weather."""
_KEY = b"headland.part_key"


class StreamError(Exception):
    """Parts cannot be made; the message says why and what to do."""


def stream(params: Params, weather: Path, folder: Path, crop: Crop, field_seasons: int, spliced: bool) -> int:
    """Bring parts of at least ``field_seasons`` into ``folder`` on all cores; returns how many were missing.

    Args:
        params: what fields, sensors and seasons are.
        weather: folder of the weather stage.
        folder: made if need be; parts there that are of other params, weather or code are removed.
        crop: of all fields.
        field_seasons: rounded up to whole parts.
        spliced: years spliced from blocks of training years, others in each part; False: the training years.

    Raises:
        StreamError: no site has a training season of ``crop``, or a table of somebody else's lies in the folder.
    """
    sites = read_sites(params, weather)
    seasons = {name: split[0] for name, split in seasons_of(crop, params, sites).items()}
    years = years_of(sites, seasons)
    if not years:
        raise StreamError(f"no site of params.yaml grows {crop} in a season before as_of {params.as_of}")
    made = made_of(params, crop, years, spliced)
    files = [folder / crop / f"part-{number:05d}.parquet" for number in range(-(-field_seasons // PART))]
    for number, file in _parts_in(folder / crop):
        if _key_of(file) != _key(made, number):
            file.unlink()  # cut short, or of other params, weather or code: two populations are never mixed
    missing = [(number, file) for number, file in enumerate(files) if not file.exists()]
    jobs = (delayed(_part)(params, crop, years, number, file, spliced, made) for number, file in missing)
    done: Iterator[int] = Parallel(n_jobs=os.cpu_count(), return_as="generator_unordered")(jobs)
    return sum(track(done, total=len(missing), label=f"parts of {PART} seasons of {crop}"))


def part_world(params: Params, crop: Crop, years: dict[str, DailyWeather], number: int, spliced: bool) -> World:
    """The fields of part ``number``."""
    count = PART // PER_YEAR
    if not spliced:
        return world_of(crop, years, PER_YEAR, params, f"part-{number}", count)
    sites = len({key.partition("/")[0] for key in years})
    seed = int.from_bytes(hashlib.sha256(f"{params.seed}/part/{number}".encode()).digest()[:4])
    made = synthetic_years(years, -(-count // sites), params.advantage[crop].block_days, seed)
    named = {f"{key}-{number:05d}": replace(year, site=f"{key}-{number:05d}") for key, year in made.items()}
    return world_of(crop, dict(list(named.items())[:count]), PER_YEAR, params, f"part-{number}")


def _part(
    params: Params, crop: Crop, years: dict[str, DailyWeather], number: int, file: Path, spliced: bool, made: str
) -> int:
    world = part_world(params, crop, years, number, spliced)
    table = DAILY.validate(simulate(world.fields, dict(world.weather), params)).to_arrow()
    with replacing(file) as aside:
        pq.write_table(table.replace_schema_metadata({_KEY: _key(made, number)}), aside, compression="zstd")
    return 1


def made_of(params: Params, crop: Crop, years: dict[str, DailyWeather], spliced: bool) -> str:
    """Hash of all that rows depend on: weather, fields, sensors, seed, and the code that makes them."""
    settings = (params.seed, params.fields.of(crop), params.sensors, params.advantage[crop].block_days, spliced)
    digest = hashlib.sha256(f"{crop}{settings}{code_hash()}".encode())
    for code in (Path(worlds.__file__), Path(__file__)):
        digest.update(code.read_bytes())
    for key, year in sorted(years.items()):
        digest.update(f"{key}{year.latitude_deg}{year.longitude_deg}{year.elevation_m}".encode())
        for name in worlds.DAILY:
            digest.update(getattr(year, name).tobytes())
    return digest.hexdigest()[:16]


def _parts_in(folder: Path) -> list[tuple[int, Path]]:
    named = [(re.fullmatch(r"part-(\d+)\.parquet", file.name), file) for file in sorted(folder.glob("part-*.parquet"))]
    return [(int(found[1]), file) for found, file in named if found]


def _key(made: str, number: int) -> bytes:
    return f"{made}/{number}".encode()


def _key_of(file: Path) -> bytes | None:
    """A part's key; None for a file that is cut short. Raises StreamError for a table of somebody else's."""
    try:
        key: bytes | None = (pq.read_schema(file).metadata or {}).get(_KEY)
    except (OSError, ValueError):
        return None
    if key is None:
        raise StreamError(f"{file}: was not made by headland worlds. Choose another folder, or move the file away")
    return key
