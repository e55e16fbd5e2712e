"""The ``headland-edge`` command.

Exit codes: 0 done, 1 failed (unusable records or settings, not now), 2 wrong usage, 3 advice refused, 7 bundle or
signature bad. Every command prints JSON; ``--json`` says so where somebody wants to be sure.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headland_edge import __version__

if TYPE_CHECKING:
    from headland_edge.advisor import Advice

Command = Callable[[argparse.Namespace], int]
HOME = Path("/var/lib/headland-edge")
DONE, FAILED, REFUSED, BAD_BUNDLE = 0, 1, 3, 7


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code. Wrong usage leaves through SystemExit with code 2."""
    # One thread is all a morning's advice needs; each further BLAS thread would only hold memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    parser = _parser()
    options = parser.parse_args(argv)
    if options.command == "advise" and (options.records is None) == (options.field is None):
        parser.error("advise: give --records FILE, or --field NAME for records in the device's inbox")
    command = {"advise": _advise, "verify": _verify}.get(options.command) or _of_device(options.command)
    return _reporting_errors(command, options)


def _of_device(name: str) -> Command:
    from headland_edge import commands

    command: Command = getattr(commands, {"import": "take"}.get(name, name))
    return command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headland-edge", description="Advice for a field, from a bundle, offline.")
    parser.add_argument("--version", action="version", version=f"headland-edge {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    advise = commands.add_parser("advise", help="advise for the last morning of a field's records")
    advise.add_argument("--bundle", type=Path, help="bundle file (.tar); by default the release that runs in --home")
    advise.add_argument("--records", type=Path, help="records of one field since sowing (CSV)")
    advise.add_argument("--home", type=Path, default=HOME, help=f"the device's folder ({HOME})")
    advise.add_argument("--field", metavar="NAME", help="the field's records in the inbox of --home")
    form = advise.add_mutually_exclusive_group()
    form.add_argument("--json", dest="text", action="store_false", help="print JSON (the default)")
    form.add_argument("--text", dest="text", action="store_true", help="print lines for people")
    advise.set_defaults(text=False)
    verify = commands.add_parser("verify", help="check a bundle and reproduce its golden outputs on this machine")
    verify.add_argument("--bundle", type=Path, help="bundle file (.tar); by default the release that runs in --home")
    verify.add_argument("--home", type=Path, default=HOME, help=f"the device's folder ({HOME})")
    verify.add_argument("--json", action="store_true", help="print JSON (the default)")
    _add_init(commands)
    _add(commands, "run", "the service: advice whenever records arrive, until SIGTERM")
    update = _add(commands, "update", "look once for an update")
    update.add_argument("--stick", type=Path, metavar="FOLDER", help="take it from a stick instead of the network")
    update.add_argument("--forgive", action="store_true", help="first forget which releases failed here")
    status = _add(commands, "status", "what runs, what failed, what waits")
    status.add_argument("--latest", type=int, default=5, metavar="N", help="so many advices given last (5)")
    trace = _add(commands, "trace", "all an advice rests on, offline")
    trace.add_argument("id", metavar="ID", help="of the advice, or its first digits")
    trace.add_argument("--records", type=Path, metavar="FILE", help="write the records it saw as CSV")
    export = _add(commands, "export", "what waits to be sent, to a stick")
    export.add_argument("folder", type=Path, metavar="FOLDER", help="on the stick")
    export.add_argument("--raw", action="store_true", help="raw records as well, if policy allows")
    take = _add(commands, "import", "receipts and updates from a stick")
    take.add_argument("folder", type=Path, metavar="FOLDER", help="on the stick")
    return parser


def _add(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=what)
    parser.add_argument("--home", type=Path, default=HOME, help=f"the device's folder ({HOME})")
    parser.add_argument("--json", action="store_true", help="print JSON (the default)")
    return parser


def _add_init(commands: Any) -> None:
    init = _add(commands, "init", "make a device's folder, or change its settings")
    init.add_argument("--device-id", metavar="NAME", help="lower-case letters, digits and hyphens")
    init.add_argument("--crop", metavar="CROP", help="maize or wheat")
    init.add_argument("--url", help="where releases come from, https://…")
    init.add_argument("--folder", help="where releases come from instead: a shared drive")
    init.add_argument("--root-releases", type=Path, metavar="FILE", help="root of the releases to trust")
    init.add_argument("--root-assignments", type=Path, metavar="FILE", help="root of the assignments to trust")
    init.add_argument("--bundle", type=Path, metavar="FILE", help="a first release, put in by hand")
    init.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any key of device.toml; may be repeated"
    )


def _reporting_errors(command: Command, options: argparse.Namespace) -> int:
    from headland_edge.accept import NotAccepted
    from headland_edge.advisor import AdviceRefused
    from headland_edge.bundle import BundleError
    from headland_edge.home import SettingsError
    from headland_edge.records import RecordError
    from headland_edge.slots import SlotError

    try:
        return command(options)
    except AdviceRefused as refused:
        if not getattr(options, "text", False):
            print(json.dumps({"refused": refused.reason}, indent=2))
        print(f"refused: {refused.reason}", file=sys.stderr)
        return REFUSED
    except (BundleError, NotAccepted) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_BUNDLE
    except (RecordError, SettingsError, SlotError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED


def _advise(options: argparse.Namespace) -> int:
    from headland_edge.advisor import Advisor
    from headland_edge.bundle import open_bundle
    from headland_edge.records import read_csv

    records = read_csv(options.records or options.home / "inbox" / f"{options.field}.csv")
    advice = Advisor(open_bundle(_bundle_of(options))).advise(records)
    print(_lines(advice) if options.text else json.dumps(advice.to_dict(), indent=2, allow_nan=False))
    return DONE


def _verify(options: argparse.Namespace) -> int:
    from headland_edge.bundle import open_bundle

    bundle = open_bundle(_bundle_of(options))
    golden, models = bundle.verify_golden(), bundle.manifest.models
    release = bundle.manifest.release
    found = {
        "bundle_sha256": bundle.sha256,
        "release": {"counter": release.counter, "as_of": release.as_of},
        "models": {
            name: {
                "kind": models[name].kind if name in models else "int8",
                "golden_difference": difference,
                "tolerance": tolerance,
            }
            for name, (difference, tolerance) in golden.items()
        },
    }
    print(json.dumps(found, indent=2, allow_nan=False))
    return DONE


def _bundle_of(options: argparse.Namespace) -> Path:
    """The bundle named, or the one that runs on the device. Raises BundleError if it has none."""
    from headland_edge.bundle import BundleError
    from headland_edge.home import Home
    from headland_edge.slots import Slots

    if options.bundle is not None:
        return Path(options.bundle)
    running = Slots(Home(options.home).slots).running()
    if running is None:
        raise BundleError(f"{options.home}: no release runs there; name one with --bundle, or --home another folder")
    return running.path


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
