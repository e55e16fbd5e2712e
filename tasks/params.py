"""The typed, checked form of ``params.yaml``: every number the pipeline uses, explained once.

``load()`` reads the file once. Whatever is wrong in it (an unknown key, a wrong type, a value out of range, names
that do not fit together) stops the run with file, line, key and remedy; nothing is corrected silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic import Field as _Field

from tasks.params_file import Key, LinedFile, ParamsError, explain, nearest

__all__ = ["Params", "ParamsError", "Split", "load"]

Crop = Literal["maize", "wheat"]
Name = Annotated[str, _Field(pattern=r"^[a-z][a-z0-9_]*$")]
Count = Annotated[int, _Field(ge=1)]
Share = Annotated[float, _Field(ge=0, le=1)]
Amount = Annotated[float, _Field(ge=0)]
Positive = Annotated[float, _Field(gt=0)]
DayOfYear = Annotated[int, _Field(ge=1, le=365)]


def _ascending(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if list(values) != sorted(values):
        raise ValueError("numbers must ascend")
    return values


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError("a name is listed twice")
    return values


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("must be odd")
    return value


def _no_single_fold(value: int) -> int:
    if value == 1:
        raise ValueError("one fold leaves nothing to train on: 0, or 2 and more")
    return value


def _reaching_all(shares: tuple[Any, ...]) -> tuple[Any, ...]:
    if shares[-1] != 1.0:
        raise ValueError("the last wave must reach everybody: end with 1.0")
    return shares


_up, _once = AfterValidator(_ascending), AfterValidator(_distinct)
Crops = Annotated[tuple[Crop, ...], _once]
Range = Annotated[tuple[Amount, Amount], _up]


def _about(description: str, **limits: Any) -> Any:
    return _Field(description=description, **limits)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Site(_Section):
    """A place with weather of its own."""

    reader: Literal["aquacrop", "cabo", "nasa_power", "headland_csv"] = _about("which reader knows the file's form.")
    source: str = _about("file the reader opens: a name inside the package it ships in, or a path.", min_length=1)
    latitude_deg: float = _about("degrees north.", ge=-90, le=90)
    longitude_deg: float = _about("degrees east.", ge=-180, le=180)
    elevation_m: float = _about("metres above the sea.", ge=-450, le=6000)
    years_behind_reference: int = _about("as_of minus this is the season that plays its part here.", ge=-100, le=200)
    crops: Crops = _about("crops grown here for training.")
    held_out_crops: Crops = _about("crops farmed here only by evaluation.")


class CropFields(_Section):
    """What fields of one crop look like; each field draws its own values."""

    per_season: Count = _about("fields farmed in each season at each site.")
    soils: Annotated[tuple[str, ...], _once] = _about("soils a field may have.", min_length=1)
    held_out_soil: str = _about("soil no training field has.")
    initial_water_frac: Annotated[tuple[Share, Share], _up] = _about("share of available water at sowing: least, most.")
    sowing_day: Annotated[tuple[DayOfYear, DayOfYear], _up] = _about("day of the year of sowing: first, last.")
    season_days: int = _about("longest season, days; harvested as it stands after that.", ge=30, le=330)
    mineral_n_kg_ha: Range = _about("mineral nitrogen in the soil at emergence: least, most.", default=(0.0, 0.0))
    mineralisation_kg_ha_d: Range = _about("nitrogen mineralised per day: least, most.", default=(0.0, 0.0))


class Fields(_Section):
    """Fields of each crop."""

    maize: CropFields = _about("maize fields.")
    wheat: CropFields = _about("spring wheat fields.")

    def of(self, crop: Crop) -> CropFields:
        """Fields of ``crop``."""
        return self.maize if crop == "maize" else self.wheat


class Sensor(_Section):
    """Errors of one sensor, in its own unit, or as shares of the reading if relative."""

    noise: Amount = _about("standard deviation of each reading's error.")
    drift_per_day: Amount = _about("standard deviation of the daily step of a drift that accumulates.")
    survey_error: Amount = _about("standard deviation of one error fixed per field, share of the value.", default=0.0)
    relative: bool = _about("true: errors are shares of the reading; false: in its unit.")


class Dropout(_Section):
    """Days without readings, for each group of sensors on its own."""

    starts_per_day: Share = _about("chance that an outage starts on a day.")
    mean_days: float = _about("mean length of an outage, days.", ge=1)


class Sensors(_Section):
    """What the field's sensors get wrong."""

    depletion_frac: Sensor = _about("root-zone depletion from soil moisture probes.")
    taw_mm: Sensor = _about("total available water, from a soil survey.")
    soil_mineral_n_kg_ha: Sensor = _about("mineral nitrogen, from a quick test.")
    lai: Sensor = _about("leaf area index, from a canopy camera.")
    rain_mm: Sensor = _about("rain gauge.")
    temperature_c: Sensor = _about("least and greatest air temperature.")
    et0_mm: Sensor = _about("reference evapotranspiration from the weather station.")
    dropout: Dropout = _about("outages.")

    def of(self, column: str) -> Sensor:
        """The sensor behind a column of the records; KeyError for a column no sensor measures."""
        name = "temperature_c" if column in ("tmin_c", "tmax_c") else column
        sensor = getattr(self, name, None)
        if not isinstance(sensor, Sensor):
            raise KeyError(f"no sensor measures {column}")
        return sensor


class Prices(_Section):
    """Money, the same in every season."""

    maize_usd_t: Amount = _about("price of dry maize grain, $/t.")
    wheat_usd_t: Amount = _about("price of dry wheat grain, $/t.")
    water_usd_ha_mm: Amount = _about("cost of irrigation, $/ha per mm.")
    nitrogen_usd_kg: Amount = _about("cost of nitrogen, $/kg.")
    maize_fixed_usd_ha: Amount = _about("costs of a maize field whatever is done on it, $/ha.")
    wheat_fixed_usd_ha: Amount = _about("costs of a wheat field whatever is done on it, $/ha.")


class IrrigationRule(_Section):
    """Tuning of depletion thresholds, by four stages and by a day curve, on training seasons."""

    stage_end_days: Annotated[tuple[Count, Count, Count, Count], _up] = _about("days after sowing a stage ends.")
    max_irrigation_mm: Positive = _about("most that one irrigation gives, mm.")
    min_irrigation_mm: Amount = _about("less than this is not worth starting the pump, mm.")
    season_limit_mm: Positive | None = _about("most a season may get altogether, mm; null: no limit.", default=None)
    fields_per_season: Count = _about("training fields of each season that a candidate is scored on.")
    candidates: Count = _about("random threshold sets tried first.")
    survivors: Count = _about("best of them that are tried on half of the fields.")
    refinements: int = _about("small changes tried on the best one.", ge=0)
    curve_days: Annotated[tuple[Count, ...], _up] = _about("knots of the day curve, days after sowing.", min_length=2)
    curve_generations: int = _about("generations of 14 candidates each that search the day curve.", ge=0)


class NitrogenRule(_Section):
    """Tuning of the three-split nitrogen rule, on training seasons."""

    first_split_day: int = _about("days after emergence of the first dose.", ge=0, le=60)
    split_gdd_c_d: Annotated[tuple[Positive, Positive], _up] = _about("degree days of the second and third dose.")
    max_dose_kg_ha: Positive = _about("most that one dose gives, kg N/ha.")
    fields_per_season: Count = _about("training fields of each season that a candidate is scored on.")
    candidates: Count = _about("random rules tried.")


class Rules(_Section):
    """The rules that act on the estimates and, fed by a sensor, are the baselines."""

    irrigation: IrrigationRule = _about("when and how much to irrigate.")
    nitrogen: NitrogenRule = _about("how much nitrogen at each split.")

    def of(self, crop: Crop) -> IrrigationRule | NitrogenRule:
        """Tuning of the rule of ``crop``."""
        return self.irrigation if crop == "maize" else self.nitrogen


class Model(_Section):
    """One net: what it estimates and how it is trained and compressed."""

    crops: Crops = _about("crops it learns from and serves.", min_length=1)
    target: Literal["depletion_frac", "n_supply_kg_ha", "yield_t_ha"] = _about("what it estimates.")
    offset: float = _about("target = offset + scale * output, in the target's unit.")
    scale: Positive = _about("target = offset + scale * output, in the target's unit.")
    window_days: int = _about("mornings of history it sees.", ge=8, le=366)
    widths: tuple[Annotated[int, _Field(ge=4, le=1024)], ...] = _about("channels of each convolution.", min_length=1)
    kernel: Annotated[int, AfterValidator(_odd)] = _about("days each convolution spans, odd.", ge=1, le=31)
    prune_ratio: float = _about("share of channels that structured pruning removes.", ge=0, lt=1)
    epochs: Count = _about("passes of training at most.")
    windows_per_epoch: Count = _about("windows drawn for each pass.")
    finetune_epochs: int = _about("passes after pruning.", ge=0)
    detrend: bool = _about("learn the target without its trend over the years; the device puts the trend back.")
    crossfit_folds: Annotated[int, AfterValidator(_no_single_fold)] = _about(
        "nets trained without a fold of seasons to calibrate the band; 0: validation only.", ge=0, le=10
    )
    ship: Literal["int8", "best"] = _about("int8: integers if within the loss allowed; best: whatever measures best.")

    @property
    def unit(self) -> str:
        """Unit of the target."""
        return {"depletion_frac": "1", "n_supply_kg_ha": "kg/ha", "yield_t_ha": "t/ha"}[self.target]


class Advantage(_Section):
    """A net that says where another dose than the rule's is worth more, learned by rollouts on training seasons."""

    doses: Annotated[tuple[Amount, ...], _up, _once] = _about("doses it speaks of, mm or kg N/ha.", min_length=2)
    rounds: Count = _about("rounds of farming, rollouts and learning; each farms by the net of the one before.")
    mornings_per_round: int = _about("mornings whose doses are compared by rollouts in each round.", ge=100)
    futures: Count = _about("seasons of weather each dose is followed through.")
    fields_per_season: Count = _about("fields farmed on each training season in each round.")
    spliced_seasons: int = _about("synthetic seasons of each site, spliced from training seasons.", ge=0)
    block_days: Count = _about("days a synthetic season takes from one year before it changes to another.")
    width: int = _about("units of both hidden layers.", ge=4, le=512)
    epochs: Count = _about("passes over all mornings after each round.")
    margins_usd_ha: Annotated[tuple[Positive, ...], _up, _once] = _about(
        "gains below it are not acted on; validation seasons choose.", min_length=1
    )
    reaches: Annotated[tuple[Positive, ...], _up, _once] = _about(
        "how far a dose may depart from the rule: depletion past its threshold, or kg N/ha; validation seasons choose.",
        min_length=1,
    )
    judged_fields_per_season: Count = _about("fields of each validation season that margin and reach are chosen on.")


class Fold(_Section):
    """Cross-validation instead of one season being prepared: every ``count``-th season is tested, all others train."""

    number: int = _about("the first season tested, counted from 0.", ge=0)
    count: int = _about("folds altogether.", ge=2, le=20)


class Training(_Section):
    """How every net is trained."""

    global_batch: Count = _about("windows per optimizer step over all processes together.")
    learning_rate: float = _about("peak learning rate.", gt=0, le=1)
    weight_decay: float = _about("decay of weights per step, AdamW.", ge=0, lt=1)
    patience: Count = _about("passes without progress on validation seasons before training stops.")
    timeout_s: Positive = _about("a training run is ended after this many seconds: a lost process must not hang it.")


class Compression(_Section):
    """From the trained net to the one that ships."""

    max_metric_loss_frac: Share = _about("greatest loss of the task's metric that int8 may cost, share.")
    calibration_windows: int = _about("training windows that set the integer ranges.", ge=8)
    fallback: Annotated[tuple[str, ...], _once] = _about("quantization settings, tried in this order.", min_length=1)
    latency_runs: int = _about("runs timed for each file.", ge=20)
    from_base: bool = _about("learn on from the release in data/base, so that its update is small.")
    base_epochs: Count = _about("passes of learning on.")
    base_reach_steps: Positive = _about("about how many steps of 8 bits a weight can move in learning on.")


class Evaluation(_Section):
    """Farming the held-out seasons."""

    fields_per_season: Count = _about("fields farmed in each test season.")


class Release(_Section):
    """What the bundle promises a device."""

    minor: int = _about("release counter within the season: count up for a second release of one as_of.", ge=0, le=999)
    latency_p99_ms: Positive = _about("budget for one advice, features included, one thread, ms.")
    peak_rss_mb: Positive = _about("budget for the device process's memory, MB.")


class Gate(_Section):
    """What a candidate must fulfil before it is published."""

    max_worse_frac: Share = _about("greatest share by which a model's error may exceed the champion's.")
    fields_per_season: int = _about("fields that the candidate farms in each validation season; 0: none.", ge=0)
    max_worse_usd_ha: float = _about("what its advice may earn less than champion or tuned rule, USD/ha.", ge=0)


class Rollout(_Section):
    """How carefully a release goes out to the fleet."""

    first_devices: int = _about("devices of the first wave, which goes before the shares; 0: none.", ge=0, le=1000)
    wave_shares: Annotated[
        tuple[Annotated[float, _Field(gt=0, le=1)], ...], _up, _once, AfterValidator(_reaching_all)
    ] = _about("share of the fleet that each wave reaches, the last one all.", min_length=1)
    success_share: Share = _about("of devices that reported, as many must confirm before the next wave.")
    error_share: Share = _about("of devices that reported, more failing than this stop the rollout.")
    minimum_reports: Count = _about("nothing is judged on fewer reports, or on the whole wave if that is smaller.")
    soak_h: Amount = _about("a wave lasts at least as long, hours.")
    hours_utc: Annotated[
        tuple[Annotated[int, _Field(ge=0, le=24)], Annotated[int, _Field(ge=0, le=24)]], _up, _once
    ] = _about("waves start from the first of these hours to before the second.")
    weekdays: Annotated[tuple[Annotated[int, _Field(ge=0, le=6)], ...], _once] = _about(
        "days on which waves start, Monday is 0.", min_length=1
    )


class Split(NamedTuple):
    """Seasons of one site, ascending; no season is in two of them."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


class Params(_Section):
    """All of ``params.yaml``."""

    as_of: int = _about("season being prepared, a year of the reference site.", ge=1900, le=2200)
    seed: int = _about("of everything random.", ge=0, lt=2**31)
    test_seasons: Count = _about("seasons from as_of on that only evaluation may touch.")
    validation_every: int = _about("every n-th training season is left out for early stopping and calibration.", ge=2)
    models: Annotated[tuple[Name, ...], _once] = _about("nets to train, entries of model.", min_length=1)
    sites: dict[Name, Site] = _about("places with weather.", min_length=1)
    fields: Fields = _about("fields that differ.")
    sensors: Sensors = _about("errors of the sensors.")
    prices: Prices = _about("money.")
    rules: Rules = _about("tuning of the rules.")
    model: dict[Name, Model] = _about("the nets by name.", min_length=1)
    advantage: dict[Crop, Advantage] = _about("nets that may better a rule's dose, by crop.")
    training: Training = _about("how every net is trained.")
    compression: Compression = _about("from the trained net to the one that ships.")
    evaluation: Evaluation = _about("farming the held-out seasons.")
    release: Release = _about("what the bundle promises a device.")
    gate: Gate = _about("what a candidate must fulfil before it is published.")
    rollout: Rollout = _about("how carefully a release goes out to the fleet.")
    fold: Fold | None = _about("for studies: which seasons are tested; without it those from as_of on.", default=None)

    def season_of(self, site: str) -> int:
        """The year of ``site`` that plays the part of ``as_of``; KeyError for an unknown site."""
        return self.as_of - self.sites[site].years_behind_reference

    def split(self, site: str, seasons: Iterable[int]) -> Split:
        """Divide the ``seasons`` that ``site`` has data for.

        Returns:
            Before the site's ``as_of``: training, every ``validation_every``-th of them validation. From it on,
            ``test_seasons`` years: test. Years later still are in none. With a ``fold`` its seasons are tested, and
            all others train or validate.

        Raises:
            ParamsError: a site that grows crops for training has no test season, or too few before ``as_of`` to leave
                one for validation. A site that only evaluation farms may have none.
        """
        years, start = sorted(set(seasons)), self.season_of(site)
        if self.fold is not None:
            test = tuple(years[self.fold.number :: self.fold.count])
            past = [year for year in years if year not in test]
        else:
            past = [year for year in years if year < start]
            test = tuple(year for year in years if start <= year < start + self.test_seasons)
        # Fewer past seasons than this leave none for validation.
        if self.sites[site].crops and (not test or len(past) < self.validation_every):
            raise ParamsError(self._no_data(site, years))
        held = tuple(past[self.validation_every - 1 :: self.validation_every])
        return Split(tuple(year for year in past if year not in held), held, test)

    def _no_data(self, site: str, years: list[int]) -> str:
        if not years:
            return f"as_of: {self.as_of}: site {site} has no complete season at all. Check its weather and season_days."
        behind = self.sites[site].years_behind_reference
        first = years[min(self.validation_every, len(years) - 1)]
        here = f" (its season {self.season_of(site)} there)" if behind else ""
        return (
            f"as_of: {self.as_of}{here} has no data to train before it and test from it on: site {site} has seasons "
            f"{years[0]} to {years[-1]}. Choose as_of from {first + behind} to {years[-1] + behind}."
        )


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check ``path``. Raises ParamsError naming file, line, key, fault and remedy for every fault found."""
    file = LinedFile(path)
    try:
        params = Params.model_validate(_tuples(file.content))
    except ValidationError as error:
        raise file.complain(explain(error, Params)) from None
    if faults := [*_name_faults(params), *_site_faults(params), *_number_faults(params)]:
        raise file.complain(faults)
    return params


def _tuples(value: Any) -> Any:
    """Lists as tuples: what is frozen stays frozen, and strict types need them."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {key: _tuples(item) for key, item in value.items()} if isinstance(value, dict) else value


def _name_faults(params: Params) -> Iterator[tuple[Key, str]]:
    grown = {crop for site in params.sites.values() for crop in site.crops}
    for i, name in enumerate(params.models):
        if name not in params.model:
            yield ("models", i), f"no entry model.{name}. {nearest(name, params.model)}"
    for name, model in params.model.items():
        if name not in params.models:
            yield ("model", name), "described but not trained. Add it to models or delete it."
        for crop in sorted(set(model.crops) - grown):
            yield ("model", name, "crops"), f"no site grows {crop} for training. Add it to a site's crops."
        if model.target == "n_supply_kg_ha" and "maize" in model.crops:
            yield ("model", name, "target"), "maize has no nitrogen balance. Choose crops: [wheat] or another target."


def _site_faults(params: Params) -> Iterator[tuple[Key, str]]:
    if all(site.years_behind_reference for site in params.sites.values()):
        yield ("sites",), "no reference site. as_of names a year of it: set years_behind_reference: 0 for one site."
    for name, site in params.sites.items():
        for crop in sorted(set(site.crops) & set(site.held_out_crops)):
            yield ("sites", name, "held_out_crops"), f"{crop} is in crops too. A crop trained on here is not held out."
        if not (site.crops or site.held_out_crops):
            yield ("sites", name), "grows nothing. Name a crop in crops or held_out_crops, or delete the site."
    for crop in ("maize", "wheat"):
        fields = params.fields.of(crop)
        if fields.held_out_soil in fields.soils:
            yield ("fields", crop, "held_out_soil"), f"{fields.held_out_soil} is in soils too. Delete it there."


def _number_faults(params: Params) -> Iterator[tuple[Key, str]]:
    for crop in ("maize", "wheat"):
        fields = params.fields.of(crop)
        last = fields.sowing_day[1] + fields.season_days - 1
        if last > 365:
            yield ("fields", crop, "season_days"), f"a season would end on day {last} of the year. Keep it within 365."
    rule = params.rules.irrigation
    if rule.stage_end_days[-1] < params.fields.maize.season_days:
        days = params.fields.maize.season_days
        yield (
            ("rules", "irrigation", "stage_end_days"),
            f"the last stage ends before fields.maize.season_days ({days}).",
        )
    if rule.min_irrigation_mm > rule.max_irrigation_mm:
        yield ("rules", "irrigation", "min_irrigation_mm"), f"above max_irrigation_mm ({rule.max_irrigation_mm:g})."
    if rule.survivors > rule.candidates:
        yield ("rules", "irrigation", "survivors"), f"more than candidates ({rule.candidates})."
    if params.fold is not None and params.fold.number >= params.fold.count:
        yield ("fold", "number"), f"there are {params.fold.count} folds, counted from 0."
    if params.rollout.success_share + params.rollout.error_share > 1.0:
        yield ("rollout", "error_share"), "together with success_share above 1: a wave could both advance and stop."
