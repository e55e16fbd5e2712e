"""What a season's update weighs for devices that hold the season before: its bundle made anew, and based on theirs.

``python -m benchmarks.patches [--base PROJECT] [--work FOLDER]`` takes the finished run in PROJECT (this folder) as the
earlier season, makes windows, rules and nets of the season after it in FOLDER with the stages' own modules (about a
quarter of an hour on two quiet cores; what is there already is kept), builds all three bundles, prints a table and
writes ``metrics/bench/patches.json``. Errors are those the gate judges by: on the later season's validation windows.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headland_edge.bundle import Bundle

    from tasks.params import Params

REPOSITORY = Path(__file__).parents[1]
TARGET_FRAC = 0.35
STAGES = {"anew": ("tasks.training.train", "tasks.compression.compress"), "based": ("tasks.compression.compress",)}
_OF_A_SEASON = ("data/labels", "data/windows", "data/models", "data/policies", "data/sketch")


def prepare(base: Path, work: Path, bundle: Path) -> Params:
    """Two projects below ``work`` for the season after that of ``base``, with windows and rules; returns its params."""
    from tasks.fleet.base import fill_base
    from tasks.params import load

    as_of = season_of(base)
    text, ours = (REPOSITORY / "params.yaml").read_text(), load(REPOSITORY / "params.yaml").as_of
    for name in STAGES:
        root = work / name
        (root / "data").mkdir(parents=True, exist_ok=True)
        said = text.replace("from_base: false", f"from_base: {str(name == 'based').lower()}")
        (root / "params.yaml").write_text(said.replace(f"as_of: {ours}", f"as_of: {as_of + 1}"))
        for folder in ("seasons", "features", "weather"):
            _link(root / "data" / folder, base / "data" / folder)
    params = load(work / "anew" / "params.yaml")
    for model in params.models:
        if not (work / "anew" / "data/windows" / model / "meta.json").exists():
            for stage in ("tasks.features.labels", "tasks.features.windows"):
                _run(work / "anew", stage, model)
    if not (work / "anew" / "data/policies.json").exists():
        _run(work / "anew", "tasks.policies.tune")
    for shared in ("windows", "policies.json"):
        _link(work / "based" / "data" / shared, work / "anew" / "data" / shared)
    fill_base(work / "based", bundle)
    return params


def season_of(project: Path) -> int:
    """``as_of`` of a project, whatever other keys its params had when it was run."""
    import yaml

    return int(yaml.safe_load((project / "params.yaml").read_text())["as_of"])


def make_nets(work: Path, params: Params) -> None:
    """Train and compress anew, and learn on from the earlier season with the newly trained net as teacher."""
    for name, stages in STAGES.items():
        for model in params.models:
            here = Path("data/models") / model
            if (work / name / here / "compressed/choice.json").exists():
                continue
            if name == "based":
                _link(work / name / here / "trained", work / "anew" / here / "trained")
            for stage in stages:
                _run(work / name, stage, model)


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(target.resolve())


def _run(root: Path, module: str, *arguments: str) -> None:
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "edge")])
    subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=root, check=True, env={**os.environ, "PYTHONPATH": path}
    )


def bundle_of(params: Params, root: Path, lock: Path | None, target: Path) -> Bundle:
    """The bundle that the stage would build in ``root``, with the lineage that a run under DVC and git would leave.

    Args:
        params: of the season.
        root: project with the nets.
        lock: ``dvc.lock`` of the earlier season, from which the later one's is made up: what a season changes gets
            other hashes, the rest keeps its own. None to leave the lineage as it is.
        target: file to write.
    """
    from headland_edge.bundle import open_bundle, write_bundle

    from tasks.packaging.build_bundle import assemble

    if lock is not None and lock.exists():
        (root / "dvc.lock").write_text(_next_lock(lock.read_text(), str(root)))
    manifest, members = assemble(params, root)
    manifest["lineage"]["git_commit"] = hashlib.sha256(str(target).encode()).hexdigest()[:40]
    write_bundle(target, manifest, members)
    return open_bundle(target)


def _next_lock(text: str, salt: str) -> str:
    import yaml

    lock = yaml.safe_load(text)
    for entry in lock["stages"].values():
        for out in entry.get("outs", []):
            if out["path"].startswith(_OF_A_SEASON) and "md5" in out:
                changed = hashlib.md5(f"{salt} {out['path']}".encode(), usedforsecurity=False).hexdigest()
                out["md5"] = changed + (".dir" if out["md5"].endswith(".dir") else "")
    return str(yaml.safe_dump(lock))


def ways(old: bytes, new: bytes) -> dict[str, int]:
    """Bytes of each way to send ``new`` to who holds ``old``."""
    from headland_edge import patches

    shift, pack = patches._shift, patches._pack
    return {
        "whole": len(new),
        "packed": len(pack(new)),
        "dictionary": len(pack(new, old)),
        "subtract": len(pack(shift(new, old, -1))) if old != new else 0,
    }


def patch_of(old: Bundle, new: Bundle) -> dict[str, Any]:
    """The patch between two bundles, whole and member by member."""
    from headland_edge import patches

    before, after = old.path.read_bytes(), new.path.read_bytes()
    members = {}
    for name, content in sorted(new.members.items()):
        method, payload = patches._smallest(old.members.get(name), content)
        members[name] = {"whole": len(content), "patch": len(payload), "method": method}
    patch = patches.make_patch(before, after)
    if patches.apply_patch(before, patch, new.sha256) != after:
        raise SystemExit("the patch does not give the bundle")
    return {
        "whole": len(after),
        "packed": len(patches._pack(after)),
        "patch": len(patch),
        "patch_frac": round(len(patch) / len(after), 4),
        "patch_frac_of_packed": round(len(patch) / len(patches._pack(after)), 4),
        "golden_frac_of_whole": round(
            sum(len(content) for name, content in new.members.items() if name.startswith("golden/")) / len(after), 4
        ),
        "members": members,
    }


def model_figures(model: str, bundles: dict[str, Bundle], windows: Path) -> dict[str, Any]:
    """One net: bytes each way, weights moved, error of all three."""
    import numpy as np

    from tasks.compression.pinned import integers_of
    from tasks.registry.gate import loss
    from tasks.training.windows import open_windows

    data = open_windows(windows / model)
    old = bundles["base"].model_bytes(model)
    found: dict[str, Any] = {"unit": data.target.unit}
    for name, bundle in bundles.items():
        found[name] = {"pinball": loss(bundle, model, data, windows / model)}
        if name != "base":
            new = bundle.model_bytes(model)
            found[name] |= ways(old, new)
            before, after = integers_of(old), integers_of(new)
            comparable = before.shape == after.shape
            found[name]["moved_frac"] = round(float(np.mean(before != after)), 4) if comparable else None
    return found


def table(found: dict[str, Any]) -> list[str]:
    """Lines for a terminal."""
    lines = []
    for model, row in found["models"].items():
        size, error = row["based"]["whole"] / 1e3, row["base"]["pinball"]
        lines.append(f"{model}, {size:.0f} kB, pinball in {row['unit']}: base {error:.5g}")
        for name in STAGES:
            way = row[name]
            moved = "other shape" if way["moved_frac"] is None else f"{way['moved_frac']:.1%} moved"
            sizes = ", ".join(f"{key} {way[key] / way['whole']:.1%}" for key in ("packed", "dictionary", "subtract"))
            lines.append(f"  {name:>6}: {way['pinball']:.5g}, {moved}, {sizes}")
    for name in STAGES:
        bundle = found["bundle"][name]
        lines.append(
            f"bundle {name}: {bundle['whole'] / 1e3:.0f} kB whole, {bundle['packed'] / 1e3:.0f} kB packed, "
            f"patch {bundle['patch'] / 1e3:.1f} kB: {bundle['patch_frac']:.1%} of the whole, "
            f"{bundle['patch_frac_of_packed']:.1%} of the packed; golden {bundle['golden_frac_of_whole']:.0%}"
        )
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 if the update weighs more than it should or a net got worse than the base."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.patches", description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=Path(), help="project with a finished run; this one")
    parser.add_argument(
        "--work", type=Path, default=Path(".headland/bench/patches"), help="folder for the later season"
    )
    wanted = parser.parse_args(arguments)
    from benchmarks.machine import describe
    from tasks.durable import write_json
    from tasks.params import load

    if not (wanted.base / "data/models").exists():
        print(
            f"error: {wanted.base / 'data/models'}: no such folder. Make a run first: headland retrain", file=sys.stderr
        )
        return 1
    work = wanted.work.resolve()
    shutil.rmtree(work / "bundles", ignore_errors=True)
    earlier = load(REPOSITORY / "params.yaml").model_copy(update={"as_of": season_of(wanted.base)})
    bundles = {"base": bundle_of(earlier, wanted.base, None, work / "bundles/base.tar")}
    params = prepare(wanted.base, work, bundles["base"].path)
    make_nets(work, params)
    for name in STAGES:
        bundles[name] = bundle_of(params, work / name, wanted.base / "dvc.lock", work / f"bundles/{name}.tar")
    found: dict[str, Any] = {
        "machine": describe(),
        "as_of": [earlier.as_of, params.as_of],
        "models": {model: model_figures(model, bundles, work / "anew/data/windows") for model in params.models},
        "bundle": {name: patch_of(bundles["base"], bundles[name]) for name in STAGES},
    }
    write_json(Path("metrics/bench/patches.json"), found)
    print("\n".join(table(found)), flush=True)
    worse = [m for m, row in found["models"].items() if row["based"]["pinball"] > row["base"]["pinball"]]
    heavy = found["bundle"]["based"]["patch_frac"] > TARGET_FRAC
    print(f"patch at most {TARGET_FRAC:.0%} of the whole: {'missed' if heavy else 'met'}")
    print(f"worse than the base: {', '.join(worse) or 'none'}")
    return 1 if heavy or worse else 0


if __name__ == "__main__":
    raise SystemExit(main())
