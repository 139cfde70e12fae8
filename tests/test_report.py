"""The report: the numbers of each picture, the tables, and a page that does not run what it shows."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_runs import GENES, failure, genotype, make_run, result, spec

from nas import report
from nas.record import Run
from nas.report import front, hypervolume, importance, losses, style, tables

HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"


def small_run(
    root: Path,
    rows: list[tuple[float | None, int, int]],
    objectives: tuple[str, ...] = ("accuracy", "macs"),
    **config: Any,
) -> Run:
    """A run of trials with these (accuracy or None for a failure, macs, params)."""
    run = Run(root, "made")
    run.write_run({"config": {"objectives": list(objectives), **config}})
    for trial, (accuracy, macs, params) in enumerate(rows):
        run.write_spec(trial, spec(trial, genotype(), macs=macs, params=params))
        run.write_result(trial, failure(trial, "loss became nan") if accuracy is None else result(trial, accuracy))
    return run


ROWS: list[tuple[float | None, int, int]] = [
    (0.50, 1_000, 900),
    (0.75, 10_000, 800),
    (0.60, 20_000, 100),
    (None, 1, 1),
    (0.40, 30_000, 950),
]


# the front


def test_front_picture_marks_what_is_not_dominated(tmp_path: Path) -> None:
    shown = front.info(report.read(small_run(tmp_path, ROWS, caps={"macs": 25_000, "params": None})))
    assert [(point.trial, point.accuracy, point.costs, point.on_front) for point in shown.points] == [
        (0, 50.0, {"macs": 1_000}, True),
        (1, 75.0, {"macs": 10_000}, True),
        (2, 60.0, {"macs": 20_000}, False),
        (4, 40.0, {"macs": 30_000}, False),
    ]
    assert shown.panels == (front.Panel("macs", ((1_000, 50.0), (10_000, 75.0)), 25_000),)
    assert shown.message == ""
    assert "(2 of 4)" in shown.caption


def stopped_run(root: Path, trials: int = 12) -> Run:
    """Every third is trained in full; the others stopped at the first rung, where all lose .3 of their accuracy."""
    run = small_run(root, [])
    for trial in range(trials):
        genes = genotype(width=(16, 32, 48, 64)[trial % 4], depth=1 + trial % 3)
        final = 0.5 + 0.02 * trial
        run.write_spec(trial, spec(trial, genes, macs=1_000 * (trial + 1)))
        full = trial % 3 == 0
        evaluations = [[12, final - 0.3, 1.5], [96, final, 0.5]][: 1 + full]
        run.write_result(trial, result(trial, evaluations[-1][1], full=full, evaluations=evaluations))
    return run


def test_stopped_networks_are_drawn_apart_and_on_no_front(tmp_path: Path) -> None:
    recorded = report.read(stopped_run(tmp_path))
    shown = front.info(recorded)
    assert [point.trial for point in shown.points] == [0, 3, 6, 9]
    assert [point.trial for point in shown.stopped] == [1, 2, 4, 5, 7, 8, 10, 11]
    assert shown.stopped[0].accuracy == pytest.approx(22.0)
    assert not any(point.on_front for point in shown.stopped)
    assert "8 networks stopped early" in shown.caption
    traces = {trace.name: trace for trace in front.figure(shown).data}
    assert traces["stopped early"].visible == "legendonly"
    assert len(traces["stopped early"].x) == 8
    assert ("8", "stopped early") in tables.summary(recorded)
    assert ("4 of 12", "trials finished") in tables.summary(recorded)


def rung_run(root: Path, first: list[float], second: list[float], macs: list[int]) -> Run:
    """Trials that went on, with these accuracies after 12 and 96 steps, and one that stopped."""
    run = small_run(root, [])
    for trial, (low, high, cost) in enumerate(zip(first, second, macs, strict=True)):
        run.write_spec(trial, spec(trial, genotype(), macs=cost))
        run.write_result(trial, result(trial, high, full=True, evaluations=[[12, low, 1.5], [96, high, 0.5]]))
    run.write_spec(len(first), spec(len(first), genotype(), macs=7))
    run.write_result(len(first), result(len(first), 0.1, full=False, evaluations=[[12, 0.1, 2.0]]))
    return run


def test_the_report_says_what_a_rung_was_worth(tmp_path: Path) -> None:
    # Dearer networks are better at both rungs, and among those of one cost the first rung is wrong.
    run = rung_run(tmp_path, [0.2, 0.1, 0.4, 0.3, 0.6, 0.5], [0.5, 0.6, 0.7, 0.8, 0.85, 0.9], [10, 10, 20, 20, 30, 30])
    shown = tables.rungs(report.read(run))
    (first, last) = shown.rows
    assert first[:3] == ("12 steps", "7", "6") and last == ("96 steps", "6", "–", "–", "–")
    assert first[3].startswith("0.83 (")  # 1 - 6 * 6 / (6 * 35)
    assert float(first[4]) == -1
    page = report.render(report.read(run))
    assert "What short trainings tell" in page and first[3] in page


@pytest.mark.parametrize("first", [[0.5, 0.5, 0.5], [0.1, 0.2]])
def test_a_rung_that_cannot_be_judged_says_nothing(tmp_path: Path, first: list[float]) -> None:
    run = rung_run(tmp_path, first, [0.7, 0.8, 0.9][: len(first)], [10, 20, 30][: len(first)])
    assert tables.rungs(report.read(run)).rows[0][3:] == ("–", "–")


def test_costs_that_explain_a_rung_leave_nothing_to_correlate(tmp_path: Path) -> None:
    run = rung_run(tmp_path, [0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8], [10, 20, 30, 40])
    assert tables.rungs(report.read(run)).rows[0][3:] == ("1.00 (1.00 to 1.00)", "–")


def test_a_search_in_full_has_no_rungs_to_show(tmp_path: Path) -> None:
    recorded = report.read(small_run(tmp_path, ROWS))
    assert tables.rungs(recorded).rows == ()
    assert "What short trainings tell" not in report.render(recorded)


def test_genes_are_judged_by_accuracies_of_one_budget(tmp_path: Path) -> None:
    recorded = report.read(stopped_run(tmp_path))
    assert recorded.comparable["trial"].tolist() == list(range(12))
    assert recorded.comparable["accuracy"].tolist() == pytest.approx([0.2 + 0.02 * trial for trial in range(12)])
    judged = importance.info(recorded)
    assert judged.targets and "on 12 finished trials" in judged.caption and "after the first rung" in judged.caption
    in_full = report.read(small_run(tmp_path / "full", ROWS))
    assert in_full.comparable["accuracy"].tolist() == [0.5, 0.75, 0.6, 0.4]


def test_each_cost_has_a_panel_with_its_own_stairs_but_the_front_is_that_of_all(tmp_path: Path) -> None:
    shown = front.info(report.read(small_run(tmp_path, ROWS, ("macs", "accuracy", "params"))))
    assert [point.on_front for point in shown.points] == [True, True, True, False]
    assert [(panel.cost, panel.stairs) for panel in shown.panels] == [
        ("macs", ((1_000, 50.0), (10_000, 75.0))),
        ("params", ((100, 60.0), (800, 75.0))),
    ]


def test_a_run_for_accuracy_alone_is_drawn_against_macs(tmp_path: Path) -> None:
    shown = front.info(report.read(small_run(tmp_path, ROWS, ("accuracy",))))
    assert [point.trial for point in shown.points if point.on_front] == [1]
    assert [panel.cost for panel in shown.panels] == ["macs"]


def test_hover_tells_all_genes_costs_and_the_trial(tmp_path: Path) -> None:
    run = small_run(tmp_path, [])
    run.write_spec(
        7, spec(7, genotype(depth=2, cardinality=4, mixer="split", gate="cse"), macs=12_345_678, params=5_432)
    )
    run.write_result(7, result(7, 0.8765, seconds=42.0))
    (point,) = front.info(report.read(run)).points
    text = point.hover.replace(style.SPACE, " ")
    for part in ("trial 7", "87.65 %", "12.3 M", "5.43 k", "42 s", "SE-Net", "ResNeSt", "mixed"):
        assert part in text
    row = run.trials().iloc[0]
    for gene in ("depth", "width", "cardinality", "mixer", "gate"):
        assert f"{gene} {row[gene]}" in text


def test_front_figure_draws_log_costs_steps_caps_and_grey_points(tmp_path: Path) -> None:
    run = small_run(tmp_path, ROWS, ("accuracy", "macs", "params"), caps={"params": 500})
    figure = report.front_figure(run)
    assert figure.layout.xaxis.type == figure.layout.xaxis2.type == "log"
    traces = {(trace.name, trace.xaxis): trace for trace in figure.data}
    stairs = traces["front", "x"]
    assert stairs.line.shape == "hv"
    assert list(zip(stairs.x, stairs.y, strict=True)) == [(1_000, 50.0), (10_000, 75.0), (30_000, 75.0)]
    assert list(traces["dominated", "x"].x) == [30_000]
    assert traces["dominated", "x"].marker.color == style.GREY
    assert list(traces["ResNet", "x2"].x) == [900, 800, 100]
    assert traces["ResNet", "x2"].marker.color == style.FAMILIES["ResNet"][0]
    (line,) = figure.layout.shapes
    assert (line.x0, line.x1, line.xref, line.line.dash) == (500, 500, "x2", "dash")
    (label,) = figure.layout.annotations
    assert (label.text, label.x) == ("cap 500", pytest.approx(math.log10(500)))
    low, high = figure.layout.xaxis2.range
    assert low < 2 and high > math.log10(900)


# hypervolume


def test_hypervolume_is_derived_on_paper(tmp_path: Path) -> None:
    # Against accuracy 0.25 and 10^5 MACs: trial 0 spans .25 x 2 decades = .5; trial 1 spans .5 x 1, of which .25 x 1
    # is covered already: .75; trial 2 lies behind trial 1; trial 4 adds nothing.
    shown = hypervolume.info(report.read(small_run(tmp_path, ROWS)), reference=[0.25, 1e5])
    assert shown.trials == (0, 1, 2, 4)
    assert shown.volumes == pytest.approx((0.5, 0.75, 0.75, 0.75))
    assert shown.reference == pytest.approx({"accuracy": 0.25, "macs": 1e5})


def test_default_reference_is_stated_in_the_objectives_units(tmp_path: Path) -> None:
    # The worst accuracy is .4, the range .35; the worst cost 3e4, its range log10(30) decades.
    shown = hypervolume.info(report.read(small_run(tmp_path, ROWS)))
    assert shown.reference == pytest.approx({"accuracy": 0.4 - 0.035, "macs": 3e4 * 30**0.1})
    assert "accuracy 36.50 %, MACs 42.2 k" in shown.caption.replace(style.SPACE, " ")
    figure = report.hypervolume_figure(Run(tmp_path, "made"))
    assert list(figure.data[0].y) == list(shown.volumes)


# importance


def gene_run(root: Path, trials: int, accuracy: Any) -> Run:
    """Trials that differ in their genotype as recorded; accuracy is a function of it, the cost of `width` alone."""
    run = small_run(root, [])
    generator = np.random.default_rng(3)
    for trial in range(trials):
        genes: dict[str, Any] = {name: options[generator.integers(len(options))] for name, options in GENES.items()}
        value = spec(trial, genotype(), macs=1000 * int(genes["width"]))
        genes["stem"] = "conv3x3"
        if genes["cardinality"] == 4:
            del genes["gate"]
        run.write_spec(trial, value | {"genotype": genes})
        run.write_result(trial, result(trial, accuracy(genes, generator)))
    return run


def test_the_gene_that_decides_is_found(tmp_path: Path) -> None:
    effect = {"conv": 0.1, "sk": 0.9, "split": 0.3, "hybrid": 0.7}
    shown = importance.info(report.read(gene_run(tmp_path, 40, lambda genes, _: effect[genes["mixer"]])))
    accuracy, macs = shown.targets
    assert (accuracy.name, macs.name) == ("accuracy", "macs")
    assert accuracy.r2 > 0.9 and macs.r2 > 0.9
    for target, gene in ((accuracy, "mixer"), (macs, "width")):
        drops = dict(target.drops)
        assert set(drops) == set(GENES)
        assert next(iter(drops)) == gene
        # A shuffled gene predicts another trial's value: twice the variance, less what falls on an equal one.
        assert 1.2 < drops[gene] < 2.5
        assert all(abs(drop) < 0.15 for other, drop in drops.items() if other != gene)
    assert shown.constant == ("stem",)
    assert f"accuracy {accuracy.r2:.2f}" in shown.caption


def test_noise_is_not_explained_and_drawn_grey(tmp_path: Path) -> None:
    shown = importance.info(report.read(gene_run(tmp_path, 40, lambda _, generator: float(generator.random()))))
    assert shown.targets[0].r2 < importance.WEAK < shown.targets[1].r2
    figure = importance.figure(shown)
    assert [trace.marker.color for trace in figure.data] == [style.GREY, style.ACCENT]
    for trace, target in zip(figure.data, shown.targets, strict=True):
        assert dict(zip(trace.y, trace.x, strict=True)) == dict(target.drops)
    assert list(figure.data[0].y) == list(figure.data[1].y)


@pytest.mark.usefixtures("few_trees")
def test_the_same_record_gives_the_same_importance(tmp_path: Path) -> None:
    run = gene_run(tmp_path, 12, lambda genes, _: genes["width"] / 100)
    assert importance.info(report.read(run)) == importance.info(report.read(run))


@pytest.mark.usefixtures("few_trees")
def test_too_few_trials_or_genes_are_said_in_words(tmp_path: Path) -> None:
    few = importance.info(report.read(gene_run(tmp_path / "few", 9, lambda *_: 0.5)))
    assert few.targets == () and "9, too few" in few.message
    alike = importance.info(report.read(small_run(tmp_path / "alike", [(0.5, 10, 10)] * 10)))
    assert alike.targets == () and "No recorded gene differs" in alike.message
    (only,) = importance.info(report.read(gene_run(tmp_path / "flat", 10, lambda *_: 0.5))).targets
    assert only.name == "macs"


# losses


def test_loss_curves_of_finished_trials_with_the_front_on_top(tmp_path: Path) -> None:
    run = small_run(tmp_path, ROWS)
    run.write_result(2, result(2, 0.60, loss_curve=[2.0, float("nan"), 1.0]))
    run.write_result(4, result(4, 0.40, loss_curve=[]))
    shown = losses.info(report.read(run))
    assert [(curve.trial, curve.on_front) for curve in shown.curves] == [(2, False), (0, True), (1, True)]
    assert shown.curves[0].losses == (2.0, None, 1.0)
    figure = report.loss_figure(run)
    assert [list(trace.x) for trace in figure.data] == [[1, 2, 3], list(range(1, 9)), list(range(1, 9))]
    assert [trace.line.color for trace in figure.data] == [style.GREY] + [style.FAMILIES["ResNet"][0]] * 2
    assert [trace.showlegend for trace in figure.data] == [True, True, False]


# tables


def test_front_table_is_sorted_by_cost_and_has_units(tmp_path: Path) -> None:
    table = tables.front(report.read(small_run(tmp_path, [(0.9, 2_500_000, 31_000), (0.5, 900_000, 40)])))
    rows = [[cell.replace(style.SPACE, " ") for cell in row] for row in table.rows]
    assert [label for label, _ in table.headers[:4]] == ["trial", "accuracy", "MACs", "parameters"]
    assert [row[1:4] for row in rows] == [["50.00 %", "900 k", "40"], ["90.00 %", "2.5 M", "31 k"]]
    assert [row[0] for row in rows] == ["1", "0 (knee)"]


def test_failures_are_counted_by_reason(tmp_path: Path) -> None:
    run = small_run(tmp_path, [(None, 1, 1), (0.5, 1, 1), (None, 2, 2), (None, 3, 3)])
    run.write_result(2, failure(2, "out of memory", status="error"))
    rows = tables.failures(report.read(run)).rows
    assert rows == (("loss became nan", "2", "0, 3"), ("out of memory", "1", "2"))


def test_ledger_counts_and_saved_time(tmp_path: Path) -> None:
    rows = {row[0]: row[1] for row in tables.ledger(report.read(make_run(tmp_path, trials=2))).rows}
    assert rows["proposed"] == "32"
    assert rows["rejected: over cap"] == "17"
    assert rows["training time saved, estimated"] == f"3.5{style.SPACE}min"


def test_settings_show_every_key_and_no_password(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "epochs": 8,
        "max": 40_000_000,
        "recipe": {"lr": 0.1, "names": ["a", "b"]},
        "note": None,
        "deep": {},
    }
    url = "postgresql://me:s3cret@host/db"
    recorded = report.read(small_run(tmp_path, [], storage=url, **config))
    rows = {row[0]: row[1] for row in tables.settings(recorded).rows}
    assert rows == {
        "objectives": "accuracy, macs",
        "storage": "postgresql://***@host/db",
        "epochs": "8",
        "max": f"40,000,000 (40{style.SPACE}M)",
        "recipe.lr": "0.1",
        "recipe.names": "a, b",
        "note": "–",
        "deep": "–",
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (1_000, "1 k"),
        (999_499, "999 k"),
        (999_600, "1 M"),
        (12_345_678, "12.3 M"),
        (4_089_184_256, "4.09 G"),
        (2.5e12, "2.5 T"),
    ],
)
def test_counts_have_three_digits_and_a_unit(value: float, text: str) -> None:
    assert style.count(value).replace(style.SPACE, " ") == text


@given(st.lists(st.floats(1e-3, 1e12), min_size=1, max_size=5))
def test_log_axes_hold_all_values_and_their_ticks(values: list[float]) -> None:
    axis = style.log_axis(values)
    low, high = axis["range"]
    assert all(low < math.log10(value) < high for value in values)
    assert all(low <= math.log10(tick) <= high for tick in axis.get("tickvals", []))
    assert ("tickvals" in axis) != ("tickformat" in axis)


# the page


class Tags(HTMLParser):
    """The elements of a page, the addresses they would fetch, and its visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = make_run(tmp_path_factory.mktemp("results"), trials=22, objectives=("accuracy", "macs", "params"))
    path = report.write_report(run)
    assert path == run.report_html
    return path.read_text(encoding="utf-8")


def test_the_page_is_complete_and_fetches_nothing(page: str) -> None:
    found = Tags(page)
    assert found.addresses == [] and found.handlers == []
    assert {"img", "link", "iframe", "object"}.isdisjoint(found.tags)
    assert "default-src 'none'" in page
    assert page.count("plotly.js v") == 1
    for anchor in ("front", "hypervolume", "importance", "losses"):
        assert page.count(f'id="figure-{anchor}"') == 1
    for words in (
        "Networks on the front",
        "Which genes decide",
        "rejected: duplicate",
        "loss became nan",
        "a made-up CPU",
    ):
        assert words in found.text
    assert 'name = "digits"' in found.text


def test_the_tool_bar_does_not_offer_an_upload(page: str) -> None:
    configs = re.findall(r'\{"displayModeBar"[^}]*\}', page)
    assert len(configs) == 4
    assert all(json.loads(text)["showSendToCloud"] is False for text in configs)


@pytest.fixture
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "TREES", 5)


def hostile_run(root: Path, text: str, extra: str) -> Run:
    """The made run with `text` wherever a user's or a data set's words may stand."""
    run = make_run(root, trials=14)
    value = run.read_run()
    value["config"] |= {"study": text, "space": text, "classes": [text], text: 1}
    run.write_run(value | {"environment": {text: text}})
    run.write_space(f"name = {text}")
    run.write_ledger({"rejected": {text: 1}})
    for trial in run.trial_numbers():
        recorded = run.read_spec(trial)
        recorded["genotype"][extra] = f"{text}{trial % 2}"
        recorded["genotype"][f"{extra} constant"] = 1
        run.write_spec(trial, recorded)
    run.write_result(4, failure(4, text))
    return run


@pytest.mark.usefixtures("few_trees")
def test_hostile_words_are_shown_and_never_run(tmp_path: Path) -> None:
    hostile = hostile_run(tmp_path / "hostile", HOSTILE, HOSTILE)
    plain = hostile_run(tmp_path / "plain", "plain", "gene")
    found, expected = (Tags(report.write_report(run).read_text(encoding="utf-8")) for run in (hostile, plain))
    assert found.tags == expected.tags
    assert found.handlers == [] and found.addresses == []
    assert found.text.count(HOSTILE) == expected.text.count("plain") + 1  # the constant gene, in the caption
    # plotly draws tags in the names of bars: they reach it escaped
    bars = report.importance_figure(hostile).data[0].y
    assert style.escaped(HOSTILE) in bars and HOSTILE not in bars


@pytest.mark.parametrize("trials", [0, 1])
def test_a_run_that_has_hardly_begun_has_a_page(tmp_path: Path, trials: int) -> None:
    run = make_run(tmp_path, trials=trials)
    text = report.write_report(run).read_text(encoding="utf-8")
    assert text.count("No trial has finished yet") == (0 if trials else 2)
    assert f"Finished trials: {trials}, too few" in text
    assert ("plotly.js v" in text) == (trials > 0)
    figures = [report.front_figure, report.hypervolume_figure, report.importance_figure, report.loss_figure]
    drawn = [len(figure(run).data) for figure in figures]
    assert drawn == ([3, 1, 0, 1] if trials else [0, 0, 0, 0])
    assert all(figure(run).layout.annotations for figure in figures if not figure(run).data)


def test_a_run_with_failures_only_has_a_page(tmp_path: Path) -> None:
    text = report.write_report(small_run(tmp_path, [(None, 1, 1)])).read_text(encoding="utf-8")
    assert "No trial has finished yet" in text and "loss became nan" in text


def test_the_same_record_gives_the_same_page(tmp_path: Path) -> None:
    recorded = report.read(small_run(tmp_path, ROWS))
    assert report.render(recorded) == report.render(recorded)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, r"run\.json is missing"),
        ({}, "under the key 'config'"),
        ({"config": {}}, r"config\.objectives"),
        ({"config": {"objectives": ["accuracy", "wattage"]}}, "wattage"),
    ],
)
def test_a_record_that_cannot_be_drawn_is_named(tmp_path: Path, value: dict[str, Any] | None, words: str) -> None:
    run = Run(tmp_path, "made")
    if value is not None:
        run.write_run(value)
    with pytest.raises(ValueError, match=words):
        report.write_report(run)
