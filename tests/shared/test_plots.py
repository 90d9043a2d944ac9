"""Figures: small files, one style, labels that do not overlap."""

import io
import itertools

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image
from tiny_project import files_in

from shared import plots


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    before = plt.get_fignums()
    yield
    assert plt.get_fignums() == before


def noise(size=(600, 900, 3)):
    return np.random.default_rng(0).random(size)


def drawn(image=None):
    figure, axes = plots.subplots()
    if image is None:
        axes.plot([3, 2, 1], label="loss")
    else:
        axes.imshow(image)
    return figure


def test_line_plot(tmp_path):
    plots.save(drawn(), tmp_path / "a.png")
    assert list(files_in(tmp_path)) == ["a.png"]
    assert (tmp_path / "a.png").stat().st_size < 40_000
    assert Image.open(tmp_path / "a.png").size == (880, 495)


def test_the_same_figure_gives_the_same_file(tmp_path):
    """No date, no version of a library: a figure that did not change is no change for git."""
    for name in ("a.png", "b.png"):
        plots.save(drawn(), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert not Image.open(tmp_path / "a.png").text


def test_noise_is_the_worst_case(tmp_path):
    plots.save(drawn(noise()), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size <= plots.MAX_PNG_BYTES
    assert np.asarray(Image.open(tmp_path / "a.png").convert("L")).std() > 10


def test_colors_go_before_resolution(tmp_path):
    plain = io.BytesIO()
    plots.save(drawn(), tmp_path / "a.png")
    figure = drawn(np.linspace(0, 1, 600 * 900).reshape(600, 900) + 0.02 * noise((600, 900)))
    with plots.style():
        figure.savefig(plain, format="png", dpi=110, metadata={"Software": None})
    plots.save(figure, tmp_path / "b.png", max_bytes=plain.tell() - 1)
    image = Image.open(tmp_path / "b.png")
    assert image.size == Image.open(tmp_path / "a.png").size
    assert image.mode == "P"


def test_a_figure_that_cannot_fit(tmp_path):
    with pytest.raises(ValueError, match=r"a\.png does not fit in max_bytes = 100, got \d+"):
        plots.save(drawn(), tmp_path / "a.png", max_bytes=100)
    assert files_in(tmp_path) == {}


def test_a_figure_that_cannot_be_drawn(tmp_path):
    figure = drawn()
    figure.axes[0].set_title("$\\notacommand$")
    with pytest.raises(ValueError, match="notacommand"):
        plots.save(figure, tmp_path / "a.png")
    assert files_in(tmp_path) == {}


def test_style_stays_inside():
    before = dict(matplotlib.rcParams)
    with plots.style():
        assert not matplotlib.rcParams["axes.spines.top"]
    figure, axes = plots.subplots(2, 3, size=(9, 6))
    assert axes.shape == (2, 3)
    assert figure.get_size_inches().tolist() == [9, 6]
    assert not axes[0, 0].spines["right"].get_visible()
    plt.close(figure)
    assert dict(matplotlib.rcParams) == before


def test_labels_do_not_overlap():
    figure, axes = plots.subplots()
    for i in range(8):
        axes.plot([0, 1], [0, 1 + i / 1000], label=f"line {i}")
    axes.plot([0, 1], [0, 1], label="_hidden")
    axes.plot([0, 1], [np.nan, np.nan], label="diverged")
    plots.label_lines(axes, fontsize=9)
    figure.canvas.draw()
    boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == 8
    assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))
    assert [text.get_color() for text in axes.texts] == [
        line.get_color() for line in axes.get_lines()[:8]
    ], "in the order of the lines' ends"
    plt.close(figure)


def test_label_stands_at_the_end_of_its_line():
    _, axes = plots.subplots()
    axes.plot([0, 1, 2], [0.0, 5.0, np.nan], label="stops early")
    axes.set_ylim(0, 10)
    plots.label_lines(axes)
    assert axes.texts[0].xy == pytest.approx((1.01, 0.5))
    plots.label_lines(plots.subplots()[1])  # nothing to label
    plt.close("all")


def test_interval_band():
    figure, axes = plots.subplots()
    runs = np.array([[1.0, 2.0], [3.0, 6.0]])
    plots.interval_band(axes, [0, 1], runs, color=plots.BLUE, label="loss")
    (line,) = axes.get_lines()
    assert line.get_ydata().tolist() == [2.0, 4.0]
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (1.0, 6.0)
    for wrong in (runs.T[:1].repeat(3, 1), runs[0], runs[:, :1]):
        with pytest.raises(ValueError, match=r"runs must have shape \(seeds, 2\), got"):
            plots.interval_band(axes, [0, 1], wrong, color=plots.BLUE, label="loss")
    plt.close(figure)


def test_open_limits_make_room_for_a_reference():
    figure, axes = plots.subplots()
    plots.curves(axes, [1, 2], {"a": [1, 2]}, reference={"guessing": 9.0}, ylim=(0, None))
    figure.canvas.draw()
    text = next(t for t in axes.texts if t.get_text() == "guessing")
    assert text.get_window_extent().y0 > axes.transData.transform((1, 9.0))[1]
    assert axes.get_ylim()[0] == 0 < 9 < axes.get_ylim()[1]
    plt.close(figure)
