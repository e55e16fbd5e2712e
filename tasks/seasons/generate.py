"""Stage: past field seasons as a company would have them, one Parquet file for each crop, site and season.

Weather is observed; crops, practices and sensors are simulated. A field whose own inputs did not change keeps
the rows it has: each file carries a key for every field in it, so that adding a season or a field simulates
only what is new.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from headland_edge import records
from headland_edge.records import COLUMNS
from joblib import Parallel, delayed

from tasks import params as params_module
from tasks.crops.farm import TRUTHS, SeasonLog, farm
from tasks.crops.fields import draw_fields
from tasks.crops.interface import Crop, DailyWeather, Field
from tasks.crops.reference import plain_numpy
from tasks.durable import replacing
from tasks.params import Params
from tasks.progress import track
from tasks.seasons.check import jobs_of
from tasks.seasons.practices import Practices, draw_practice
from tasks.seasons.schema import DAILY, SCHEMA
from tasks.sources.daily import read_sites
from tasks.stage_main import end_of_stage

PARAMS = ("seed", "sites", "fields", "sensors")
SEASONS = Path("data/seasons")
_KEYS_METADATA = b"headland.field_keys"


def season_file(root: Path, crop: str, site: str, season: int) -> Path:
    """Where the rows of one crop, site and season lie."""
    return root / crop / site / f"{season}.parquet"


def field_key(field: Field, weather: DailyWeather, params: Params, code: str) -> str:
    """What a field's rows depend on, as a short hash: field, weather, sensors, seed and simulator code."""
    start = (field.sowing_date - timedelta(days=1) - weather.first_day).days
    window = slice(start, start + field.season_days + 1)
    place = (weather.latitude_deg, weather.longitude_deg, weather.elevation_m)
    digest = hashlib.sha256(f"{field}{place}{params.sensors}{params.seed}{code}".encode())
    for name in ("tmin_c", "tmax_c", "rain_mm", "et0_mm", "radiation_mj_m2", "vapour_pressure_kpa", "wind_m_s"):
        digest.update(np.ascontiguousarray(getattr(weather, name)[window]).tobytes())
    return digest.hexdigest()[:24]


def code_hash() -> str:
    """Hash of the code that makes rows, simulators included, so that stale rows are never kept after it changes."""
    here = Path(__file__).parent
    files = sorted([*here.glob("*.py"), *(here.parent / "crops").glob("*.py"), Path(records.__file__)])
    packages = f"aquacrop {version('aquacrop')} pcse {version('pcse')}"
    return hashlib.sha256(b"".join(file.read_bytes() for file in files) + packages.encode()).hexdigest()


def daily_rows(log: SeasonLog, practices: list[str]) -> pl.DataFrame:
    """Turn a season's log into daily rows, mornings on which the crop stood."""
    frames = []
    for i, field in enumerate(log.fields):
        mornings = np.flatnonzero(log.active[i])
        columns: dict[str, object] = {
            "days_after_sowing": mornings.astype(np.int32),
            "date": [field.sowing_date + timedelta(days=int(day)) for day in mornings],
            **{name: log.records[i, mornings, j] for j, name in enumerate(COLUMNS)},
            **{f"truth_{name}": log.truth[name][i, mornings] for name in TRUTHS},
        }
        same = {
            "crop": field.crop,
            "site": field.site,
            "season": field.season,
            "field_id": field.field_id,
            "soil": field.soil,
            "practice": practices[i],
            "sowing_date": field.sowing_date,
            "truth_yield_t_ha": float(log.harvest.yield_t_ha[i]),
        }
        frame = pl.DataFrame(columns).with_columns(**{name: pl.lit(value) for name, value in same.items()})
        frames.append(frame.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items()))
    return pl.concat(frames).fill_nan(None)


def simulate(fields: tuple[Field, ...], weather: dict[str, DailyWeather], params: Params) -> pl.DataFrame:
    """Farm ``fields`` the way their growers did and return their daily rows."""
    practices = tuple(draw_practice(field, params.seed) for field in fields)
    log = farm(fields, weather, params.sensors, params.seed, Practices(practices))
    return daily_rows(log, [practice.name for practice in practices])


def update_season(file: Path, fields: tuple[Field, ...], weather: DailyWeather, params: Params, code: str) -> int:
    """Bring one season's file up to date; returns how many fields had to be simulated.

    A damaged file counts as absent: it is a cache of a deterministic result.
    """
    keys = {field.field_id: field_key(field, weather, params, code) for field in fields}
    kept, kept_keys = _kept(file, keys)
    missing = tuple(field for field in fields if field.field_id not in kept_keys)
    if not missing and kept is not None and set(_stored_keys(file)) == set(keys):
        return 0
    parts = [
        part
        for part in (kept, simulate(missing, {weather.site: weather}, params) if missing else None)
        if part is not None
    ]
    rows = DAILY.validate(pl.concat(parts).sort("field_id", "days_after_sowing"))
    _write(file, rows, keys)
    return len(missing)


def _write(file: Path, rows: pl.DataFrame, keys: dict[str, str]) -> None:
    table = rows.to_arrow()
    text = json.dumps(keys, sort_keys=True).encode()
    with replacing(file) as aside:
        pq.write_table(table.replace_schema_metadata({_KEYS_METADATA: text}), aside, compression="zstd")


def _stored_keys(file: Path) -> dict[str, str]:
    try:
        metadata = pq.read_schema(file).metadata or {}
        stored: dict[str, str] = json.loads(metadata.get(_KEYS_METADATA, b"{}"))
    except (OSError, ValueError):
        return {}
    return stored


def _kept(file: Path, keys: dict[str, str]) -> tuple[pl.DataFrame | None, set[str]]:
    stored = _stored_keys(file)
    same = {name for name, key in keys.items() if stored.get(name) == key}
    if not same:
        return None, set()
    try:
        rows = pl.read_parquet(file)
    except (OSError, pl.exceptions.PolarsError):
        return None, set()
    return rows.filter(pl.col("field_id").is_in(sorted(same))), same


def generate(params: Params, root: Path = SEASONS, weather_root: Path = Path("data/weather")) -> dict[str, int]:
    """Bring every season's file up to date on all cores and remove files of seasons no longer asked for.

    Returns:
        How many fields were simulated and how many kept.
    """
    sites = read_sites(params, weather_root)
    code = code_hash()
    jobs = list(jobs_of(params, sites))

    def one(crop: Crop, site: str, season: int) -> tuple[int, int]:
        ranges = params.fields.of(crop)
        fields = draw_fields(crop, site, [season], ranges.per_season, ranges, params.seed)
        made = update_season(
            season_file(root, crop, site, season), fields, sites[site].season_weather(season), params, code
        )
        return made, len(fields) - made

    runs = Parallel(n_jobs=-1, return_as="generator")(delayed(one)(*job) for job in jobs)
    made = kept = 0
    for new, old in track(runs, total=len(jobs), label="seasons"):
        made, kept = made + new, kept + old
    wanted = {season_file(root, *job) for job in jobs}
    for file in root.rglob("*.parquet"):
        if file not in wanted:
            file.unlink()
    return {"simulated": made, "kept": kept}


def main() -> None:
    """Run the stage in the current folder."""
    params = params_module.load()
    counts = generate(params)
    print(f"seasons: {counts['simulated']} field seasons simulated, {counts['kept']} kept")
    compared = subprocess.run([sys.executable, "-m", "tasks.seasons.check"], env=plain_numpy(), check=False)
    sys.exit(compared.returncode)


if __name__ == "__main__":
    end_of_stage(main)
