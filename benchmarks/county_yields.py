"""The yield method on real harvests: maize of US counties, the quantile net beside simpler methods, year by year.

``python -m benchmarks.county_yields [--json] [--rehearse]`` reads the folder of external data
(``HEADLAND_EXTERNAL_DATA``, else ``../shared/data``), prints the figures and writes
``metrics/bench/county_yields.json``. It ends with 0 if both targets hold, 1 if one is missed or the data are absent.

Every method answers the same rows of the years from 2012 on, ``static`` (what it learned from the years before 2012)
and ``refitted`` (anew before each year). All it knows of a row, what is usual in the county, scales, the length of
training, the width of the band, comes from years before. Settings were chosen by ``--rehearse``, which asks the same
about 2008 to 2011 and does not look at a later row.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.county_methods import Effort
    from benchmarks.county_rows import Array, Counties, Flags

FIRST_TEST_YEAR = 2012
SPANS: tuple[tuple[int, int], ...] = ((2012, 2014), (2012, 2018))
DROUGHT = 2012
REHEARSED = (2008, 2011)
NET, PEER = "quantile_net", "gradient_boosting"
BAND = (0.70, 0.85)
"""Share of truths that the 80 % band shall hold outside the drought."""
_RESULT = Path("metrics/bench/county_yields.json")
Said = dict[str, dict[str, "Array"]]
"""By mode and name, answers to all tested rows; of ``net_raw`` and ``net_band``, quantiles."""


def answered(rows: Counties, first: int, effort: Effort) -> Said:
    """Every method's answers to the rows from ``first`` on, by mode.

    Args:
        rows: all there are.
        first: first year tested.
        effort: of the nets.
    """
    import numpy as np

    years = sorted(set(rows.year[rows.year >= first].tolist()))
    tested = np.flatnonzero(rows.year >= first)
    said: Said = {"static": _answers_after(rows, rows.year < first, tested, effort)}
    parts = [{name: values[rows.year[tested] == first] for name, values in said["static"].items()}]
    for year in years[1:]:
        parts.append(_answers_after(rows, rows.year < year, np.flatnonzero(rows.year == year), effort))
    said["refitted"] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return said


def _answers_after(rows: Counties, known: Flags, asked: Any, effort: Effort) -> dict[str, Array]:
    from benchmarks.county_methods import PEERS, Case, net_quantiles
    from benchmarks.county_rows import inputs

    began = time.perf_counter()
    case = Case(rows, inputs(rows, known), known, asked)
    said = {name: method(case) for name, method in PEERS.items()}
    raw, band = net_quantiles(case, effort)
    last = int(rows.year[known].max())
    print(f"learned to {last}: {known.sum()} rows, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return {**said, NET: band[:, 1], "net_raw": raw, "net_band": band}


def nrmse_percent(answers: Array, truths: Array) -> float:
    """Root mean square error over the mean truth, %."""
    square = float(((answers - truths) ** 2).mean())
    return round(100 * math.sqrt(square) / float(truths.mean()), 2)


def errors(answers: Array, truths: Array, year: Any, spans: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    """Error by year, and for each span of years pooled over rows and as the median of years."""
    import numpy as np

    by_year = {str(y): nrmse_percent(answers[year == y], truths[year == y]) for y in np.unique(year).tolist()}
    found: dict[str, Any] = {"nrmse_percent_by_year": by_year}
    for begin, end in spans:
        here = (year >= begin) & (year <= end)
        inside = [value for y, value in by_year.items() if begin <= int(y) <= end]
        found[f"{begin}-{end}"] = {
            "pooled_nrmse_percent": nrmse_percent(answers[here], truths[here]),
            "median_nrmse_percent": round(float(np.median(inside)), 2),
        }
    return found


def coverage(band: Array, truths: Array, year: Any) -> dict[str, Any]:
    """Share of truths in the band by year and outside the drought, and the band's mean width there."""
    import numpy as np

    inside, usual = (truths >= band[:, 0]) & (truths <= band[:, 2]), year != DROUGHT
    return {
        "by_year": {str(y): round(float(inside[year == y].mean()), 3) for y in np.unique(year).tolist()},
        f"outside_{DROUGHT}": round(float(inside[usual].mean()), 3) if usual.any() else None,
        f"width_outside_{DROUGHT}_t_ha": round(float((band[usual, 2] - band[usual, 0]).mean()), 2)
        if usual.any()
        else None,
    }


def figures(rows: Counties, said: Said, first: int, spans: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    """All figures of the answers."""
    tested = rows.year >= first
    year, truths = rows.year[tested], rows.yield_t_ha[tested]
    there = {y: int((year == y).sum()) for y in sorted(set(year.tolist()))}
    return {
        "rows_by_year": {str(y): count for y, count in there.items()},
        "years_without_rows": [y for y in range(first, spans[-1][1] + 1) if y not in there],
        "methods": {
            mode: {name: errors(a, truths, year, spans) for name, a in answers.items() if not name.startswith("net_")}
            for mode, answers in said.items()
        },
        "band": {
            mode: {
                "stretched": coverage(answers["net_band"], truths, year),
                "as_the_net_gives_it": coverage(answers["net_raw"], truths, year),
            }
            for mode, answers in said.items()
        },
    }


def judged(found: Mapping[str, Any], span: tuple[int, int]) -> dict[str, bool]:
    """Whether each target holds, in the refitted mode."""
    name = f"{span[0]}-{span[1]}"
    error = {method: all_of[name]["pooled_nrmse_percent"] for method, all_of in found["methods"]["refitted"].items()}
    share = found["band"]["refitted"]["stretched"][f"outside_{DROUGHT}"]
    return {
        f"net_below_{PEER}": error[NET] < error[PEER],
        "band_holds_its_share": share is not None and BAND[0] <= share <= BAND[1],
    }


def table(found: Mapping[str, Any], span: tuple[int, int]) -> str:
    """Figures of a span for a terminal."""
    name, years = f"{span[0]}-{span[1]}", list(found["rows_by_year"])
    lines = [f"NRMSE % {name:<20}" + "".join(f"{year:>7}" for year in years) + "   pooled  median"]
    for mode, methods in found["methods"].items():
        for method, all_of in methods.items():
            by_year = "".join(f"{all_of['nrmse_percent_by_year'][year]:>7.1f}" for year in years)
            pooled, median = all_of[name]["pooled_nrmse_percent"], all_of[name]["median_nrmse_percent"]
            lines.append(f"{mode:<9} {method:<18}{by_year}  {pooled:>7.2f} {median:>7.2f}")
    lines.append(f"{'share in the 80 % band':<28}" + "".join(f"{year:>7}" for year in years) + f"   outside {DROUGHT}")
    for mode, bands in found["band"].items():
        for kind, all_of in bands.items():
            by_year = "".join(f"{share:>7.2f}" for share in all_of["by_year"].values())
            lines.append(f"{mode:<8} {kind:<19}{by_year}  {all_of[f'outside_{DROUGHT}']}")
    if found["years_without_rows"]:
        lines.append(f"no rows of {', '.join(map(str, found['years_without_rows']))} in the data at hand")
    return "\n".join([*lines, *(f"{target}: {'yes' if held else 'NO'}" for target, held in found["targets"].items())])


def measure(data: Path, rehearse: bool, effort: Effort) -> dict[str, Any]:
    """All figures of a run.

    Args:
        data: folder of external data.
        rehearse: ask about the years before the tests, and leave later rows out.
        effort: of the nets.

    Raises:
        CountyDataError: there is nothing to read.
    """
    from dataclasses import asdict

    from benchmarks.county_rows import CountyDataError, read_counties, until

    began, cpu = time.perf_counter(), time.process_time()
    rows, first, spans = read_counties(data), FIRST_TEST_YEAR, SPANS
    if rehearse:
        rows, first, spans = until(rows, REHEARSED[1]), REHEARSED[0], (REHEARSED,)
    if not (rows.year >= first).any():
        raise CountyDataError(f"{data}: no row of {first} or later. Fetch the files of later years.")
    found = figures(rows, answered(rows, first, effort), first, spans)
    return {
        "effort": asdict(effort),
        **found,
        "targets": judged(found, spans[0]),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "seconds": round(time.perf_counter() - began, 1),
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write; 1 if a target is missed or the data are absent."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.county_yields", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--rehearse", action="store_true", help="on 2008-2011, without a look at later rows; no file")
    wanted = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from benchmarks.county_methods import Effort
    from benchmarks.county_rows import CountyDataError
    from benchmarks.machine import describe
    from tasks.durable import write_json

    torch.set_num_threads(1)
    data = Path(os.environ.get("HEADLAND_EXTERNAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    try:
        found = {"machine": describe(), **measure(data, wanted.rehearse, Effort())}
    except CountyDataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not wanted.rehearse:
        write_json(_RESULT, found)
    print(json.dumps(found, indent=2) if wanted.json else table(found, REHEARSED if wanted.rehearse else SPANS[0]))
    return 0 if all(found["targets"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
