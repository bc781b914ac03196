"""Four walks through the code, counted: the files passed, and the climbs back to a room above.

    python tests/benchmarks/walks.py            # prints the walks
    python tests/benchmarks/walks.py --write    # also writes them into docs/architecture.md

A walk follows one value through a small real run. It passes a file when a function of that file is
handed the value, or what holds it, for the first time; a function that was passed before is not
counted again. When a function hands the value to one callee after another, the walk comes back to
it in between. A climb is a step to a room that imports the one which is left.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rooms import OUTSIDE, PAGE, ROOT, room_order, with_block

import nbcore as nb
from nbcore.networks.network import Network
from nbcore.selection.select import select_bayesian_components
from nbcore.targets.target import Target


class Place(NamedTuple):
    """A file: the room it is in (of a backend or a plugin, its package), and its name there."""

    room: str
    name: str

    @staticmethod
    @functools.cache
    def of(code: CodeType) -> Place | None:
        """Return where code is; `None` if no reader would stop there."""
        path = Path(code.co_filename)
        if not path.is_relative_to(ROOT):
            return None
        match path.relative_to(ROOT).with_suffix("").parts:
            case ("nbcore", "__init__" | "extend") | ("nbcore", "common", "pytrees" | "quick"):
                return None  # names are looked up, and JAX flattens dataclasses and compiles
            case ("nbcore", room, *names):
                return Place(room, "/".join(names) or room)
            case (package, room, *names) if package in OUTSIDE:
                return Place(room, "/".join(names))
        return None


@dataclasses.dataclass(frozen=True)
class Walk:
    """The files that a value passes, in order."""

    title: str
    places: tuple[Place, ...]

    @property
    def num_files(self) -> int:
        """Number of files, each counted once."""
        return len(set(self.places))

    @property
    def climbs(self) -> tuple[tuple[Place, Place], ...]:
        """The steps to a room above: one that imports the room which is left."""
        order = room_order()
        height = {room: n for n, room in enumerate(order)}
        return tuple(
            (a, b)
            for a, b in itertools.pairwise(self.places)
            if height.get(b.room, len(order)) > height.get(a.room, len(order))
        )

    def __str__(self) -> str:
        """The title with the counts, then a line for each stay in a room; ↑ marks a climb."""
        lines = [f"{self.title}: {self.num_files} files, climbs: {len(self.climbs)}"]
        before = None
        for room, places in itertools.groupby(self.places, key=lambda place: place.room):
            stay = list(places)
            climbed = before is not None and (before, stay[0]) in self.climbs
            names = " → ".join(dict.fromkeys(place.name for place in stay))
            lines += textwrap.wrap(
                f"  {'↑' if climbed else ' '} {room:<15} {names}", 98, subsequent_indent=" " * 22
            )
            before = stay[-1]
        return "\n".join(lines)


class Arrived(BaseException):
    """The walk is at its end; what the run would do then is not waited for."""


class Recorder:
    """A profile function that notes the calls which are handed a value.

    Args:
        is_value: whether an object is the value; containers and dataclasses are searched.
        first: code of the function at whose call the walk begins; `None` is at once.
        last: code of the function at whose return the walk ends; `None` is never.
    """

    def __init__(
        self, is_value: Callable[[Any], bool], first: CodeType | None, last: CodeType | None
    ) -> None:
        self.is_value, self.first, self.last = is_value, first, last
        self.running = first is None
        self.seen: set[CodeType] = set()
        self.places: list[Place] = []

    def __call__(self, frame: FrameType, event: str, result: Any) -> None:
        """Note a call; begin and end where the walk does."""
        code = frame.f_code
        if event == "call":
            place = Place.of(code)
            begins = code is self.first and not self.running
            self.running |= begins
            if not self.running or place is None or code in self.seen:
                return
            if begins or self._is_handed(frame):
                self.seen.add(code)
                self._step_to(self._caller(frame))
                self._step_to(place)
        elif event == "return" and code is self.last and self.running:
            raise Arrived

    def _step_to(self, place: Place | None) -> None:
        if place and self.places[-1:] != [place]:
            self.places.append(place)

    def _caller(self, frame: FrameType) -> Place | None:
        above = frame.f_back
        while above is not None and Place.of(above.f_code) is None:
            above = above.f_back
        return (above and self.places and Place.of(above.f_code)) or None

    def _is_handed(self, frame: FrameType) -> bool:
        code = frame.f_code
        count = code.co_argcount + code.co_kwonlyargcount
        count += bool(code.co_flags & 4) + bool(code.co_flags & 8)  # *args and **kwargs
        names = code.co_varnames[:count]
        return any(self._holds(frame.f_locals.get(name), 5) for name in names)

    def _holds(self, value: Any, depth: int) -> bool:
        if self.is_value(value):
            return True
        if (
            depth == 0 or Network in type(value).__mro__ or isinstance(value, type)
        ):  # a network remembers an example
            return False
        parts: Any = ()
        if isinstance(value, dict):
            parts = value.values()
        elif isinstance(value, list | tuple):
            parts = value
        elif dataclasses.is_dataclass(value):
            parts = (getattr(value, field.name, None) for field in dataclasses.fields(value))
        return any(self._holds(part, depth - 1) for part in parts)


@contextmanager
def recorded(recorder: Recorder) -> Iterator[None]:
    """Record the calls of this thread, and of those that it starts."""
    threading.setprofile(recorder)
    sys.setprofile(recorder)
    try:
        yield
    except Arrived:
        pass
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


@jax.tree_util.register_pytree_with_keys_class
class Followed(dict[str, Any]):
    """A dict that stays of this type through slices, conversions and compiled functions."""

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
        """Return keys and values in order, and the keys again."""
        keys = tuple(sorted(self))
        return [(jax.tree_util.DictKey(key), self[key]) for key in keys], keys

    @classmethod
    def tree_unflatten(cls, keys: tuple[str, ...], values: Any) -> Followed:
        """Return the dict of keys and values."""
        return cls(zip(keys, values, strict=True))


def is_followed(value: Any) -> bool:
    """Whether a value is a `Followed` dict."""
    return isinstance(value, Followed)


def is_traced(value: Any) -> bool:
    """Whether a value is computed from the position, within a function that is traced for it."""
    return isinstance(value, jax.core.Tracer)


def is_drawn(value: Any) -> bool:
    """Whether a value is a draw, is computed from draws, or is what they predict."""
    return is_followed(value) or is_traced(value) or isinstance(value, nb.Prediction)


def is_array(value: Any) -> bool:
    """Whether a value is an array, such as scores and the pairs chosen by them."""
    return isinstance(value, np.ndarray | jax.Array)


# A small network, its data, and what is sampled of it.


def make_network() -> tuple[Callable[..., Any], Callable[..., jax.Array]]:
    """Return a network with a hidden layer, for which nothing has been compiled before."""

    def init(key: jax.Array, x: Any) -> Any:
        del x
        hidden, out = jax.random.split(key)
        return {
            "hidden": {"kernel": 0.5 * jax.random.normal(hidden, (2, 4))},
            "out": {"kernel": 0.5 * jax.random.normal(out, (4, 1))},
        }

    def apply(params: Any, x: Any) -> jax.Array:
        return jnp.tanh(x["table"] @ params["hidden"]["kernel"]) @ params["out"]["kernel"]

    return init, apply


NET = make_network()
PARAMS = NET[0](jax.random.key(0), None)
rng = np.random.default_rng(0)
X = {"table": rng.normal(size=(40, 2)).astype(np.float32)}
y = rng.normal(size=40)
subset = nb.ProbabilisticSubset.pairs({"out": [(0, 0), (2, 0)]})
short: dict[str, Any] = {"num_warmup": 5, "num_samples": 5, "num_chains": 1, "progress": False}


def position() -> Walk:
    """Follow a position through one step of the sampler."""
    target = nb.Target.build(make_network(), PARAMS, subset, X, y)
    kernel = nb.get_backend("numpyro-nuts").kernel(5)
    key = jax.random.key(1)
    state = kernel.init(key, target, (), target.initial_position())
    recorder = Recorder(is_traced, kernel.step.__code__, Target.log_density.__code__)
    recorder.last = type(target).log_density.__code__
    with recorded(recorder):
        jax.make_jaxpr(lambda state: kernel.step(key, target, (), state, 0))(state)
    return Walk("A position, from the sampler to its log density", tuple(recorder.places))


def params_through_fit() -> Walk:
    """Follow the trained parameters through `fit`, until the log density holds them frozen."""
    trained = Followed(PARAMS)
    return _through_fit("Parameters, from `fit` to frozen leaves", trained, X)


def inputs_through_fit() -> Walk:
    """Follow the inputs the same way."""
    trained = PARAMS
    return _through_fit("Inputs, from `fit` to what is computed once", trained, Followed(X))


def _through_fit(title: str, trained: Any, inputs: Any) -> Walk:
    model = nb.PartialBNN(make_network(), trained, subset=subset)
    recorder = Recorder(is_followed, nb.PartialBNN.fit.__code__, Target.build.__code__)
    with recorded(recorder):
        model.fit(inputs, y, **short)
    return Walk(title, tuple(recorder.places))


def inputs_through_training() -> Walk:
    """Follow the inputs through a fit that trains the network first."""
    model = nb.PartialBNN(make_network(), subset=subset)
    recorder = Recorder(is_followed, nb.PartialBNN.fit.__code__, Target.build.__code__)
    options = {"training": nb.TrainingOptions(epochs=2)}
    options["calibration"] = nb.CalibrationOptions("crossfit", folds=2)
    with recorded(recorder):
        model.fit(Followed(X), y, **options, **short)
    return Walk("The same, with training", tuple(recorder.places))


def draw() -> Walk:
    """Follow the draws to the predicted mean."""
    target = nb.Target.build(make_network(), PARAMS, subset, X, y)
    posterior = nb.sample(target, **short)
    draws = {**posterior.draws, "weights": Followed(posterior.draws["weights"])}
    posterior = dataclasses.replace(posterior, draws=draws)
    last = nb.Prediction.mean
    assert isinstance(last, property)
    assert last.fget is not None
    recorder = Recorder(is_drawn, nb.NetworkPosterior.predict.__code__, last.fget.__code__)
    with recorded(recorder):
        _ = posterior.predict(X).mean
    return Walk("A draw, to `prediction.mean`", tuple(recorder.places))


@dataclasses.dataclass(frozen=True)
class Size:
    """A selector that scores weights by their size."""

    name: ClassVar[str] = "size"
    needs: ClassVar[frozenset[str]] = frozenset()

    def score(self, context: Any, layer: Any) -> dict[str, Any]:
        """Return the size of every weight of a layer."""
        kernel = context.params[layer.name]["kernel"]
        return {f"{layer.name}/kernel": np.abs(kernel)}


def score() -> Walk:
    """Follow the scores of a selector to a subset."""
    det = nb.DeterministicNN(make_network()).train(X, y, epochs=1, progress=False)
    recorder = Recorder(is_array, Size.score.__code__, select_bayesian_components.__code__)
    with recorded(recorder):
        nb.select_bayesian_components(det, "hidden", Size(), num_pairs_per_layer=2)
    return Walk("A selector's score, to a subset", tuple(recorder.places))


WALKS = (position, params_through_fit, inputs_through_fit, inputs_through_training, draw, score)


def as_block(walks: list[Walk]) -> str:
    """Return the walks as they stand in the page."""
    text = "\n\n".join(map(str, walks))
    return f"```text\n{text}\n```"


def main() -> None:
    """Print the walks, and write them into the page if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"write them into {PAGE.name}")
    write = parser.parse_args().write
    walks = [walk() for walk in WALKS]
    print("\n\n".join(map(str, walks)))
    if write:
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(with_block(text, "walks", as_block(walks)), encoding="utf-8")


if __name__ == "__main__":
    main()
