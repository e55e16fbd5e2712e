"""Crop parameters of LINTUL3, read from the file that ships in the ``pcse`` package, so that they stand in one place.

The file is a list of Python assignments of numbers and lists; it is parsed, never run, and ``pcse`` is not imported
(that takes a second and writes into the home folder).
"""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tasks.crops.interface import FloatArray


class Table(NamedTuple):
    """A function given by points; linear between them, constant outside."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def at(self, x: FloatArray) -> FloatArray:
        """Value at each ``x``; shape of ``x``."""
        return np.asarray(np.interp(x, self.x, self.y))


@dataclass(frozen=True)
class CropParameters:
    """What LINTUL3 needs of a crop: the published names in lower case; weights in g/m2, concentrations in g/g."""

    dvsi: float
    """Development stage at emergence; 1 is anthesis."""
    dvsend: float
    """Development stage at maturity."""
    dvsdr: float
    """Development stage from which roots die of age."""
    dvsnlt: float
    """Development stage from which no nitrogen is taken up."""
    dvsnt: float
    """Development stage above which nitrogen moves to the grain."""
    tsum1: float
    """Temperature sum from emergence to anthesis, degree days."""
    tsum2: float
    """Temperature sum from anthesis to maturity, degree days."""
    dlo: float
    """Day length from which development is not slowed, h."""
    dlc: float
    """Day length below which nothing develops, h."""
    idsl: float
    """0: day length has no effect before anthesis; 1: it has."""
    tbase: float
    """Temperature above which leaves expand, degrees Celsius."""
    tsumag: float
    """Temperature sum from which leaves age, degree days."""
    k: float
    """Extinction of light in the canopy."""
    lue: float
    """Light use efficiency, g/MJ of absorbed PAR."""
    rgrl: float
    """Relative growth of leaf area in the juvenile stage, per degree day."""
    slac: float
    """Specific leaf area, m2/g."""
    laicr: float
    """Leaf area index above which leaves die of shade."""
    rdrshm: float
    """Relative death of leaves by shade, 1/d."""
    rdrns: float
    """Relative death of leaves by lack of nitrogen, 1/d."""
    rdrrt: float
    """Relative death of roots, 1/d."""
    rootdi: float
    """Rooting depth at emergence, m."""
    rootdm: float
    """Greatest rooting depth, m."""
    rrdmax: float
    """Growth of rooting depth, m/d."""
    tranco: float
    """Tolerance of drought, mm/d."""
    nlai: float
    """Effect of nitrogen stress on juvenile leaf area."""
    nlue: float
    """Effect of nitrogen stress on light use."""
    npart: float
    """Effect of nitrogen stress on the leaves' share of growth."""
    nsla: float
    """Effect of nitrogen stress on specific leaf area."""
    fntrt: float
    """Nitrogen translocated from roots, as a share of that from leaves and stem."""
    frnx: float
    """Critical nitrogen concentration as a share of the greatest."""
    lrnr: float
    """Greatest nitrogen concentration of roots as a share of the leaves'."""
    lsnr: float
    """Greatest nitrogen concentration of stems as a share of the leaves'."""
    nmaxso: float
    """Greatest nitrogen concentration of the grain."""
    rnflv: float
    """Residual nitrogen concentration of leaves."""
    rnfst: float
    """Residual nitrogen concentration of stems."""
    rnfrt: float
    """Residual nitrogen concentration of roots."""
    tcnt: float
    """Time coefficient of translocation, d."""
    nfrlvi: float
    """Nitrogen concentration of leaves at emergence."""
    nfrsti: float
    """Nitrogen concentration of stems at emergence."""
    nfrrti: float
    """Nitrogen concentration of roots at emergence."""
    wlvgi: float
    """Green leaves at emergence."""
    wsti: float
    """Stems at emergence."""
    wrtli: float
    """Roots at emergence."""
    wsoi: float
    """Grain at emergence."""
    dtsmtb: Table
    """Daily gain of temperature sum, by mean temperature."""
    rdrt: Table
    """Relative death of leaves by age, 1/d, by mean temperature."""
    slacf: Table
    """Correction of specific leaf area, by development stage."""
    nmxlv: Table
    """Greatest nitrogen concentration of leaves, by development stage."""
    frttb: Table
    """Share of growth to roots, by development stage."""
    flvtb: Table
    """Share of above-ground growth to leaves, by development stage."""
    fsttb: Table
    """Share of above-ground growth to stems, by development stage."""
    fsotb: Table
    """Share of above-ground growth to grain, by development stage."""


@cache
def spring_wheat() -> CropParameters:
    """The spring wheat of the installed ``pcse`` package.

    Raises:
        RuntimeError: the package or the file is missing, or the file lacks a parameter.
    """
    spec = importlib.util.find_spec("pcse")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the package pcse, which brings the parameters of wheat, is not installed. Run: make setup")
    return read_crop_parameters(
        Path(spec.submodule_search_locations[0], "tests", "test_data", "lintul3_springwheat.crop")
    )


def read_crop_parameters(path: Path) -> CropParameters:
    """Read a crop file in pcse's form. Raises RuntimeError naming the file and what is missing or malformed in it."""
    try:
        values = _assignments(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise RuntimeError(f"{path}: cannot be read as a crop file ({error}). Reinstall pcse: make setup") from error
    names = [field.name for field in fields(CropParameters)]
    missing = [name.upper() for name in names if name not in values]
    if missing:
        raise RuntimeError(f"{path}: has no {', '.join(missing)}. Reinstall pcse in the pinned version: make setup")
    return CropParameters(**{name: values[name] for name in names})  # type: ignore[arg-type]  # by name, from a file


def _assignments(text: str) -> dict[str, float | Table]:
    """All ``NAME = value`` by lower-case name; of a name given twice the last counts, as it does for pcse."""
    values: dict[str, float | Table] = {}
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            value = ast.literal_eval(statement.value)
            name = statement.targets[0].id.lower()
            values[name] = Table(tuple(value[0::2]), tuple(value[1::2])) if isinstance(value, list) else float(value)
    return values
