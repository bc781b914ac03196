"""Tables of a TOML file as frozen dataclasses; errors name file, line and key."""

from __future__ import annotations

import re
import types
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from nbcore.errors import ConfigError, NbcoreError, did_you_mean

_Section = TypeVar("_Section")
_WORDS = {
    str: "a string",
    Path: "a string, the path of a file",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a table",
}


SYNONYMS = {
    "file": "path", "filename": "path", "csv": "path", "data": "path", "train": "path",
    "train_path": "path", "test": "test_path", "y": "target", "label": "target",
    "x": "features", "inputs": "features", "columns": "features", "sep": "delimiter",
    "separator": "delimiter", "model": "name", "architecture": "name", "lr": "learning_rate",
    "num_epochs": "epochs", "sampler": "backend", "draws": "num_samples", "warmup": "num_warmup",
    "chains": "num_chains", "mode": "method",
}  # fmt: skip
"""Words of other programs for our keys."""


@dataclass(frozen=True)
class Source:
    """A TOML file during reading.

    Args:
        path: the file.
        text: its contents.
    """

    path: Path
    text: str

    def place(self, section: str, key: str = "") -> str:
        """Return the place of a key, such as `config.toml, line 4, [data]`."""
        line = self._line(section, key)
        parts = [str(self.path), f"line {line}" if line else "", f"[{section}]" if section else ""]
        return ", ".join(part for part in parts if part)

    def _line(self, section: str, key: str) -> int | None:
        """Return the line of a key (of a section, without one), if it can be found."""
        inside = ""
        for number, line in enumerate(self.text.splitlines(), 1):
            header = re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line)
            if header:
                inside = header[1]
                if (not key and inside == section) or inside == f"{section}.{key}".strip("."):
                    return number
            elif key and inside == section and re.match(rf"\s*[\"']?{re.escape(key)}\b", line):
                return number
        return None

    @contextmanager
    def blame(self, section: str) -> Generator[None]:
        """Turn errors about the contents of a section into errors that name the section."""
        try:
            yield
        except ConfigError:
            raise
        except NbcoreError as error:
            raise ConfigError(f"{self.place(section)}: {error}") from error

    def read(self, section: str, cls: type[_Section], table: Any) -> _Section:
        """Return a table as a dataclass.

        Raises:
            ConfigError: unknown, missing or ill-typed keys, or values that the class refuses.
        """
        if not isinstance(table, dict):
            raise ConfigError(f"{self.place('', section)}: {section} must be a table, [{section}].")
        hints = get_type_hints(cls)
        names = [f.name for f in fields(cls)]  # type: ignore[arg-type]  a dataclass
        self.check_keys(section, table, names)
        for f in fields(cls):  # type: ignore[arg-type]
            if f.name not in table and f.default is MISSING and f.default_factory is MISSING:
                raise ConfigError(
                    f"{self.place(section)}: the key {f.name!r} is missing; expected "
                    f"{expected(hints[f.name])}."
                )
        self.check_types(section, table, hints)
        values = {key: _converted(value, hints[key]) for key, value in table.items()}
        with self.blame(section):
            return cls(**values)

    def check_keys(self, section: str, table: Mapping[str, Any], known: list[str]) -> None:
        """Check that every key of a table is known."""
        for key in table:
            if key not in known:
                meant = SYNONYMS.get(key.lower(), key)
                hint = f" Did you mean {meant!r}?" if meant in known else did_you_mean(key, known)
                raise ConfigError(
                    f"{self.place(section, key)}: unknown key {key!r}.{hint} "
                    f"Possible: {', '.join(known)}."
                )

    def check_types(self, section: str, table: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
        """Check values against type hints; hints that TOML cannot express are ignored."""
        for key, value in table.items():
            if key in hints and not _fits(value, hints[key]):
                raise ConfigError(
                    f"{self.place(section, key)}: {key} is {value!r}; expected "
                    f"{expected(hints[key])}."
                )


def expected(hint: Any) -> str:
    """Return in words what a type hint expects.

    Examples:
        >>> expected(int | None), expected(tuple[str, ...]), expected(Literal["a", "b"])
        ('a whole number', 'a list, each a string', "'a' or 'b'")
    """
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(expected(part) for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"a list, each {expected(get_args(hint)[0])}"
    return _WORDS.get(get_origin(hint) or hint, str(hint))


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if hint is type(None):
        return value is None
    if origin is Literal:
        return value in get_args(hint)
    if origin is tuple:
        return isinstance(value, list) and all(_fits(v, get_args(hint)[0]) for v in value)  # pyright: ignore[reportUnknownVariableType]
    if hint is bool or isinstance(value, bool):
        return isinstance(value, bool) and (hint is bool or hint not in _WORDS)
    if hint is float:
        return isinstance(value, int | float)
    if hint is Path:
        return isinstance(value, str)
    plain = origin or hint
    return isinstance(value, plain) if plain in _WORDS else True


def _converted(value: Any, hint: Any) -> Any:
    """Return a value converted to its type hint: lists to tuples, strings to paths."""
    hints = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if Path in hints:
        return Path(value)
    return tuple(value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
