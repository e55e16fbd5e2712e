"""A module that numba can compile, rewritten by a program from the source of the installed ``aquacrop`` package.

The science has no second copy: every equation is the package's own text. What is rewritten is only what numba cannot
take or what would be slow:

- objects become records (``tasks.crops.aquacrop_records``), and the state is written into instead of returned; small
  objects that live within one function become variables; words that choose between two formulas become numbers;
- powers are C's, as Python's are; ``is True`` becomes ``== True``; ``argwhere(...).flatten()[0]`` and
  ``sum(... < ...)`` become loops without an array;
- of the day's step the bookkeeping goes: dates, outputs, and the calls for groundwater and tile drains, which
  ``tasks.crops.aquacrop_records`` refuses.

Everything expected in the source is counted, so that a package that looks different fails here and not in the field.
"""

from __future__ import annotations

import ast
import inspect
import sys
from importlib import import_module
from importlib.metadata import version
from typing import ClassVar

from tasks.crops import aquacrop_driver

AQUACROP_VERSION = "3.1.0"
"""The one version whose private parts were read and measured."""

MODULES = (
    "adjust_CCx", "aeration_stress", "biomass_accumulation", "canopy_cover", "cc_development", "cc_required_time",
    "drainage", "evap_layer_water_content", "germination", "growing_degree_day", "growth_stage", "harvest_index",
    "HIadj_pollination", "HIadj_post_anthesis", "HIadj_pre_anthesis", "HIref_current_day", "infiltration", "irrigation",
    "pre_irrigation", "rainfall_partition", "root_development", "root_zone_water", "soil_evaporation",
    "temperature_stress", "transpiration", "update_CCx_CDC", "water_stress",
)  # fmt: skip
"""Functions of ``aquacrop.solution`` a day of a crop without groundwater passes through."""

_OBJECTS = {
    "TAW": ("Rz", "Zt"),
    "Dr": ("Rz", "Zt"),
    "Ksw": ("exp", "sto", "sen", "pol", "sto_lin"),
    "Kst": ("PolH", "PolC"),
    "RootZoneWater": ("Act", "S", "FC", "WP", "Dry", "Aer"),
}
_WORDS = {"Growth": 1, "Decline": 2, "CGC": 3, "CDC": 4}
_STATE = "NewCond"
_ARRAYS = frozenset({"th", "th_fc_Adj", "aer_days_comp"})
_OMITTED = ("check_groundwater_table", "capillary_rise", "groundwater_inflow", "tile_drainage")
_STEP_ARGUMENTS = ("NewCond", "Crop_", "Soil", "prof", "CO2", "IrrMngt", "FieldMngt", "step", "weather_step")
_WEATHER = ("precipitation", "temp_max", "temp_min", "et0")
_KEPT, _DROPPED = 34, 12
_HEAD = '''"""Generated from aquacrop {version}; see tasks.crops.aquacrop_source."""
import math
from typing import NamedTuple

import numpy as np
from numba import njit

{objects}

@njit(cache=True, error_model="numpy")
def _pow(base, exponent):
    return math.pow(base, float(exponent))


@njit(cache=True, error_model="numpy")
def _first_ge(values, limit):
    for i in range(values.shape[0]):
        if values[i] >= limit:
            return i
    raise IndexError("roots or layers reach below the soil profile")


@njit(cache=True, error_model="numpy")
def _first_eq(values, limit):
    for i in range(values.shape[0]):
        if values[i] == limit:
            return i
    raise IndexError("roots or layers reach below the soil profile")


@njit(cache=True, error_model="numpy")
def _count_lt(values, limit):
    count = 0
    for i in range(values.shape[0]):
        count += values[i] < limit
    return count


@njit(cache=True, error_model="numpy")
def _count_le(values, limit):
    count = 0
    for i in range(values.shape[0]):
        count += values[i] <= limit
    return count

'''


class SourceError(RuntimeError):
    """The installed package is not the one this program was written for; the message says what to install."""


def module_source() -> str:
    """The module's text. Raises SourceError if another version of aquacrop is installed."""
    installed = version("aquacrop")
    if installed != AQUACROP_VERSION:
        raise SourceError(
            f"aquacrop {installed} is installed, but maize needs exactly {AQUACROP_VERSION}, whose private parts it"
            f" uses; install it with: pip install aquacrop=={AQUACROP_VERSION}"
        )
    import_module("aquacrop.core")  # loads the modules read below

    objects = "\n".join(
        f"class {name}_(NamedTuple):\n" + "".join(f"    {field}: float\n" for field in fields)
        for name, fields in _OBJECTS.items()
    )
    parts = [_HEAD.format(version=AQUACROP_VERSION, objects=objects)]
    parts += [_function(name) for name in _in_order()]
    ours = [_text(_parsed(aquacrop_driver.__name__, name)) for name in aquacrop_driver.FUNCTIONS]
    return "\n\n".join([*parts, _step(), *ours]) + "\n"


def _parsed(module: str, name: str) -> ast.FunctionDef:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    if len(found) != 1:
        raise SourceError(f"{module} has {len(found)} functions named {name}; reinstall aquacrop=={AQUACROP_VERSION}")
    return found[0]


def _in_order() -> list[str]:
    """Functions after those they call: numba resolves names when it compiles."""
    calls = {
        name: {
            node.func.id
            for node in ast.walk(_parsed(f"aquacrop.solution.{name}", name))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MODULES
        }
        for name in MODULES
    }
    ordered: list[str] = []
    while len(ordered) < len(MODULES):
        ordered += [name for name in MODULES if name not in ordered and calls[name] <= {*ordered, name}]
    return ordered


def _function(name: str) -> str:
    return _text(_parsed(f"aquacrop.solution.{name}", name))


def _text(node: ast.FunctionDef) -> str:
    for argument in node.args.args:
        argument.annotation = None
    node.returns = None
    node.decorator_list = []
    if isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant):
        del node.body[0]
    rewritten = _Rewriter(_rebound(node)).visit(node)
    return '@njit(cache=True, error_model="numpy")\n' + ast.unparse(ast.fix_missing_locations(rewritten))


def _rebound(node: ast.FunctionDef) -> set[str]:
    """Names that first hold a small object and then a number."""
    made: set[str] = set()
    other: set[str] = set()
    for each in ast.walk(node):
        if isinstance(each, ast.Assign) and len(each.targets) == 1 and isinstance(each.targets[0], ast.Name):
            (made if _object_made(each.value) else other).add(each.targets[0].id)
    return made & other


def _object_made(value: ast.expr) -> str | None:
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and not value.args:
        return value.func.id if value.func.id in _OBJECTS else None
    return None


def _without_state(values: ast.Tuple) -> ast.expr:
    kept = [each for each in values.elts if not (isinstance(each, ast.Name) and each.id == _STATE)]
    return kept[0] if len(kept) == 1 else ast.Tuple(kept, values.ctx)


def _looped(what: str, call: ast.Call) -> ast.expr:
    """A loop's call instead of a function of a whole array of truths."""
    condition = call.args[0]
    assert isinstance(condition, ast.Compare)
    kind = {ast.GtE: "ge", ast.Eq: "eq", ast.Lt: "lt", ast.LtE: "le"}[type(condition.ops[0])]
    return ast.Call(ast.Name(f"{what}_{kind}", ast.Load()), [condition.left, condition.comparators[0]], [])


class _Rewriter(ast.NodeTransformer):
    """One function; see the module."""

    def __init__(self, rebound: set[str]) -> None:
        self._rebound = rebound
        self._objects: dict[str, str] = {}

    def visit_Assign(self, node: ast.Assign) -> ast.AST | list[ast.AST] | None:
        target = node.targets[0]
        if isinstance(target, ast.Name):
            if target.id == "class_args":  # a view of an object for debugging, used by nobody
                return None
            kind = _object_made(node.value)
            if kind is not None:
                self._objects[target.id] = kind
                zeros = f"{target.id}__{{}} = 0.0"
                return [ast.parse(zeros.format(field)).body[0] for field in _OBJECTS[kind]]
            if target.id == _STATE and isinstance(node.value, ast.Call):  # it was written into, nothing comes back
                return ast.copy_location(ast.Expr(self.visit(node.value)), node)
        elif isinstance(target, ast.Tuple):
            node.targets = [_without_state(target)]
        return self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> ast.AST:
        if isinstance(node.value, ast.Tuple):
            node.value = _without_state(node.value)
        elif isinstance(node.value, ast.Name) and node.value.id == _STATE:
            node.value = None
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id in self._objects:
            return ast.copy_location(ast.Name(f"{node.value.id}__{node.attr}", node.ctx), node)
        self.generic_visit(node)
        if isinstance(node.ctx, ast.Store) and node.attr in _ARRAYS:
            whole = ast.Attribute(node.value, node.attr, ast.Load())
            return ast.copy_location(ast.Subscript(whole, ast.Slice(), ast.Store()), node)
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        kind = self._objects.get(node.id)
        if kind is None or isinstance(node.ctx, ast.Store) or node.id in self._rebound:
            return node
        fields = ", ".join(f"{node.id}__{field}" for field in _OBJECTS[kind])
        return ast.parse(f"{kind}_({fields})", mode="eval").body

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        node.ops = [ast.Eq() if isinstance(op, ast.Is) else op for op in node.ops]
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.op, ast.Pow):  # numba multiplies out whole powers, which rounds otherwise than C's pow
            call = ast.Call(ast.Name("_pow", ast.Load()), [node.left, node.right], [])
            return ast.copy_location(call, node)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, str):
            if node.value not in _WORDS:
                raise SourceError(f"aquacrop uses the word '{node.value}', which is not known here")
            return ast.copy_location(ast.Constant(_WORDS[node.value]), node)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        match node:
            case ast.Subscript(
                ast.Call(ast.Attribute(ast.Call(ast.Attribute(attr="argwhere")) as found, "flatten")), ast.Constant(0)
            ):
                return _looped("_first", found)
        self.generic_visit(node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if ast.unparse(node.func) == "np.sum" and isinstance(node.args[0], ast.Compare):
            return _looped("_count", node)
        self.generic_visit(node)
        smallest = isinstance(node.func, ast.Name) and node.func.id in ("min", "max")
        if smallest and len(node.args) == 1 and isinstance(node.args[0], ast.List):
            node.args = node.args[0].elts
        return node


class _StepNames(ast.NodeTransformer):
    """What the day's step takes from structures that are not there."""

    _SAME: ClassVar[dict[str, str]] = {
        "Soil.Profile": "prof",
        "param_struct.water_table": "0",
        "clock_struct.time_step_counter": "step",
        "clock_struct.evap_time_steps": "20",
        "clock_struct.sim_off_season": "False",
    }

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        same = self._SAME.get(ast.unparse(node))
        if same is not None and isinstance(node.ctx, ast.Load):
            return ast.parse(same, mode="eval").body
        self.generic_visit(node)
        return node


def _step() -> str:
    """The day's step within the season, from its first counter on."""
    node = _parsed("aquacrop.timestep.run_single_timestep", "solution_single_time_step")
    body = node.body
    first = next(i for i, each in enumerate(body) if ast.unparse(each).startswith("if growing_season is True:"))
    kept = [each for each in body[:first] if ast.unparse(each).partition(" = ")[0] in _WEATHER]
    dropped: list[ast.stmt] = []
    for each in body[first:]:
        text = ast.unparse(each)
        gone = any(word in text for word in ("outputs", "row_day", "row_gs", *(f"{name}(" for name in _OMITTED)))
        (dropped if gone else kept).append(each)
    if len(kept) != _KEPT or len(dropped) != _DROPPED:
        raise SourceError(
            f"aquacrop's day step looks different ({len(kept)} and {len(dropped)} statements);"
            f" reinstall aquacrop=={AQUACROP_VERSION}"
        )
    node.name = "day"
    node.args = ast.arguments([], [ast.arg(name) for name in _STEP_ARGUMENTS], None, [], [], None, [])
    start = ast.parse("growing_season = True").body
    node.body = [*start, *(_StepNames().visit(each) for each in kept)]
    return _text(node)
