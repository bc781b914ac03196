from __future__ import annotations

import base64
import io
import math
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from types import SimpleNamespace

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import image

import nbcore as nb
from nbcore import metrics
from nbcore.posterior.prediction import Prediction
from nbcore.report import (
    Evaluation,
    LayerShare,
    PartlySampled,
    Predictions,
    ReportData,
    Trace,
    build_report,
    evaluation_of,
    layer_shares,
    partly_sampled,
    summary_picture,
)

LEVELS = (0.5, 0.68, 0.95)


def normal(mean: np.ndarray, variance: float | np.ndarray) -> Prediction:
    return Prediction.normal(mean[None, :, None], np.reshape(variance, (1, -1, 1)))


@pytest.fixture(scope="module")
def data() -> ReportData:
    rng = np.random.default_rng(1)
    mean = rng.normal(size=120)
    y = mean + 0.5 * rng.normal(size=120)
    prediction = normal(mean, 0.25)
    low, high = prediction.interval(0.95)
    pairs = np.array([[0, 1], [4, 0]])
    return ReportData(
        title="Solubility <of> molecules & more",
        target="log S",
        predictions=Predictions(y, mean, np.full(120, 0.5), low, high),
        ways=[
            evaluation_of("naive way", normal(mean, 0.01), y),
            evaluation_of("our way", prediction, y),
        ],
        traces=[Trace("Dense1[0, 1]", 1.02, 250.0, rng.normal(size=(3, 50)))],
        layers=[LayerShare("Dense0", 0, 40), LayerShare("Dense1", 2, 10)],
        kernels=[PartlySampled("Dense1", ("in", "out"), (5, 2), pairs, np.ones(2))],
        facts={"sampler": "nuts"},
        verdict="R-hat 1.02: run longer.",
    )  # fmt: skip


class Page(HTMLParser):
    """Collects images, cells of table rows, and every address that the page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag == "img":
            self.images.append(values)
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data.strip()


def test_the_table_holds_the_numbers(data: ReportData) -> None:
    rows = Page(build_report(data)).rows
    for way, row in zip(data.ways, rows[1:], strict=True):
        y, mean = data.predictions.y, data.predictions.mean
        variance = np.full(len(y), 0.01 if way.name == "naive way" else 0.25)
        numbers = [
            metrics.rmse(y, mean),
            metrics.mae(y, mean),
            metrics.nlpd(y, mean, variance),
            metrics.crps_gaussian(y, mean, variance),
        ]
        shares = [f"{100 * metrics.coverage(y, mean, variance, level):.1f} %" for level in LEVELS]
        ranked = [f"{number:.3f}" for number in numbers]
        assert row == [way.name, *ranked, *shares, "all alike"]


def test_the_page_needs_no_other_file(data: ReportData) -> None:
    page = Page(build_report(data))
    assert len(page.images) == 6
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
    for shown in page.images:
        assert shown["alt"]
        picture = base64.b64decode((shown["src"] or "").partition(",")[2], validate=True)
        root = ET.fromstring(picture)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 5


def test_text_is_escaped_and_the_verdict_shown(data: ReportData) -> None:
    text = build_report(data)
    assert "<h1>Solubility &lt;of&gt; molecules &amp; more</h1>" in text
    assert "R-hat 1.02: run longer." in "".join(Page(text).text)


def test_the_same_data_give_the_same_page_and_no_setting_stays(data: ReportData) -> None:
    before = dict(mpl.rcParams)
    assert build_report(data) == build_report(data)
    assert summary_picture(data) == summary_picture(data)
    assert dict(mpl.rcParams) == before


def test_sections_without_content_are_left_out(data: ReportData) -> None:
    bare = ReportData("t", "y", data.predictions, data.ways[-1:], [], data.layers)
    page = Page(build_report(bare))
    assert len(page.images) == 4
    assert len(page.rows) == 2


def test_the_summary_picture_is_a_wide_png(data: ReportData) -> None:
    pixels = image.imread(io.BytesIO(summary_picture(data)))
    height, width, _ = pixels.shape
    assert width > 1.8 * height > 1000
    assert np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0).shape[0] > 50


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_draws_the_page(data: ReportData, tmp_path) -> None:
    page, picture = tmp_path / "report.html", tmp_path / "page.png"
    page.write_text(build_report(data), encoding="utf-8")
    quiet = ("--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--disable-gpu")  # fmt: skip
    subprocess.run(
        ["chromium", "--headless", "--no-sandbox", *quiet, f"--user-data-dir={tmp_path / 'user'}",
         f"--screenshot={picture}", "--window-size=1200,3000", page.as_uri()],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    pixels = image.imread(picture)[..., :3]
    ours = np.abs(pixels - np.array([0x00, 0x72, 0xB2]) / 255).max(axis=-1) < 0.02
    assert pixels.shape[1] == 1200
    assert ours[: len(ours) // 3].any()  # the row of results
    assert ours[len(ours) // 3 :].any()  # figures


def test_evaluation_of_a_perfectly_calibrated_normal_gives_the_levels_back() -> None:
    count = 999
    ranks = np.arange(1, count + 1) / (count + 1)
    way = Evaluation("exact", 0.0, 0.0, 0.0, 0.0, ranks, 0.0, 0.0, None)
    np.testing.assert_allclose(way.coverage(LEVELS), LEVELS, atol=2 / count)
    assert list(way.to_data()["coverage"]) == ["50%", "68%", "95%"]


@given(
    scale=st.floats(0.1, 10), shift=st.floats(-5, 5), level=st.floats(0.02, 0.98),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_coverage_by_rank_is_coverage_by_interval(scale, shift, level, seed) -> None:
    rng = np.random.default_rng(seed)
    draws = shift + scale * rng.normal(size=(7, 30, 1))
    prediction = Prediction.normal(draws, scale**2 * rng.uniform(0.2, 2, size=(7, 30, 1)))
    y = shift + 2 * scale * rng.normal(size=30)
    way = evaluation_of("any", prediction, y)
    assert float(way.coverage([level])[0]) == prediction.coverage(y, level)
    assert way.nlpd == pytest.approx(prediction.nlpd(y))


def test_crps_of_equal_components_is_that_of_one() -> None:
    y = np.linspace(-2, 2, 40)
    mean = np.zeros(40)
    one = evaluation_of("one", normal(mean, 2.0), y).crps
    assert one == pytest.approx(metrics.crps_gaussian(y, mean, np.full(40, 2.0)), rel=1e-9)
    several = Prediction.normal(np.zeros((3, 40, 1)), np.full((3, 1, 1), 2.0))
    assert evaluation_of("three", several, y).crps == pytest.approx(one, rel=0.02)


def attention_params() -> dict:
    part = {"kernel": jnp.zeros((4, 2, 3)), "bias": jnp.zeros((2, 3))}
    out = {"kernel": jnp.zeros((2, 3, 4)), "bias": jnp.zeros(4)}
    return {
        "Attention": {"query": part, "key": part, "value": part, "out": out},
        "Conv": {"kernel": jnp.zeros((3, 5, 6)), "bias": jnp.zeros(6)},
    }


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_the_map_shows_exactly_the_pairs_that_were_chosen(data) -> None:
    def some(*shape: int) -> list[tuple[int, ...]]:
        pair = st.tuples(*(st.integers(0, n - 1) for n in shape))
        many = st.sets(pair, min_size=1, max_size=math.prod(shape) - 1)
        return sorted(data.draw(many))

    query, conv = some(4, 2, 3), some(5, 6)
    network = nb.as_network((lambda key, x: {}, lambda p, x: x))
    subset = nb.ProbabilisticSubset.pairs({"Attention": {"query": query}, "Conv": conv})
    split = subset.split(network, attention_params())
    draws = {path: np.random.default_rng(0).normal(size=(2, 5, *shape))
             for path, shape in split.shapes.items()}  # fmt: skip
    kernels = partly_sampled(SimpleNamespace(split=split, draws={"weights": draws}))
    found = {kernel.name: kernel for kernel in kernels}
    assert found["Attention/query"].pairs.tolist() == [[i, 3 * h + f] for i, h, f in query]
    assert found["Attention/query"].shape == (4, 6)
    assert found["Conv"].pairs.tolist() == [list(pair) for pair in conv]
    deviation = draws["Attention/query/kernel"].std(axis=(0, 1))
    np.testing.assert_allclose(found["Attention/query"].deviation, deviation, rtol=1e-6)
    shares = layer_shares(split)
    assert sum(share.stochastic for share in shares) == split.size
    assert sum(share.total for share in shares) == split.total_size


def test_ranking_of_calibrated_deviations_reaches_its_reference_and_of_equal_ones_is_none() -> None:
    rng = np.random.default_rng(0)
    deviation = rng.uniform(0.1, 2.0, size=2000)
    y = deviation * rng.normal(size=2000)
    way = evaluation_of("calibrated", normal(np.zeros(2000), deviation**2), y)
    ranking = way.ranking
    assert ranking is not None
    assert abs(ranking.rank_correlation - ranking.reference) < 4 * ranking.reference_sd
    backward = evaluation_of("backward", normal(np.zeros(2000), 1 / deviation**2), y).ranking
    assert backward is not None
    assert backward.rank_correlation == pytest.approx(-ranking.rank_correlation)
    assert backward.ause > ranking.ause > 0
    assert way.to_data()["ranking"]["reference"] == ranking.reference
    assert evaluation_of("alike", normal(np.zeros(2000), 1.0), y).to_data()["ranking"] is None


def test_epistemic_share_is_that_of_the_variances() -> None:
    means = np.array([[[0.0], [1.0]], [[2.0], [1.0]]])  # epistemic variances 1 and 0
    way = evaluation_of("two draws", Prediction.normal(means, np.full((1, 1, 1), 3.0)), [0.5, 1.2])
    assert way.epistemic_share == pytest.approx(1 / 7)
