"""Placement of chains and examples: on one device, or over a mesh of devices.

A mesh has the axes `chain` and `data`. Chains are spread by `shard_map`, so that each device runs
its own and none waits for the trajectories of another; examples are spread by their sharding, and
the compiler adds up the likelihood. Devices may belong to several processes.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.stages import Wrapped

from nbcore.common.keys import is_key
from nbcore.errors import OptionError, SamplingError, did_you_mean
from nbcore.sampling import programs
from nbcore.sampling.programs import ChainPrograms, Over
from nbcore.targets.blocks import Block
from nbcore.targets.target import Target

CHAIN, DATA = AXES = ("chain", "data")
WHOLE, BY_CHAIN, BY_EXAMPLE = PartitionSpec(), PartitionSpec(CHAIN), PartitionSpec(DATA)
EXAMPLE = 'mesh=jax.make_mesh((2, 2), ("chain", "data"))'


@dataclass(frozen=True)
class Placement:
    """The devices of the chains and examples of a run; this class uses the default device."""

    num_chains: int

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of the axes of the mesh; empty without a mesh."""
        return {}

    @property
    def devices(self) -> list[Any]:
        """The devices."""
        return jax.local_devices()[:1]

    @property
    def num_processes(self) -> int:
        """Number of processes that the devices belong to."""
        return 1

    def programs(self, over: Over) -> ChainPrograms:
        """Return the programs of all chains together."""
        return _programs(None, over)

    def target(self, target: Target) -> Target:
        """Place a target."""
        return target

    def replicate(self, tree: Any) -> Any:
        """Place a copy of a pytree on every device."""
        return tree

    def by_chain(self, tree: Any) -> Any:
        """Place a pytree with a leading chain axis."""
        return tree

    def own(self, tree: Any) -> Any:
        """Return numpy arrays of the chains of this process; keys become their data."""
        return jax.tree.map(_data, tree)

    def joined(self, own: Any, like: Any) -> Any:
        """Return the arrays of all chains from those of this process, which `own` returned."""
        return jax.tree.map(lambda a, model: _as_key_where(jnp.asarray(a), model), own, like)

    def gather(self, own: Any) -> Any:
        """Return numpy arrays of the chains of all processes."""
        return own

    def least(self, number: int) -> int:
        """Return the least of the numbers of all processes, once all have given theirs."""
        return number

    def check_same(self, digest: Callable[[], str]) -> None:
        """Check that all processes sample the same density with the same keys.

        Raises:
            SamplingError: they differ.
        """
        if self.num_processes > 1:
            number = int(digest()[:7], 16)
            if self.least(number) != -self.least(-number):
                raise SamplingError(
                    "The processes of this run have different data, weights, keys or starts. Give "
                    "all of them the same, and run them on machines of one kind."
                )


@dataclass(frozen=True)
class MeshPlacement(Placement):
    """A mesh with both axes, each possibly of size 1, over which chains and examples are spread."""

    mesh: Mesh

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of the axes of the mesh."""
        return {name: int(size) for name, size in self.mesh.shape.items()}

    @property
    def devices(self) -> list[Any]:
        """The devices."""
        return list(self.mesh.devices.flat)

    @property
    def num_processes(self) -> int:
        """Number of processes that the devices belong to."""
        return len({device.process_index for device in self.devices})

    def programs(self, over: Over) -> ChainPrograms:
        """Return the programs of all chains together, each device running its own chains."""
        return _programs(self.mesh, over)

    def target(self, target: Target) -> Target:
        """Place a target: its examples over the data axis, everything else on every device.

        Raises:
            OptionError: examples cannot be spread.
        """
        size, network = self.sizes[DATA], target.network_target
        if network is None:
            if size > 1:
                raise _not_spread(size, "this target has none")
            return self.replicate(target)
        if size > 1 and not network.has_minibatches:
            raise _not_spread(size, "the outputs of this network mix them")
        blocks = tuple(self._block(_padded(block, size)) for block in network.blocks)
        whole = (network.split, network.prior, network.likelihood)
        split, prior, likelihood = self.replicate(whole)
        return target.with_joint(
            replace(network, split=split, prior=prior, likelihood=likelihood, blocks=blocks)
        )

    def _block(self, block: Block) -> Block:
        parts = (block.features, block.y, block.indices)
        features, y, indices = self._placed(BY_EXAMPLE, parts)
        forward = self.replicate(block.forward)
        return replace(block, forward=forward, features=features, y=y, indices=indices)

    def replicate(self, tree: Any) -> Any:
        """Place a copy of a pytree on every device."""
        return self._placed(WHOLE, tree)

    def by_chain(self, tree: Any) -> Any:
        """Place a pytree with a leading chain axis."""
        return self._placed(BY_CHAIN, tree)

    def own(self, tree: Any) -> Any:
        """Return numpy arrays of the chains of this process; keys become their data."""

        def chains(array: Any) -> np.ndarray:
            parts = {s.index[0].start or 0: s.data for s in _key_data(array).addressable_shards}
            return np.concatenate([np.asarray(parts[first]) for first in sorted(parts)])

        return jax.tree.map(chains, tree)

    def joined(self, own: Any, like: Any) -> Any:
        """Return the arrays of all chains from those of this process, which `own` returned."""
        sharding = NamedSharding(self.mesh, BY_CHAIN)
        mine = sharding.addressable_devices_indices_map((self.num_chains,)).values()
        chains = np.unique([c for at in mine if at for c in range(self.num_chains)[at[0]]])

        def join(array: np.ndarray, model: Any) -> Any:
            def part(index: Any) -> np.ndarray:
                return array[np.searchsorted(chains, np.arange(self.num_chains)[index[0]])]

            shape = (self.num_chains, *array.shape[1:])
            return _as_key_where(jax.make_array_from_callback(shape, sharding, part), model)

        return jax.tree.map(join, own, like)

    def gather(self, own: Any) -> Any:
        """Return numpy arrays of the chains of all processes."""
        if self.num_processes == 1:
            return own
        everywhere = jax.jit(lambda tree: tree, out_shardings=NamedSharding(self.mesh, WHOLE))
        return jax.tree.map(np.asarray, everywhere(self.joined(own, own)))

    def least(self, number: int) -> int:
        """Return the least of the numbers of all processes, once all have given theirs."""
        if self.num_processes == 1:
            return number
        return int(np.min(multihost_utils.process_allgather(np.int32(number))))

    def _placed(self, spec: PartitionSpec, tree: Any) -> Any:
        sharding = NamedSharding(self.mesh, spec)

        def place(leaf: Any) -> Any:
            values = _data(leaf)
            placed = jax.make_array_from_callback(values.shape, sharding, values.__getitem__)
            return _as_key_where(placed, leaf)

        return jax.tree.map(place, tree)


def placement_for(mesh: Mesh | None, num_chains: int) -> Placement:
    """Return the placement of the chains and examples of a run.

    Raises:
        OptionError: the mesh is impossible, or cannot hold so many chains.
    """
    if mesh is None:
        return Placement(num_chains)
    if not isinstance(mesh, Mesh):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(
            f"mesh is a jax.sharding.Mesh, got {type(mesh).__name__}. Type: {EXAMPLE}"
        )
    _check_axes(mesh.shape)
    # Both axes, in this order, and sharding left to the compiler: jax.make_mesh makes others too.
    sizes = {name: mesh.shape.get(name, 1) for name in AXES}
    order = [mesh.axis_names.index(name) for name in AXES if name in mesh.axis_names]
    grid = mesh.devices.transpose(order).reshape(tuple(sizes.values()))
    place = MeshPlacement(num_chains, Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 2))
    if num_chains % sizes[CHAIN]:
        raise OptionError(
            f"num_chains={num_chains} cannot be spread evenly over the {sizes[CHAIN]} devices of "
            f"the axis chain. Give num_chains={sizes[CHAIN] * -(-num_chains // sizes[CHAIN])}, or "
            "a mesh whose axis chain divides it."
        )
    _check_processes(place)
    return place


def _check_axes(sizes: Mapping[str, int]) -> None:
    unknown = [name for name in sizes if name not in AXES]
    if unknown or not sizes:
        raise OptionError(
            f"The axes of a mesh are chain and data, got {', '.join(map(repr, sizes)) or 'none'}."
            f"{did_you_mean(str(unknown[0]), AXES) if unknown else ''} Type: {EXAMPLE}"
        )


def _not_spread(size: int, why: str) -> OptionError:
    return OptionError(
        f"The axis data of the mesh spreads examples over {size} devices, and {why}. Give all "
        'devices to the chains: mesh=jax.make_mesh((num_devices,), ("chain",))'
    )


def _check_processes(place: Placement) -> None:
    mine, count = jax.process_index(), jax.process_count()
    if place.num_processes not in (1, count) or all(
        device.process_index != mine for device in place.devices
    ):
        raise OptionError(
            f"The mesh must have devices of all {count} processes, or of process {mine} alone, "
            f"which makes it; it has devices of {place.num_processes}. Type: {EXAMPLE}"
        )


def mesh_of(sizes: Mapping[str, int]) -> Mesh:
    """Return a mesh with the given number of devices along each axis.

    Raises:
        OptionError: axes or sizes are impossible, or there are too few devices.
    """
    _check_axes(sizes)
    if any(type(size) is not int or size < 1 for size in sizes.values()):
        raise OptionError(f"The sizes of a mesh are integers of at least 1, got {dict(sizes)}.")
    wanted, there = math.prod(sizes.values()), jax.device_count()
    if wanted > there:
        kind = jax.devices()[0].device_kind
        raise OptionError(
            f"The mesh {dict(sizes)} needs {wanted} devices; there are {there} ({kind})."
        )
    devices = np.array(jax.devices()[:wanted]).reshape(tuple(sizes.values()))
    return Mesh(devices, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def spread(num_chains: int) -> Mesh:
    """Return a mesh of all devices: as many as divide the chains along `chain`, then `data`."""
    devices = jax.device_count()
    chains = math.gcd(num_chains, devices)
    return mesh_of({CHAIN: chains, DATA: devices // chains})


def connect(environment: Mapping[str, str] = os.environ) -> None:
    """Join the processes of a run; call it before JAX is used.

    Reads `JAX_COORDINATOR_ADDRESS` (host:port of process 0), `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID`; under SLURM, Open MPI, Kubernetes and on TPUs, JAX finds them by itself.

    Raises:
        OptionError: the variables are missing or impossible, or the processes do not meet.
    """
    address = environment.get("JAX_COORDINATOR_ADDRESS")
    names = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    try:
        count, own = (int(environment[name]) if name in environment else None for name in names)
        jax.distributed.initialize(address, count, own)
    except (ValueError, TypeError, RuntimeError) as error:
        raise OptionError(
            f"The processes of a distributed run do not meet: {error}. Set "
            "JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES and JAX_PROCESS_ID (0 is on that "
            "host) for every process, or start them with SLURM, Open MPI or Kubernetes."
        ) from error


@functools.lru_cache(maxsize=32)
def _programs(mesh: Mesh | None, over: Over) -> ChainPrograms:
    if mesh is None:
        return programs.all_chains(over)

    def compiled(function: Callable[..., Any], num_static: int) -> Wrapped:
        def call(*args: Any) -> Any:
            static, arrays = args[:num_static], args[num_static:]
            one_device = functools.partial(function, *static)
            specs = tuple(BY_CHAIN if i in (0, 3) else WHOLE for i in range(len(arrays)))
            # Samplers do not annotate which of their values vary over a mesh.
            run = jax.shard_map(
                one_device, mesh=mesh, in_specs=specs, out_specs=BY_CHAIN, axis_names={CHAIN},
                check_vma=False,
            )  # fmt: skip
            return run(*arrays)

        sharding = NamedSharding(mesh, BY_CHAIN)
        return jax.jit(call, static_argnums=tuple(range(num_static)), out_shardings=sharding)

    return programs.all_chains(over, compiled, compiled)


def _padded(block: Block, size: int) -> Block:
    """Return a block filled up to a multiple of `size` examples with copies of weight 0."""
    padding = -block.count % size
    places = np.resize(np.arange(block.count), block.count + padding)
    parts = (block.features, block.y, block.indices)
    features, y, indices = jax.tree.map(lambda a: a[places], parts) if padding else parts
    return replace(block, features=features, y=y, indices=indices, padding=padding)


def _key_data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def _data(leaf: Any) -> np.ndarray:
    return np.asarray(_key_data(leaf))


def _as_key_where(array: Any, model: Any) -> Any:
    """Return keys from their data if `model` holds keys."""
    if not is_key(model):
        return array
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(model))
