"""The configuration of `nbcore run`: one dataclass for each section of the file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from nbcore.cli.typed import Source
from nbcore.distributions.likelihoods import (
    Gaussian,
    Heteroskedastic,
    Likelihood,
    Poisson,
    StudentT,
)
from nbcore.errors import ConfigError, OptionError
from nbcore.estimators.options import FOLDS, Calibration, CalibrationOptions, TrainingOptions
from nbcore.estimators.prior_scale import checked_prior
from nbcore.estimators.sampler import SamplerPreset
from nbcore.sampling.driver import ChainMethod, check_steps
from nbcore.selection.ranking import Budget

TEST_FRACTION = 0.2
OPTIONAL = ("likelihood", "training", "select", "sample", "calibration")


@dataclass(frozen=True)
class DataSection:
    """Section `[data]`: the files, and the meaning of their columns.

    Args:
        path: CSV file, relative to the configuration file.
        target: column of y.
        smiles: column of SMILES strings.
        features: numeric columns; either these or `smiles`.
        groups: column of groups, such as patients or compounds that were measured twice. Rows of
            one group are never split between training, folds and test.
        test_path: CSV file with the test rows.
        test_fraction: fraction of the rows of `path` to test on; a fifth if no `test_path` is.
        seed: seed of that split; the seed of the run by default.
        delimiter: character between cells.
    """

    path: Path
    target: str
    smiles: str | None = None
    features: tuple[str, ...] | None = None
    groups: str | None = None
    test_path: Path | None = None
    test_fraction: float | None = None
    seed: int | None = None
    delimiter: str = ","

    def __post_init__(self) -> None:
        """Check that options do not contradict."""
        if (self.smiles is None) == (self.features is None):
            raise OptionError(
                'Say where the inputs are, in one way: smiles = "column", or features = '
                '["column", ...].'
            )
        if self.test_path is not None and self.test_fraction is not None:
            raise OptionError("Give test_path or test_fraction, not both.")
        if self.test_fraction is not None and not 0 < self.test_fraction < 1:
            raise OptionError(f"test_fraction is between 0 and 1, got {self.test_fraction}.")
        if self.target in (self.smiles, *(self.features or ())):
            raise OptionError(f"The target {self.target!r} is among the inputs as well.")


@dataclass(frozen=True)
class NetworkSection:
    """Section `[network]`: the architecture.

    Args:
        name: a network that a plugin offers, see `nbcore plugins`.
        options: its options, in the same section as the name.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class LikelihoodSection:
    """Section `[likelihood]`: the distribution of the target given the outputs.

    Args:
        name: `"gaussian"` (noise of one size), `"student-t"` (the same with heavy tails),
            `"heteroskedastic"` (the network has a second output, the log standard deviation) or
            `"poisson"` (counts).
        noise: known noise of the first two, in the units of the target.
        df: known degrees of freedom of `"student-t"`, above 2.
    """

    name: Literal["gaussian", "student-t", "heteroskedastic", "poisson"] = "gaussian"
    noise: float | None = None
    df: float | None = None

    def __post_init__(self) -> None:
        """Check that options do not contradict."""
        if self.noise is not None:
            if self.name not in ("gaussian", "student-t"):
                raise OptionError(f"{self.name} has no noise that could be known.")
            _positive(noise=self.noise)
        if self.df is not None and self.name != "student-t":
            raise OptionError(f'df needs name = "student-t", got {self.name!r}.')

    def build(self) -> Likelihood:
        """Return the likelihood."""
        if self.name == "gaussian":
            return Gaussian(noise=self.noise)
        if self.name == "student-t":
            return StudentT(noise=self.noise, df=self.df)
        return Heteroskedastic() if self.name == "heteroskedastic" else Poisson()


@dataclass(frozen=True)
class SelectSection:
    """Section `[select]`: one way of choosing weights; by default the first and output layers.

    Args:
        method: a selector, see `nbcore plugins`; `layer_names`, one of the budgets
            `num_pairs_per_layer`, `num_weights` and `fraction`, and `options` belong to it.
        layer_names: layers to choose in; all by default.
        num_pairs_per_layer: how many pairs of each layer.
        num_weights: how many weights of all layers together, biases included.
        fraction: the same, as a fraction of all weights of the network.
        options: options of the selector.
        layers: names or patterns of layers, each as a whole.
        last: the last so many hidden layers, and the outputs.
        first_and_last: the first layer and the outputs.
        everything: every weight.
    """

    method: str | None = None
    layer_names: tuple[str, ...] | None = None
    num_pairs_per_layer: int | None = None
    num_weights: int | None = None
    fraction: float | None = None
    options: dict[str, Any] | None = None
    layers: tuple[str, ...] | None = None
    last: int | None = None
    first_and_last: bool = False
    everything: bool = False

    def __post_init__(self) -> None:
        """Check that one way of choosing was used."""
        ways = ("method", "layers", "last", "first_and_last", "everything")
        given = [way for way in ways if getattr(self, way) not in (None, False)]
        if len(given) > 1:
            raise OptionError(f"Got {len(given)} ways of choosing: {', '.join(given)}. Keep one.")
        budgets = ("num_pairs_per_layer", "num_weights", "fraction")
        belonging = ("layer_names", *budgets, "options")
        alone = [name for name in belonging if getattr(self, name) is not None]
        if alone and self.method is None:
            raise OptionError(f'{alone[0]} needs a method, such as method = "variance".')
        Budget(*(getattr(self, name) for name in budgets))
        if self.last is not None:
            _at_least(0, last=self.last)


@dataclass(frozen=True)
class SampleSection:
    """Section `[sample]`: the sampler and its steps; by default those of `PartialBNN.fit`.

    Args:
        backend: a sampler, see `nbcore plugins`.
        num_warmup: warmup steps of each chain.
        num_samples: steps of each chain after warmup, of which every `thin`-th is kept:
            `num_samples // thin` draws, as in Stan and NumPyro.
        num_chains: number of chains.
        thin: see `num_samples`.
        chain_method: how chains are run, see `nb.sample`.
        prior: standard deviation of the prior around the trained weights, or `"auto"`, see
            `nb.PriorScaleSearch`.
        mesh: devices along the axes `chain` and `data`, such as `{chain = 2, data = 2}`; with
            several processes, all devices by default.
        options: options of the sampler.
    """

    backend: str | None = None
    num_warmup: int | None = None
    num_samples: int | None = None
    num_chains: int | None = None
    thin: int | None = None
    chain_method: ChainMethod = "auto"
    prior: float | Literal["auto"] = 1.0
    mesh: dict[str, int] | None = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        """Check the ranges."""
        given = {name: getattr(self, name) for name in ("num_warmup", "num_samples", "thin")}
        used = SamplerPreset().unless_given(**given, num_chains=self.num_chains)
        check_steps(used.num_warmup, used.num_samples, used.num_chains, used.thin)
        checked_prior(self.prior)
        if self.options and self.backend is None:
            object.__setattr__(self, "backend", used.backend)


@dataclass(frozen=True)
class CalibrationSection:
    """Section `[calibration]`: the estimate of the noise, see `nb.CalibrationOptions`.

    Args:
        method: `"mixture"`, `"crossfit"`, `"holdout"` or `"none"`.
        ensemble: whether several networks predict together.
        folds: number of folds.
        scale_draws: whether the variance between draws is scaled by the errors out of fold.
    """

    method: Calibration = CalibrationOptions.method
    ensemble: bool | None = CalibrationOptions.ensemble
    folds: int = FOLDS
    scale_draws: bool = CalibrationOptions.scale_draws

    def __post_init__(self) -> None:
        """Check that options do not contradict."""
        self.build()

    def build(self) -> CalibrationOptions:
        """Return the options of `fit`."""
        return CalibrationOptions(
            self.method, self.folds, self.ensemble, scale_draws=self.scale_draws
        )


@dataclass(frozen=True)
class Config:
    """A configuration.

    Args:
        source: the file it was read from.
        data: section `[data]`.
        network: section `[network]`.
        likelihood: section `[likelihood]`.
        training: section `[training]`, which are the options of `nb.TrainingOptions`.
        select: section `[select]`.
        sample: section `[sample]`.
        calibration: section `[calibration]`.
        seed: seed of everything random.
    """

    source: Source
    data: DataSection
    network: NetworkSection
    likelihood: LikelihoodSection
    training: TrainingOptions
    select: SelectSection
    sample: SampleSection
    calibration: CalibrationSection
    seed: int = 0


def read_config(path: Path) -> Config:
    """Read a configuration file.

    Raises:
        ConfigError: it cannot be read, is not TOML (the line is named), or has an unknown key
            or an impossible value (file, line, section and key are named).
    """
    source, tables = read_toml(path)
    source.check_keys("", tables, ["seed", "data", "network", *OPTIONAL])
    for name, example in (("data", 'path = "molecules.csv"'), ("network", 'name = "mlp"')):
        if name not in tables:
            raise ConfigError(f"{path}: the section [{name}] is missing. Type: [{name}] {example}")
    source.check_types("", tables, {"seed": int})
    return Config(
        source,
        beside(path, source.read("data", DataSection, tables["data"])),
        network_section(source, tables["network"]),
        source.read("likelihood", LikelihoodSection, tables.get("likelihood", {})),
        source.read("training", TrainingOptions, tables.get("training", {})),
        source.read("select", SelectSection, tables.get("select", {})),
        source.read("sample", SampleSection, tables.get("sample", {})),
        source.read("calibration", CalibrationSection, tables.get("calibration", {})),
        tables.get("seed", 0),
    )


def read_config_with(source: Source, data: DataSection, network: NetworkSection) -> Config:
    """Return a configuration of data and a network, everything else at its default."""
    return Config(
        source, data, network, LikelihoodSection(), TrainingOptions(), SelectSection(),
        SampleSection(), CalibrationSection(),
    )  # fmt: skip


def read_toml(path: Path) -> tuple[Source, dict[str, Any]]:
    """Return a TOML file and its tables.

    Raises:
        ConfigError: it cannot be read, or is not TOML (the line is named).
    """
    source = Source(path, _text(path))
    try:
        return source, tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        hint = _unquoted(source.text, str(error))
        raise ConfigError(f"{path}: this is not valid TOML: {error}.{hint}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: the file cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: the text is not UTF-8 ({error.reason}).") from error


def _unquoted(text: str, error: str) -> str:
    """Return a hint if the line that TOML cannot read has a word without quotes."""
    place = re.search(r"at line (\d+)", error)
    lines = text.splitlines()
    if not place or int(place[1]) > len(lines):
        return ""
    line = lines[int(place[1]) - 1]
    word = re.fullmatch(r"\s*([\w.-]+)\s*=\s*([^\"'#\[{]*?[^\s\"'#\[{])\s*(#.*)?", line)
    if word:
        return f' Text needs quotes. Type: {word[1]} = "{word[2]}"'
    words = re.fullmatch(r"\s*([\w.-]+)\s*=\s*\[([^\"'#\[\]{]+)\]\s*(#.*)?", line)
    if words:
        quoted = ", ".join(f'"{each.strip()}"' for each in words[2].split(",") if each.strip())
        return f" Texts need quotes. Type: {words[1]} = [{quoted}]"
    return ""


def beside(path: Path, data: DataSection) -> DataSection:
    """Return the section with paths relative to the configuration file."""
    test_path = None if data.test_path is None else path.parent / data.test_path
    fraction = TEST_FRACTION if test_path is None else None
    return replace(
        data,
        path=path.parent / data.path,
        test_path=test_path,
        test_fraction=data.test_fraction or fraction,
    )


def network_section(source: Source, table: Any) -> NetworkSection:
    """Return the section of a network, its options beside the name."""
    if not isinstance(table, dict):
        raise ConfigError(f"{source.place('', 'network')}: network must be a table, [network].")
    options = {key: value for key, value in table.items() if key != "name"}
    return replace(
        source.read("network", NetworkSection, {k: table[k] for k in table if k == "name"}),
        options=options,
    )


def _at_least(low: int, **values: int) -> None:
    for name, value in values.items():
        if value < low:
            raise OptionError(f"{name} is at least {low}, got {value}.")


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise OptionError(f"{name} is positive, got {value}.")
