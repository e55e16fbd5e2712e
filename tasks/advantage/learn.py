"""Stage: a crop's advantage net, learned by rollouts in rounds (DAgger, Ross et al. 2011), believed as far as it pays.

1. Fields of the training seasons, and of synthetic ones, are farmed as devices would farm them: from noisy sensors, by
   the shipped net's estimate and the tuned rule, from the second round on by the advantage net of the round before, so
   that it learns on the mornings it brings about itself.
2. On some of those mornings every dose is followed to the end of the season under several futures
   (``tasks.advantage.rollouts``).
3. A net learns the gains from all rounds' mornings, and is quantized.
4. How large a gain must be and how far a dose may depart from the rule is chosen on validation seasons, which none of
   this has seen. Where nothing pays there, no net ships.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from headland_edge.advantage import Belief, inputs_for
from headland_edge.features import Float32Array
from headland_edge.rules import Rule, rule_from_dict
from joblib import Parallel, delayed

from tasks import params as params_module
from tasks.advantage.estimates import Estimator, shipped_estimator
from tasks.advantage.loop import Believed, Device, Morning, farm_as_devices
from tasks.advantage.net import FloatNet, ShippedNet, fit, int8
from tasks.advantage.rollouts import gains_usd_ha
from tasks.advantage.worlds import Futures, World, seasons_of, synthetic_years, world_of, years_of
from tasks.crops.fields import field_rng
from tasks.crops.interface import CROPS, Crop, CropBatch, DailyWeather, FloatArray
from tasks.durable import replacing_dir, write_bytes, write_json
from tasks.packaging.npy import npy
from tasks.params import Params
from tasks.policies.money import profit_usd_ha
from tasks.policies.tune import POLICIES
from tasks.sources.daily import SiteWeather, read_sites
from tasks.stage_main import end_of_stage

PARAMS = (
    *("as_of", "test_seasons", "validation_every", "seed", "sites", "fields", "sensors", "prices"),
    *("models", "model", "advantage"),
)
FOLDER = Path("data/advantage")
METRICS = Path("metrics/advantage")
GOLDEN = 16
_NEAR_FRAC = 0.25
"""Mornings within this depletion of the threshold are the ones where doses are in doubt."""
_SLACK = 0.02
"""Beyond the range that was learned from, as a share of it, an input is not yet foreign."""
_PARTS = 4
"""Fields of a round are farmed in so many parts, on however many cores there are: the net must not depend on them."""
_EXPLORE = (0.15, 0.05)
"""Share of doses drawn at random in the first round and in later ones."""


class LearningError(ValueError):
    """There is nothing to learn from; the message names the key and the remedy."""


@dataclass(frozen=True)
class Learned:
    """Mornings and what doses were worth on them."""

    inputs: Float32Array
    gains_usd_ha: FloatArray

    def with_more(self, more: Learned) -> Learned:
        """Both."""
        return Learned(
            np.concatenate([self.inputs, more.inputs]), np.concatenate([self.gains_usd_ha, more.gains_usd_ha])
        )


@dataclass(frozen=True)
class School:
    """All that one crop's net learns from; can be sent to another process."""

    crop: Crop
    params: Params
    rule: Rule
    estimator: Estimator
    years: dict[str, DailyWeather]
    """Training seasons, by ``site/year``: the weather that may come."""
    synthetic: dict[str, DailyWeather]
    validation: dict[str, DailyWeather]

    @property
    def settings(self) -> params_module.Advantage:
        """Of the crop."""
        return self.params.advantage[self.crop]

    def device(self, seed: int, believed: Believed | None = None, explore_frac: float = 0.0) -> Device:
        """How fields are farmed here."""
        sensors = self.params.sensors
        return Device(self.rule, self.estimator, sensors, seed, believed, explore_frac, self.settings.doses)

    def believed(self, net: FloatNet | ShippedNet, learned: Learned, margin_usd_ha: float, reach: float) -> Believed:
        """The net, believed so far."""
        low, high = learned.inputs.min(axis=0), learned.inputs.max(axis=0)
        slack = _SLACK * (high - low) + 1e-4
        bounds = [tuple(np.round(each.astype(float), 4).tolist()) for each in (low - slack, high + slack)]
        return Believed(net, Belief(self.settings.doses, margin_usd_ha, reach, bounds[0], bounds[1]))


def open_school(crop: Crop, params: Params, sites: dict[str, SiteWeather], rule: Rule, estimator: Estimator) -> School:
    """Gather the seasons that ``crop`` may learn from."""
    seasons = seasons_of(crop, params, sites)
    years = years_of(sites, {name: train for name, (train, _) in seasons.items()})
    validation = years_of(sites, {name: held for name, (_, held) in seasons.items()})
    settings = params.advantage[crop]
    synthetic = synthetic_years(years, settings.spliced_seasons, settings.block_days, params.seed)
    return School(crop, params, rule, estimator, years, synthetic, validation)


def visit(school: School, world: World, device: Device, share: float, name: str) -> Learned:
    """Farm ``world`` and follow the doses on a share of its mornings.

    Args:
        school: futures, prices and what is to be tried.
        world: fields.
        device: how they are farmed.
        share: of the mornings of decisions.
        name: of this visit, for its random numbers.
    """
    settings, rng = school.settings, field_rng(school.params.seed, school.crop, "visit", name)
    futures = Futures(school.crop, {**school.years, **school.synthetic}, school.params)
    inputs, gains = [], []

    def watch(batch: CropBatch, morning: Morning) -> None:
        chance = np.full(len(world), share)
        if school.crop == "maize":  # where the dose is beyond doubt, few will do
            near = (morning.rule_dose > 0) | (np.abs(morning.past_threshold) < _NEAR_FRAC)
            chance *= np.where(near, 1.6, 0.4)
        known = np.isfinite(morning.inputs).all(axis=1) if morning.inputs.size else np.zeros(len(world), bool)
        rows = np.flatnonzero(morning.asked & known & (rng.random(len(world)) < chance))
        if rows.size:
            inputs.append(morning.inputs[rows])
            gains.append(
                gains_usd_ha(
                    batch,
                    rows,
                    morning.day,
                    morning.rule_dose[rows],
                    morning.split,
                    settings.doses,
                    school.rule,
                    futures,
                    settings.futures,
                    school.params.prices,
                    rng,
                )
            )

    farm_as_devices(world, device, watch)
    nothing = np.empty((0, len(inputs_for(school.crop))), np.float32), np.empty((0, len(settings.doses)))
    return Learned(np.concatenate([nothing[0], *inputs]), np.concatenate([nothing[1], *gains]))


def learn(school: School, say: Callable[[str], None] = print) -> tuple[FloatNet, Learned]:
    """All rounds; the last net and all mornings it learned from."""
    settings, params, crop = school.settings, school.params, school.crop
    learned: Learned | None = None
    believed: Believed | None = None
    net: FloatNet | None = None
    decisions = 3 if crop == "wheat" else params.fields.maize.season_days
    with Parallel(n_jobs=-1) as parallel:
        for k in range(settings.rounds):
            began = time.monotonic()
            world = world_of(crop, {**school.years, **school.synthetic}, settings.fields_per_season, params, f"r{k}")
            share = min(1.0, settings.mornings_per_round / (len(world) * decisions))
            device = school.device(params.seed + 7919 * (k + 1), believed, _EXPLORE[min(k, 1)])
            parts = np.array_split(field_rng(params.seed, crop, "part", k).permutation(len(world)), _PARTS)
            found = parallel(
                delayed(visit)(school, world.of(part), device, share, f"{k}/{i}") for i, part in enumerate(parts)
            )
            for each in found:
                learned = each if learned is None else learned.with_more(each)
            assert learned is not None
            if not learned.inputs.size:
                raise LearningError(f"advantage.{crop}: no morning was compared; raise mornings_per_round")
            net = fit(learned.inputs, learned.gains_usd_ha, settings.width, settings.epochs, params.seed + k)
            middle = settings.reaches[len(settings.reaches) // 2]
            believed = school.believed(net, learned, settings.margins_usd_ha[0], middle)
            took = time.monotonic() - began
            say(
                f"advantage of {crop}: round {k + 1} of {settings.rounds}, {len(learned.inputs)} mornings, {took:.0f} s"
            )
    assert net is not None
    assert learned is not None
    return net, learned


def profits(school: School, world: World, believed: Believed | None) -> FloatArray:
    """Profit of every field of ``world`` farmed by the rule, or as ``believed``, USD/ha."""
    harvest = farm_as_devices(world, school.device(school.params.seed + 1, believed))
    return profit_usd_ha(school.crop, harvest, school.params.prices)


def trust(school: School, net: ShippedNet, learned: Learned) -> tuple[Believed | None, list[dict[str, float]]]:
    """How far to believe the net, by what validation seasons gain; None where nothing pays, and every try."""
    settings = school.settings
    world = world_of(school.crop, school.validation, settings.judged_fields_per_season, school.params, "judged")
    tries = [
        school.believed(net, learned, margin, reach) for margin in settings.margins_usd_ha for reach in settings.reaches
    ]
    earned = Parallel(n_jobs=-1)(delayed(profits)(school, world, each) for each in (None, *tries))
    seasons = np.array([field.site for field in world.fields])
    table = []
    for each, profit in zip(tries, earned[1:], strict=True):
        by_season = [float((profit - earned[0])[seasons == key].mean()) for key in school.validation]
        table.append(
            {
                "margin_usd_ha": each.belief.margin_usd_ha,
                "reach": each.belief.reach,
                "gain_usd_ha": round(float(np.mean(by_season)), 3),
                "worst_season_usd_ha": round(min(by_season), 3),
            }
        )
    best = max(range(len(tries)), key=lambda i: table[i]["gain_usd_ha"])
    return (tries[best] if table[best]["gain_usd_ha"] > 0 else None), table


def write(folder: Path, crop: Crop, net: ShippedNet, learned: Learned, believed: Believed | None, seed: int) -> None:
    """What the bundle takes up: the net, golden mornings and the manifest's entry."""
    with replacing_dir(folder / crop) as aside:
        if believed is None:
            write_json(aside / "advantage.json", {"ships": False})
            return
        golden = min(GOLDEN, len(learned.inputs))
        rows = np.sort(field_rng(seed, crop, "golden").choice(len(learned.inputs), golden, replace=False))
        inputs = learned.inputs[rows]
        write_bytes(aside / "net.onnx", net.onnx)
        write_bytes(aside / "golden.inputs.npy", npy(inputs[..., None]))
        write_bytes(aside / "golden.outputs.npy", npy(np.concatenate([net(each[None]) for each in inputs])))
        inputs_told = [each.name for each in inputs_for(crop)]
        write_json(aside / "advantage.json", {"ships": True, "inputs": inputs_told, "belief": asdict(believed.belief)})


def run(crop: Crop, params: Params, root: Path) -> dict[str, Any]:
    """Learn, quantize, choose and write below ``root``; returns the metrics."""
    began = time.monotonic()
    sites = read_sites(params, root / "data/weather")
    rule = rule_from_dict(json.loads((root / POLICIES).read_text())["rules"][crop]["rule"])
    school = open_school(crop, params, sites, rule, shipped_estimator(crop, params, root))
    net, learned = learn(school)
    shipped = ShippedNet(int8(net, learned.inputs, field_rng(params.seed, crop, "int8")), len(school.settings.doses))
    believed, table = trust(school, shipped, learned)
    write(root / FOLDER, crop, shipped, learned, believed, params.seed)
    said, meant = shipped(learned.inputs), net(learned.inputs)
    found = {
        "mornings": len(learned.inputs),
        "part_seasons": int(len(learned.inputs) * (len(school.settings.doses) + 1) * school.settings.futures),
        "int8_bytes": len(shipped.onnx),
        "int8_error_usd_ha": float(np.abs(said - meant).mean()),
        "same_best_dose_frac": float((said.argmax(axis=1) == meant.argmax(axis=1)).mean()),
        "validation": table,
        "ships": believed is not None,
        "margin_usd_ha": believed.belief.margin_usd_ha if believed else None,
        "reach": believed.belief.reach if believed else None,
        "seconds": round(time.monotonic() - began, 1),
    }
    write_json(root / METRICS / f"{crop}.json", found)
    return found


def main() -> None:
    """Run the stage for the crop named on the command line."""
    if len(sys.argv) != 2 or sys.argv[1] not in CROPS:
        print(f"usage: python -m tasks.advantage.learn CROP, one of {', '.join(CROPS)}", file=sys.stderr)
        sys.exit(2)
    crop: Crop = "maize" if sys.argv[1] == "maize" else "wheat"
    found = run(crop, params_module.load(), Path())
    best = max(found["validation"], key=lambda row: row["gain_usd_ha"])
    verdict = "ships" if found["ships"] else "does not ship: the rule alone earns as much"
    print(
        f"advantage of {crop}: {best['gain_usd_ha']:+.1f} USD/ha over the rule on validation seasons, {verdict}; "
        f"{found['part_seasons']} part seasons, {found['int8_bytes']} bytes"
    )


if __name__ == "__main__":
    end_of_stage(main)
