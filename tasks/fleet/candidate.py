"""Effect: what the registry holds as candidate, judged against what the fleet runs, and published if it is fit.

A candidate that is published already is not judged again; what a killed publisher left half done is completed.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from headland_edge.bundle import Bundle, open_bundle
from headland_edge.trust import bundle_name

from tasks.fleet.assign import assigned
from tasks.fleet.folder import FleetFolder
from tasks.fleet.publish import released
from tasks.fleet.repository import Repository
from tasks.params import Params
from tasks.registry.fetch import fetch
from tasks.registry.gate import Verdict, judge
from tasks.registry.register import last_registered
from tasks.running import STATE_DIR
from tasks.sources.daily import read_sites

WINDOWS, WEATHER = Path("data/windows"), Path("data/weather")


class GateRefusedError(Exception):
    """The candidate is not fit for the fleet; the message gives every reason."""

    cli_exit_code = 4


def find_candidate(root: Path) -> Path | None:
    """The bundle that the registry holds as candidate, fetched; None if nothing is registered."""
    registered = last_registered(root)
    return None if registered is None else fetch(root, registered, root / STATE_DIR / "candidates")


def judge_candidate(root: Path, fleet: FleetFolder, bundle: Path, params: Params) -> Verdict:
    """Judge a candidate against the release the fleet runs, unless it is published already.

    Its models are compared by their error, and what its advice earns in closed loop with the champion's and a rule's.

    Args:
        root: the project; its windows and weather are what is judged on.
        fleet: whose release is the champion.
        bundle: the candidate.
        params: of the project; ``gate`` says what a candidate must fulfil.

    Raises:
        GateRefusedError: it is not fit.
        GateError: there are no windows to judge on.
        MoneyError, WeatherError: there is no season to farm.
    """
    candidate, known = open_bundle(bundle), released(fleet.root)
    if candidate.sha256 in known:
        return Verdict(True, (), {})
    highest = max((each["counter"] for each in known.values()), default=-1)
    with tempfile.TemporaryDirectory() as aside:
        before = champion(fleet, Path(aside))
        verdict = judge(candidate, before, root / WINDOWS, params.gate.max_worse_frac)
        reasons = list(verdict.reasons)
        if not reasons and candidate.manifest.release.counter <= highest:
            reasons.append(f"release {highest} is published already: raise release.minor in params.yaml")
        if not reasons:
            earned, reasons = _farmed(root, bundle, before.path if before else None, params)
    if reasons:
        raise GateRefusedError("The gate refuses the candidate:\n" + "\n".join(f"  {each}" for each in reasons))
    return replace(verdict, earned_usd_ha=earned)


def _farmed(
    root: Path, bundle: Path, before: Path | None, params: Params
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """What the candidate earns on validation seasons, and why that is not enough."""
    if not params.gate.fields_per_season:
        return {}, []
    from tasks.registry.money import earned_usd_ha, reasons  # crops and runtimes, needed by who judges only

    earned = earned_usd_ha(bundle, before, params, read_sites(params, root / WEATHER))
    return earned, reasons(earned, params.gate.max_worse_usd_ha)


def champion(fleet: FleetFolder, folder: Path) -> Bundle | None:
    """The release that every device is assigned, fetched into ``folder``; None before the first."""
    base = assigned(fleet.root).base
    if base is None:
        return None
    path = folder / "champion.tar"
    path.write_bytes(Repository(fleet.root, "releases").content(bundle_name(base)))
    return open_bundle(path)
