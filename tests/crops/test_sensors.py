from __future__ import annotations

import numpy as np
from headland_edge.records import COLUMNS

from tasks.crops.farm import farm
from tasks.crops.fields import draw_field, draw_fields
from tasks.crops.interface import Decision
from tasks.policies.growers import Nothing, Weekly


class Nosy:
    """A policy that remembers the records it was shown."""

    def __init__(self) -> None:
        self.days: list[int] = []

    def decide(self, fields, records, active):
        self.days.append(records.shape[1])
        nothing = np.zeros(len(fields))
        return Decision(nothing, nothing)


def test_a_field_does_not_depend_on_how_many_others_there_are(params):
    few = draw_fields("maize", "champion", [1999], 2, params.fields.maize, params.seed)
    many = draw_fields("maize", "champion", [1998, 1999], 5, params.fields.maize, params.seed)
    assert set(few) <= set(many)


def test_forced_soil_is_used_and_named(params):
    field = draw_field("maize", "champion", 1999, 0, params.fields.maize, 1, "SandyLoam")
    assert field.soil == "SandyLoam"
    assert field.field_id.endswith("SandyLoam")


def test_all_policies_see_the_same_sensor_errors(params, weather):
    fields = draw_fields("maize", "champion", [2001], 3, params.fields.maize, params.seed)
    site = {"champion": weather}
    rainfed = farm(fields, site, params.sensors, params.seed, Nothing())
    irrigated = farm(fields, site, params.sensors, params.seed, Weekly())
    column = COLUMNS.index("depletion_frac")
    both = rainfed.active & irrigated.active
    noise = [log.records[:, :, column] - log.truth["depletion_frac"] for log in (rainfed, irrigated)]
    np.testing.assert_allclose(noise[0][both], noise[1][both], atol=1e-12)
    assert not np.array_equal(rainfed.truth["depletion_frac"][both], irrigated.truth["depletion_frac"][both])


def test_a_bank_of_many_fields_reads_as_one_of_each(params, weather):
    fields = draw_fields("maize", "champion", [2001], 3, params.fields.maize, params.seed)
    site = {"champion": weather}
    together = farm(fields, site, params.sensors, params.seed, Nothing())
    alone = farm(fields[1:2], site, params.sensors, params.seed, Nothing())
    np.testing.assert_array_equal(together.records[1], alone.records[0])


def test_sensors_are_noisy_and_drop_out_as_declared(params, weather):
    fields = draw_fields("maize", "champion", [2001], 12, params.fields.maize, params.seed)
    log = farm(fields, {"champion": weather}, params.sensors, params.seed, Nothing())
    column = COLUMNS.index("depletion_frac")
    read, true = log.records[:, :, column][log.active], log.truth["depletion_frac"][log.active]
    missing = float(np.isnan(read).mean())
    expected = params.sensors.dropout.starts_per_day * params.sensors.dropout.mean_days
    assert 0.3 * expected < missing < 3 * expected
    error = np.nanstd(read - true)
    assert params.sensors.depletion_frac.noise < error < 4 * params.sensors.depletion_frac.noise


def test_records_hold_yesterdays_weather_and_irrigation(params, weather):
    exact = params.sensors.model_copy(
        update={
            "rain_mm": params.sensors.rain_mm.model_copy(update={"noise": 0.0}),
            "dropout": params.sensors.dropout.model_copy(update={"starts_per_day": 0.0}),
        }
    )
    fields = draw_fields("maize", "champion", [2001], 1, params.fields.maize, params.seed)
    log = farm(fields, {"champion": weather}, exact, params.seed, Weekly())
    sown = (fields[0].sowing_date - weather.first_day).days
    days = int(log.active[0].sum())
    np.testing.assert_allclose(
        log.records[0, :days, COLUMNS.index("rain_mm")], weather.rain_mm[sown - 1 : sown - 1 + days]
    )
    applied = log.records[0, 1:days, COLUMNS.index("irrigation_mm")]
    np.testing.assert_array_equal(applied, log.irrigation_mm[0, : days - 1])


def test_the_policy_sees_one_more_morning_each_day(params, weather):
    fields = draw_fields("maize", "champion", [2001], 1, params.fields.maize, params.seed)
    nosy = Nosy()
    farm(fields, {"champion": weather}, params.sensors, params.seed, nosy)
    assert nosy.days == list(range(1, len(nosy.days) + 1))
