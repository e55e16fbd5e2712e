"""Field seasons by the million: all kinds of fields on training weather and years spliced from it, in parts on disk.

    <folder>/<crop>/part-00000.parquet     ``PART`` field seasons, daily records and truth as in ``data/seasons``

A part is drawn and farmed by its number alone, on any core, written aside and renamed. So memory is that of one part
for each process, and a run that was stopped goes on with the parts that are missing. Weather is of training seasons
only: what a test season holds is in no part. Fields and sensors are those of params; years change with every part.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from joblib import Parallel, delayed

from tasks.advantage.worlds import World, seasons_of, synthetic_years, world_of, years_of
from tasks.crops.interface import Crop, DailyWeather
from tasks.durable import replacing
from tasks.params import Params
from tasks.progress import track
from tasks.seasons.generate import code_hash, simulate
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
        folder: made if need be; parts there that are of other params or other code are made anew.
        crop: of all fields.
        field_seasons: rounded up to whole parts.
        spliced: years spliced from blocks of training years, others in each part; False: the training years.

    Raises:
        StreamError: no site has a training season of ``crop``.
    """
    sites = read_sites(params, weather)
    seasons = {name: split[0] for name, split in seasons_of(crop, params, sites).items()}
    years = years_of(sites, seasons)
    if not years:
        raise StreamError(f"no site of params.yaml grows {crop} in a season before as_of {params.as_of}")
    code = hashlib.sha256(f"{code_hash()}{spliced}{params.model_dump_json()}".encode()).hexdigest()[:16]
    missing = [
        (number, file)
        for number in range(-(-field_seasons // PART))
        if _key_of(file := folder / crop / f"part-{number:05d}.parquet") != _key(code, number)
    ]
    jobs = (delayed(_part)(params, crop, years, number, file, spliced, code) for number, file in missing)
    done: Iterator[int] = Parallel(n_jobs=os.cpu_count(), return_as="generator_unordered")(jobs)
    return sum(track(done, total=len(missing), label=f"parts of {PART} seasons of {crop}"))


def part_world(params: Params, crop: Crop, years: dict[str, DailyWeather], number: int, spliced: bool) -> World:
    """The fields of part ``number``."""
    count = PART // PER_YEAR
    if spliced:
        sites = len({key.partition("/")[0] for key in years})
        seed = int.from_bytes(hashlib.sha256(f"{params.seed}/part/{number}".encode()).digest()[:4])
        years = synthetic_years(years, -(-count // sites), params.advantage[crop].block_days, seed)
    return world_of(crop, years, PER_YEAR, params, f"part-{number}", count)


def _part(
    params: Params, crop: Crop, years: dict[str, DailyWeather], number: int, file: Path, spliced: bool, code: str
) -> int:
    world = part_world(params, crop, years, number, spliced)
    table = simulate(world.fields, dict(world.weather), params).to_arrow()
    with replacing(file) as aside:
        pq.write_table(table.replace_schema_metadata({_KEY: _key(code, number)}), aside, compression="zstd")
    return 1


def _key(code: str, number: int) -> bytes:
    return f"{code}/{number}".encode()


def _key_of(file: Path) -> bytes | None:
    try:
        return (pq.read_schema(file).metadata or {}).get(_KEY)
    except (OSError, ValueError):
        return None
