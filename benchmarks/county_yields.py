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
    from benchmarks.county_rows import Array, Counties, Flags, Index

Spans = tuple[tuple[int, int], ...]
FIRST_TEST_YEAR = 2012
SPANS: Spans = ((2012, 2014), (2012, 2018))
DROUGHT = 2012
REHEARSED = (2008, 2011)
NET, PEER = "quantile_net", "gradient_boosting"
BAND = (0.70, 0.85)
"""Share of truths that the 80 % band shall hold outside the drought."""
OUTSIDE, WIDTH = f"outside_{DROUGHT}", f"width_outside_{DROUGHT}_t_ha"
_BANDS = "_quantiles"
_RESULT = Path("metrics/bench/county_yields.json")
Said = dict[str, dict[str, "Array"]]
"""By mode and name, answers to all tested rows; of names that end with ``_quantiles``, the net's."""


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


def _answers_after(rows: Counties, known: Flags, asked: Index, effort: Effort) -> dict[str, Array]:
    from benchmarks.county_methods import PEERS, Case, mean_of, net_quantiles
    from benchmarks.county_rows import inputs

    began = time.perf_counter()
    case = Case(rows, inputs(rows, known), known, asked)
    said = {name: method(case) for name, method in PEERS.items()}
    raw, band = net_quantiles(case, effort)
    last = int(rows.year[known].max())
    print(f"learned to {last}: {known.sum()} rows, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    mean = mean_of(raw)
    said |= {f"{NET}_median": raw[:, 1], NET: mean, "net_and_boosting": (mean + said[PEER]) / 2}
    return {**said, "raw_quantiles": raw, "band_quantiles": band}


def nrmse_percent(answers: Array, truths: Array) -> float:
    """Root mean square error over the mean truth, %."""
    square = float(((answers - truths) ** 2).mean())
    return round(100 * math.sqrt(square) / float(truths.mean()), 2)


def errors(answers: Array, truths: Array, year: Index, spans: Spans) -> dict[str, Any]:
    """Error by year, and for each span of years pooled over rows and as the median of years."""
    import numpy as np

    by_year = {y: nrmse_percent(answers[year == y], truths[year == y]) for y in np.unique(year).tolist()}
    found = []
    for first, last in spans:
        here = (year >= first) & (year <= last)
        pooled = nrmse_percent(answers[here], truths[here])
        median = float(np.median([value for y, value in by_year.items() if first <= y <= last]))
        both = {"pooled_nrmse_percent": pooled, "median_nrmse_percent": round(median, 2)}
        found.append({"first_year": first, "last_year": last, **both})
    return {"by_year": [{"year": y, "nrmse_percent": value} for y, value in by_year.items()], "spans": found}


def coverage(band: Array, truths: Array, year: Index) -> dict[str, Any]:
    """Share of truths in the band by year and outside the drought, and the band's mean width there."""
    import numpy as np

    inside, usual = (truths >= band[:, 0]) & (truths <= band[:, 2]), year != DROUGHT
    shares = [{"year": y, "share": round(float(inside[year == y].mean()), 3)} for y in np.unique(year).tolist()]
    if not usual.any():
        return {"by_year": shares, OUTSIDE: None, WIDTH: None}
    width = float((band[usual, 2] - band[usual, 0]).mean())
    return {"by_year": shares, OUTSIDE: round(float(inside[usual].mean()), 3), WIDTH: round(width, 2)}


def figures(rows: Counties, said: Said, first: int, spans: Spans) -> dict[str, Any]:
    """All figures of the answers."""
    tested = rows.year >= first
    year, truths = rows.year[tested], rows.yield_t_ha[tested]
    there = sorted(set(year.tolist()))
    return {
        "tested": [{"year": y, "rows": int((year == y).sum())} for y in there],
        "years_without_rows": [y for y in range(first, spans[-1][1] + 1) if y not in there],
        "methods": {
            mode: {name: errors(a, truths, year, spans) for name, a in answers.items() if not name.endswith(_BANDS)}
            for mode, answers in said.items()
        },
        "band": {
            mode: {
                "stretched": coverage(answers["band_quantiles"], truths, year),
                "as_the_net_gives_it": coverage(answers["raw_quantiles"], truths, year),
            }
            for mode, answers in said.items()
        },
    }


def judged(found: Mapping[str, Any]) -> dict[str, bool]:
    """Whether each target holds, in the refitted mode and the first span."""
    refitted = found["methods"]["refitted"]
    error = {method: all_of["spans"][0]["pooled_nrmse_percent"] for method, all_of in refitted.items()}
    share = found["band"]["refitted"]["stretched"][OUTSIDE]
    return {
        f"net_below_{PEER}": error[NET] < error[PEER],
        "band_holds_its_share": share is not None and BAND[0] <= share <= BAND[1],
    }


def table(found: Mapping[str, Any]) -> str:
    """Figures for a terminal, pooled over the first span of years."""
    lines = [f"{'NRMSE %':<29}" + "".join(f"{each['year']:>7}" for each in found["tested"]) + "   pooled  median"]
    for mode, methods in found["methods"].items():
        for method, all_of in methods.items():
            by_year = "".join(f"{each['nrmse_percent']:>7.1f}" for each in all_of["by_year"])
            pooled, median = (all_of["spans"][0][f"{kind}_nrmse_percent"] for kind in ("pooled", "median"))
            lines.append(f"{mode:<9} {method:<19}{by_year}  {pooled:>7.2f} {median:>7.2f}")
    lines.append(f"{'share in the 80 % band':<29}" + " " * 7 * len(found["tested"]) + f"   outside {DROUGHT}")
    for mode, bands in found["band"].items():
        for kind, all_of in bands.items():
            by_year = "".join(f"{each['share']:>7.2f}" for each in all_of["by_year"])
            lines.append(f"{mode:<9} {kind:<19}{by_year}  {all_of[OUTSIDE]:>7}")
    spans = next(iter(found["methods"]["static"].values()))["spans"]
    lines.append(f"pooled over {spans[0]['first_year']} to {spans[0]['last_year']}")
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
        "targets": judged(found),
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
    print(json.dumps(found, indent=2) if wanted.json else table(found))
    return 0 if all(found["targets"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
