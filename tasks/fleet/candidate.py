"""Effect: what the registry holds as candidate, judged against what the fleet runs, and published if it is fit.

A candidate that is published already is not judged again; what a killed publisher left half done is completed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from headland_edge.bundle import Bundle, open_bundle
from headland_edge.trust import bundle_name

from tasks.fleet.assign import assigned
from tasks.fleet.folder import FleetFolder
from tasks.fleet.publish import released
from tasks.fleet.repository import Repository
from tasks.registry.fetch import fetch
from tasks.registry.gate import Verdict, judge
from tasks.registry.register import last_registered
from tasks.running import STATE_DIR

WINDOWS = Path("data/windows")


class GateRefusedError(Exception):
    """The candidate is not fit for the fleet; the message gives every reason."""

    cli_exit_code = 4


def find_candidate(root: Path) -> Path | None:
    """The bundle that the registry holds as candidate, fetched; None if nothing is registered."""
    registered = last_registered(root)
    return None if registered is None else fetch(root, registered, root / STATE_DIR / "candidates")


def judge_candidate(root: Path, fleet: FleetFolder, bundle: Path, max_worse_frac: float) -> Verdict:
    """Judge a candidate against the release the fleet runs, unless it is published already.

    Args:
        root: the project; its windows are what is judged on.
        fleet: whose release is the champion.
        bundle: the candidate.
        max_worse_frac: greatest share by which a model's error may exceed the champion's.

    Raises:
        GateRefusedError: it is not fit.
        GateError: there are no windows to judge on.
    """
    candidate, known = open_bundle(bundle), released(fleet.root)
    if candidate.sha256 in known:
        return Verdict(True, (), {})
    verdict = judge(candidate, champion(fleet), root / WINDOWS, max_worse_frac)
    highest = max((each["counter"] for each in known.values()), default=-1)
    reasons = list(verdict.reasons)
    if not reasons and candidate.manifest.release.counter <= highest:
        reasons.append(f"release {highest} is published already: raise release.minor in params.yaml")
    if reasons:
        raise GateRefusedError("The gate refuses the candidate:\n" + "\n".join(f"  {each}" for each in reasons))
    return verdict


def champion(fleet: FleetFolder) -> Bundle | None:
    """The release that every device is assigned; None before the first."""
    base = assigned(fleet.root).base
    if base is None:
        return None
    with tempfile.TemporaryDirectory() as aside:
        path = Path(aside) / "champion.tar"
        path.write_bytes(Repository(fleet.root, "releases").content(bundle_name(base)))
        return open_bundle(path)
