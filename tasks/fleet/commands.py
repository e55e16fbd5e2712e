"""``headland fleet``: keys, releases and assignments of the devices, by hand.

Exit codes: 0 done, 1 failed (a key is missing, a release is unknown or below the floor), 2 wrong usage, 7 bundle bad.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasks.errors import errors_told
from tasks.fleet import broker_commands

if TYPE_CHECKING:
    from tasks.fleet.keys import Keyring

app = typer.Typer(help="Keys, releases and assignments of the devices.", no_args_is_help=True)
keys_app = typer.Typer(help="The keys that sign: list, rotate, revoke.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(broker_commands.app, name="broker")
app.command()(broker_commands.listen)

FleetDir = Annotated[Path, typer.Option("--fleet", help="The fleet's folder.")]
KeysDir = Annotated[Path | None, typer.Option("--keys", help="Folder of the private keys; without it, keys below it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell what would change; needs no key.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="releases-1, releases-2, recovery or assignments.")]
FLEET = Path(".headland/fleet")
NOBODY = "none"


@app.command()
def init(fleet: FleetDir = FLEET, keys: KeysDir = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Make the keys and empty, signed repositories; what is there already stays."""
    with errors_told(debug):
        from tasks.fleet.keys import ROLE_KEYS, create
        from tasks.fleet.repository import Repository

        create(fleet, _keyring(fleet, keys))
        roots = {family: str(Repository(fleet, family).roots()[0]) for family in ROLE_KEYS}
        content = {"repository": str(fleet / "repository"), "keys": str(keys or fleet / "keys"), "roots": roots}
        lines = [f"repository  {content['repository']} (serve it as static files)", f"keys        {content['keys']}"]
        options = " ".join(f"--root-{family} {path}" for family, path in roots.items())
        _tell(content, [*lines, f"a device    headland-edge init --device-id NAME --crop maize {options}"], as_json)


@keys_app.command("list")
def list_keys(fleet: FleetDir = FLEET, keys: KeysDir = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Tell which keys count, what each may sign, and whether its private half is at hand."""
    with errors_told(debug):
        known = _known_keys(fleet, _keyring(fleet, keys))
        where = {name: "" if each["at_hand"] else "; not at hand" for name, each in known.items()}
        lines = [
            f"{name:<12} {each['id'][:12]}  signs {', '.join(each['signs'])}{where[name]}"
            for name, each in known.items()
        ]
        _tell(known, lines, as_json)


@keys_app.command()
def rotate(
    name: KeyName, fleet: FleetDir = FLEET, keys: KeysDir = None, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Replace a key that is still good; the old one is kept beside it. Call again to complete what was cut off."""
    with errors_told(debug):
        from tasks.fleet import keys as work

        _tell_new_key(name, work.rotate(fleet, _keyring(fleet, keys), name), as_json)


@keys_app.command()
def revoke(
    name: KeyName, fleet: FleetDir = FLEET, keys: KeysDir = None, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Replace a key that was stolen or lost, and delete it. Call again to complete what was cut off."""
    with errors_told(debug):
        from tasks.fleet import keys as work

        _tell_new_key(name, work.revoke(fleet, _keyring(fleet, keys), name), as_json)


@app.command()
def publish(
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle; without it, the registry's candidate, else this project's.")
    ] = None,
    floor: Annotated[
        int | None, typer.Option(min=0, help="Release counters below may no longer be installed, ever.")
    ] = None,
    fleet: FleetDir = FLEET,
    keys: KeysDir = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Sign a bundle as one that devices may install. Nobody runs it before it is assigned."""
    with errors_told(debug):
        from headland_edge.bundle import BundleError

        from tasks.fleet import publish as work
        from tasks.registry.register import UnfitBundleError

        path = bundle or _own_bundle()
        try:
            done = work.publish(fleet, path, _keyring(fleet, keys), floor=floor, dry_run=dry_run)
        except BundleError as error:
            raise UnfitBundleError(str(error)) from None
        verb = "would be signed" if dry_run else "signed"
        lines = [f"release {done.counter} ({done.sha256[:12]})  floor {done.floor}"]
        lines += [f"  {name}, {size} bytes" for name, size in done.added.items()]
        lines.append(f"{verb}: {', '.join(done.changed)}" if done.changed else "nothing to do: it is published")
        _tell({**vars(done), "changed": list(done.changed)}, lines, as_json)


@app.command()
def base(
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle; without it, the latest release published below the one to come.")
    ] = None,
    fleet: FleetDir = FLEET,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Put an earlier release into data/base: the next one learns on from it, and its update is small."""
    with errors_told(debug):
        from tasks.fleet import base as work
        from tasks.packaging.build_bundle import release_counter
        from tasks.params import load
        from tasks.stages import find_root

        root = find_root(Path.cwd())
        if bundle is not None:
            done = work.fill_base(root, bundle)
        else:
            done = work.fill_base_from_fleet(root, fleet, release_counter(load(root / "params.yaml")))
        folder = done.folder.relative_to(root)
        lines = [f"{folder} holds release {done.counter} ({done.sha256[:12]}): {', '.join(done.models)}"]
        lines.append(f"next  dvc add {folder}, and compression.from_base: true in params.yaml")
        _tell({"counter": done.counter, "sha256": done.sha256, "models": list(done.models)}, lines, as_json)


@app.command()
def assign(
    release: Annotated[str, typer.Option(help="Counter, or hash (8 digits are enough); none: no wish any more.")],
    device: Annotated[list[str] | None, typer.Option(help="Only this device, whatever all others run.")] = None,
    to_all: Annotated[bool, typer.Option("--all", help="Every device; ends a rollout and all exceptions.")] = False,
    fleet: FleetDir = FLEET,
    keys: KeysDir = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say which published release devices should run. In waves and with an eye on failures: headland rollout."""
    if to_all == bool(device):
        raise typer.BadParameter("give either --all, or --device NAME once or more")
    with errors_told(debug):
        from tasks.fleet.assign import assigned, set_assignments

        sha256, before = _release(fleet, release), assigned(fleet)
        pins = {} if to_all else {name: sha for name, sha in before.pins.items() if name not in (device or ())}
        if sha256 is not None:
            pins |= dict.fromkeys(device or (), sha256)
        wish = set_assignments(
            fleet,
            _keyring(fleet, keys),
            base=sha256 if to_all else before.base,
            pins=pins,
            rollout=None if to_all else before.rollout,
            dry_run=dry_run,
        )
        changed = wish.serial != before.serial
        content = {"serial": wish.serial, "changed": changed, "dry_run": dry_run, **_wish(wish)}
        what = ("would be signed" if dry_run else "signed") if changed else "nothing to do, as before"
        _tell(content, [f"serial {wish.serial}  {what}"], as_json)


@app.command()
def renew(
    repository: Annotated[
        list[str] | None, typer.Argument(help="Only these: releases, media, assignments, media-assignments.")
    ] = None,
    fleet: FleetDir = FLEET,
    keys: KeysDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Sign again what has lived half of its time; where only the online key lies, name the assignments."""
    from headland_edge.trust import FAMILY

    if unknown := set(repository or ()) - set(FAMILY):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: there are {', '.join(FAMILY)}")
    with errors_told(debug):
        from tasks.fleet import publish as work

        done = work.renew(fleet, _keyring(fleet, keys), names=tuple(repository or FAMILY))
        _tell({"signed": done}, [f"signed: {', '.join(done)}" if done else "nothing to do: all is young"], as_json)


@app.command()
def stick(
    folder: Annotated[Path, typer.Argument(help="A stick's folder; the repositories go into headland/ in it.")],
    fleet: FleetDir = FLEET,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Copy what devices without network need to a stick, whole or not at all."""
    with errors_told(debug):
        from tasks.fleet.media import write_stick

        done = write_stick(fleet, folder)
        content = {"folder": str(done.folder), "files": done.files, "bytes": done.size_bytes, "serial": done.serial}
        lines = [f"{done.folder}: {done.files} files, {done.size_bytes} bytes, assignments {done.serial}"]
        _tell(content, [*lines, f"a device    headland-edge update --stick {folder}"], as_json)


@app.command()
def status(fleet: FleetDir = FLEET, keys: KeysDir = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Tell what is published, who should run it, and how long signatures still hold."""
    with errors_told(debug):
        from headland_edge.trust import FAMILY

        from tasks.fleet.assign import assigned
        from tasks.fleet.publish import released, signed_floor
        from tasks.fleet.repository import Repository

        wish, known = assigned(fleet), released(fleet)
        days = {name: round(Repository(fleet, name).days_left(), 1) for name in FAMILY}
        content = {
            "releases": [{"sha256": sha, **each, "assigned": sha in wish.releases} for sha, each in known.items()],
            "floor": signed_floor(Repository(fleet, "releases").targets()),
            "assignments": {"serial": wish.serial, **_wish(wish)},
            "days_left": days,
            "keys_at_hand": [name for name, key in _known_keys(fleet, _keyring(fleet, keys)).items() if key["at_hand"]],
        }
        _tell(content, _status_lines(content), as_json)


def _status_lines(content: Mapping[str, Any]) -> list[str]:
    wish = content["assignments"]
    counters = {each["sha256"]: each["counter"] for each in content["releases"]}
    releases = [str(each["counter"]) + ("*" if each["assigned"] else "") for each in content["releases"]]
    rollout = wish["rollout"]
    lines = [
        f"releases    {', '.join(releases) or 'none yet'} (* assigned), floor {content['floor']}",
        f"all run     {counters.get(wish['base'], 'nothing assigned')} (serial {wish['serial']})",
        *(f"  {device} runs {counters[sha]}" for device, sha in wish["pins"].items()),
        *([f"rollout     {rollout['id']} of {counters[rollout['release']]}"] if rollout else []),
        "days left   " + ", ".join(f"{name} {days:g}" for name, days in content["days_left"].items()),
        f"keys here   {', '.join(content['keys_at_hand']) or 'none'}",
    ]
    overdue = [name for name, days in content["days_left"].items() if days <= 0]
    return [*lines, f"next        headland fleet renew {' '.join(overdue)}"] if overdue else lines


def _keyring(fleet: Path, keys: Path | None) -> Keyring:
    from tasks.fleet.keys import keyring

    return keyring(keys or fleet / "keys")


def _known_keys(fleet: Path, keys: Keyring) -> dict[str, dict[str, Any]]:
    """Keys that count by the newest roots: id, what they sign, whether the private half is at hand."""
    from tasks.fleet.keys import NAMES, ROLE_KEYS, key_ids
    from tasks.fleet.repository import Repository

    known = {}
    for name in NAMES:
        signs, ids = [], set()
        for family in ROLE_KEYS:
            for role, keyid in key_ids(Repository(fleet, family).root().signed, name):
                ids.add(keyid)
                signs.append(f"roots of {family}" if role == "root" else family)
        known[name] = {"id": min(ids, default=""), "signs": sorted(set(signs)), "at_hand": keys.has(name)}
    return known


def _tell_new_key(name: str, keyid: str, as_json: bool) -> None:
    _tell({"key": name, "id": keyid}, [f"{name} is now {keyid[:12]}; devices follow with their next look"], as_json)


def _own_bundle() -> Path:
    """The bundle that the registry holds as candidate, else the one of this project. Raises ProjectError if none."""
    from tasks.environment import prepare_environment
    from tasks.fleet.candidate import find_candidate
    from tasks.stages import Project, ProjectError

    project = Project.find(Path.cwd())
    prepare_environment(project.root)
    found = find_candidate(project.root) or project.find_output("bundle", "*.tar")
    if found is None:
        raise ProjectError("There is no bundle yet. Make it with: headland retrain, or give --bundle FILE")
    return found


def _release(fleet: Path, told: str) -> str | None:
    """SHA-256 of a published release by its counter or first digits; None for ``none``."""
    from tasks.fleet.publish import released
    from tasks.fleet.repository import FleetError

    known = released(fleet)
    if told == NOBODY:
        return None
    fits = [sha for sha, each in known.items() if str(each["counter"]) == told]
    fits = fits or [sha for sha in known if len(told) >= 8 and sha.startswith(told)]
    if len(fits) != 1:
        counters = ", ".join(str(each["counter"]) for each in known.values())
        raise FleetError(f"release {told}: is not published; there are {counters or 'none'}")
    return fits[0]


def _wish(wish: Any) -> dict[str, Any]:
    rollout = wish.rollout and {**vars(wish.rollout), "first": list(wish.rollout.first)}
    return {"base": wish.base, "pins": dict(wish.pins), "rollout": rollout}


def _tell(content: Mapping[str, Any], lines: list[str], as_json: bool) -> None:
    typer.echo(json.dumps(content, indent=2) if as_json else "\n".join(lines))
