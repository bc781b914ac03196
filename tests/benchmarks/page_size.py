"""A transformer of the size that users bring: what sampling costs, and what was foretold.

    python tests/benchmarks/page_size.py --data delaney-processed.csv

Vocabulary 10,000, width 128, 4 heads, 2 layers; 32 pairs of TokenEmbed, chosen by variance, on 112
thinned sequences. Prints the estimate that the driver gives before sampling, and what it took.
"""

from __future__ import annotations

import argparse
import time

from esol_transformer import LENGTH, molecules

import nbcore as nb
from nbcore_flax import FlaxTransformer


def main() -> None:
    """Train briefly, choose, sample; compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="delaney-processed.csv")
    parser.add_argument("--backend", default="numpyro-nuts")
    parser.add_argument("--num-warmup", type=int, default=100)
    parser.add_argument("--num-samples", type=int, default=100)
    parser.add_argument("--num-chains", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    X, y, _ = molecules(arguments.data)
    network = FlaxTransformer(
        vocab_size=10_000, d_model=128, nhead=4, num_layers=2, dim_feedforward=512,
        max_seq_length=LENGTH, pad_token_id=0,
    )  # fmt: skip
    trained = nb.DeterministicNN(network, swa=nb.SWA(start_pct=0.2))
    trained.train(X, y, epochs=arguments.epochs, key=1, progress=False)
    subset = nb.select_bayesian_components(trained, "TokenEmbed", "variance", 32)
    few = slice(0, 5 * 112, 5)
    begin = time.perf_counter()
    target = nb.Target.build(trained.network, trained.params, subset, X[few], y[few])
    print(f"built in {time.perf_counter() - begin:.1f} s\n{target.cost()}", flush=True)
    posterior = nb.sample(
        target, arguments.backend, key=1, num_warmup=arguments.num_warmup,
        num_samples=arguments.num_samples, num_chains=arguments.num_chains,
    )  # fmt: skip
    info = posterior.info
    steps = {"warmup": arguments.num_warmup, "sampling": arguments.num_samples}
    for phase, count in info.num_gradients.items():
        each = count / steps[phase] / arguments.num_chains
        print(f"{phase}: {each:.1f} gradients a step, {info.seconds[phase]:.0f} s")
    took = info.seconds["warmup"] + info.seconds["sampling"]
    print(f"took {took:.0f} s, and {info.seconds['compile']:.0f} s to compile")


if __name__ == "__main__":
    main()
