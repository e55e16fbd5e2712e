"""The ``headland-edge`` command.

Exit codes: 0 done, 1 failed (unusable records), 2 wrong usage, 3 advice refused, 7 bundle bad.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headland_edge import __version__

if TYPE_CHECKING:
    from headland_edge.advisor import Advice

DONE, FAILED, REFUSED, BAD_BUNDLE = 0, 1, 3, 7


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code. Wrong usage leaves through SystemExit with code 2."""
    # One thread is all a morning's advice needs; each further BLAS thread would only hold memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    options = _parser().parse_args(argv)
    command = {"advise": _advise, "verify": _verify}[options.command]
    return _reporting_errors(command, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headland-edge", description="Advice for a field, from a bundle, offline.")
    parser.add_argument("--version", action="version", version=f"headland-edge {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    advise = commands.add_parser("advise", help="advise for the last morning of a field's records")
    advise.add_argument("--bundle", type=Path, required=True, help="bundle file (.tar)")
    advise.add_argument("--records", type=Path, required=True, help="records of one field since sowing (CSV)")
    form = advise.add_mutually_exclusive_group()
    form.add_argument("--json", dest="text", action="store_false", help="print JSON (the default)")
    form.add_argument("--text", dest="text", action="store_true", help="print lines for people")
    advise.set_defaults(text=False)
    verify = commands.add_parser("verify", help="check a bundle and reproduce its golden outputs on this machine")
    verify.add_argument("--bundle", type=Path, required=True, help="bundle file (.tar)")
    return parser


def _reporting_errors(command: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    from headland_edge.advisor import AdviceRefused
    from headland_edge.bundle import BundleError
    from headland_edge.records import RecordError

    try:
        return command(options)
    except AdviceRefused as refused:
        if not options.text:
            print(json.dumps({"refused": refused.reason}, indent=2))
        print(f"refused: {refused.reason}", file=sys.stderr)
        return REFUSED
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_BUNDLE
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED


def _advise(options: argparse.Namespace) -> int:
    from headland_edge.advisor import Advisor
    from headland_edge.bundle import open_bundle
    from headland_edge.records import read_csv

    records = read_csv(options.records)
    advice = Advisor(open_bundle(options.bundle)).advise(records)
    print(_lines(advice) if options.text else json.dumps(advice.to_dict(), indent=2, allow_nan=False))
    return DONE


def _verify(options: argparse.Namespace) -> int:
    from headland_edge.bundle import open_bundle

    bundle = open_bundle(options.bundle)
    differences = bundle.verify_golden()
    release = bundle.manifest.release
    found = {
        "bundle_sha256": bundle.sha256,
        "release": {"counter": release.counter, "as_of": release.as_of},
        "models": {
            name: {
                "kind": bundle.manifest.models[name].kind,
                "golden_difference": difference,
                "tolerance": bundle.manifest.models[name].golden.tolerance,
            }
            for name, difference in differences.items()
        },
    }
    print(json.dumps(found, indent=2, allow_nan=False))
    return DONE


def _lines(advice: Advice) -> str:
    dose = (
        f"irrigate {advice.irrigation_mm:.0f} mm" if advice.crop == "maize" else f"{advice.nitrogen_kg_ha:.0f} kg N/ha"
    )
    lines = [f"{advice.date} {advice.crop}, day {advice.days_after_sowing}: {dose}"]
    for estimate in (advice.estimate, advice.yield_t_ha):
        if estimate is not None:
            band = f" ({estimate.q10:.2f} to {estimate.q90:.2f})" if estimate.q10 is not None else ""
            lines.append(f"  {estimate.name} {estimate.q50:.2f}{band}, by {estimate.source}")
    lines += [f"  {kind}: {said}" for kind in ("fallbacks", "notes", "problems") for said in getattr(advice, kind)]
    lines.append(f"  release {advice.release_counter}, prepared for {advice.as_of}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
