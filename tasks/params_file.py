"""A YAML file read with its line numbers, and complaints about it that name file, line, key and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Key = tuple[str | int, ...]


class ParamsError(Exception):
    """The parameters cannot be used; the message has one line per fault: file, line, key, fault, remedy."""


class LinedFile:
    """What a YAML file says, and on which line it says it."""

    def __init__(self, path: Path) -> None:
        """Read ``path``. Raises ParamsError for a file that is absent, not YAML or has a key twice."""
        self.path = path
        self.lines: dict[Key, int] = {}
        text = self._text()
        try:
            tree = yaml.compose(text, Loader=yaml.SafeLoader)
            if not isinstance(tree, yaml.MappingNode):
                raise ParamsError(f"{path}:1: no keys found. Start from the params.yaml that came with the project.")
            self._walk(tree, ())
            self.content: dict[Any, Any] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ParamsError(self._syntax(error)) from error
        except RecursionError as error:
            raise ParamsError(f"{path}:1: nested too deeply, or an alias that holds itself. Write it out.") from error

    def _text(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise ParamsError(f"{self.path}: no such file. Run the command in the project's folder.") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ParamsError(f"{self.path}: cannot be read as UTF-8 text ({error}). Restore it from git.") from error

    def _syntax(self, error: yaml.YAMLError) -> str:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
        return (
            f"{self.path}:{line}: not valid YAML ({problem}). Check indentation, colons and brackets around this line."
        )

    def _walk(self, node: yaml.Node, key: Key) -> None:
        if isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                self.lines[*key, i] = item.start_mark.line + 1
                self._walk(item, (*key, i))
        elif isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for name, item in node.value:
                here = name.start_mark.line + 1
                if name.value in seen:
                    raise ParamsError(
                        f"{self.path}:{here}: {dotted((*key, name.value))}: given twice, first on line "
                        f"{seen[name.value]}. Delete one of the two."
                    )
                seen[name.value] = self.lines[*key, name.value] = here
                self._walk(item, (*key, name.value))

    def line(self, key: Key) -> int:
        """Line of ``key``, or of the nearest part of it that is in the file."""
        while key and key not in self.lines:
            key = key[:-1]
        return self.lines.get(key, 1)

    def complain(self, faults: Iterable[tuple[Key, str]]) -> ParamsError:
        """One error for all ``faults``, in the order of the file."""
        ordered = sorted(faults, key=lambda fault: self.line(fault[0]))
        return ParamsError("\n".join(f"{self.path}:{self.line(key)}: {dotted(key)}: {text}" for key, text in ordered))


def dotted(key: Key) -> str:
    """``("sites", "a", "crops", 0)`` as ``sites.a.crops[0]``."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def nearest(name: str, valid: Iterable[str]) -> str:
    """A sentence that names the valid name nearest to ``name``, or all valid ones if none is near."""
    options = sorted(valid)
    folded = {option.casefold(): option for option in options}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return f"Did you mean {folded[close[0]]}?" if close else f"Valid here: {', '.join(options) or 'none'}."


def explain(error: ValidationError, model: type[BaseModel]) -> list[tuple[Key, str]]:
    """Each fault pydantic found, as (key, what is wrong and what to do)."""
    return [(_key(detail), _text(detail, model)) for detail in error.errors()]


def _key(detail: ErrorDetails) -> Key:
    return tuple(part for part in detail["loc"] if part != "[key]")


def _text(detail: ErrorDetails, model: type[BaseModel]) -> str:
    key, kind, value = _key(detail), detail["type"], detail["input"]
    owner = _model_at(model, key[:-1])
    if kind == "extra_forbidden":
        return f"unknown key. {nearest(str(key[-1]), owner.model_fields if owner else ())}"
    if kind == "missing":
        field = owner.model_fields.get(str(key[-1])) if owner else None
        return f"missing. Add it: {field.description if field and field.description else 'see tasks/params.py'}"
    if kind == "literal_error":
        options = [word.strip("'") for word in detail["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        return f"unknown name {value!r}. {nearest(str(value), options)}"
    return f"{_sentence(detail['msg'])}, got {_shown(value)}. {_remedy(owner, key, value)}".rstrip()


def _sentence(message: str) -> str:
    text = message.removeprefix("Value error, ").removeprefix("Input ")
    return text[:1].lower() + text[1:]


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "a group of keys"
    return repr(list(value) if isinstance(value, tuple) else value)


def _remedy(owner: type[BaseModel] | None, key: Key, value: object) -> str:
    if isinstance(value, str) and _is_number(value):
        return "Write it without quotes, and 1e-3 as 1.0e-3: YAML takes this for text."
    name = next((part for part in reversed(key) if isinstance(part, str)), "")
    field = owner.model_fields.get(name) if owner else None
    return f"It is: {field.description}" if field and field.description else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _model_at(model: type[BaseModel], key: Key) -> type[BaseModel] | None:
    """The model that holds the keys under ``key``; of a list, the model that holds the list."""
    here = model
    annotation: Any = model
    for part in key:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            here = annotation
            if part not in annotation.model_fields:
                return None
            annotation = annotation.model_fields[str(part)].annotation
        elif getattr(annotation, "__origin__", None) is dict:
            annotation = annotation.__args__[1]
        else:
            return here
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else here
