"""The report: one file that holds, safely and in little room, what the run folder says."""

import json
import re
import tomllib
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UserError
from tiny_gpt.report.describe import read_lines
from tiny_gpt.report.page import series, write_report
from tiny_gpt.report.plot import HEIGHT, WIDTH, Scale, duration, running_mean, short, thin

BITS = {"value": 1.7321, "low": 1.7102, "high": 1.7544}
EVALUATION = {
    "nats_per_token": 1.96,
    "perplexity": 7.1,
    "word_perplexity": 312.4,
    "bits_per_byte": BITS,
    "n_tokens": 51234,
    "n_bytes": 163456,
    "signature": "split:val|context:64",
}
VOID = {"meta", "br", "path"}


class Page(HTMLParser):
    """Tags, attributes and text; every tag must close in order."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.open, self.words = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def lines(records):
    return "".join(json.dumps(r) + "\n" for r in records)


def records(n=60, every=20, **more):
    rng = np.random.default_rng(0)
    found = []
    for step in range(1, n + 1):
        loss = 2 + 3 * np.exp(-step / 10) + rng.normal() * 0.05
        found.append({"step": step, "loss": loss, "lr": 0.01, "grad_norm": 0.5, "tokens": 1024})
        found[-1] |= more.get(f"at{step}", {})
        if step % every == 0:
            found.append({"step": step, "val_loss": 2.5 - step / n, "val_bits_per_byte": 2.7})
    return found


def make_run(folder, log, **files):
    folder.mkdir(exist_ok=True)
    (folder / "settings.toml").write_text('arch = "modern"\nclip = 1.0\n')
    (folder / "log.jsonl").write_text(log if isinstance(log, str) else lines(log))
    for name, value in files.items():
        (folder / name.replace("_", ".")).write_text(
            value if isinstance(value, str) else json.dumps(value)
        )
    return folder


def page_of(run):
    path = write_report(run)
    assert path == run / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_a_run_with_settings_and_log_only(tmp_path):
    page = page_of(make_run(tmp_path / "run", records()))
    assert "best validation loss, step 60 1.5000" in page.text
    for title in ("Loss", "Learning rate", "Gradient norm", "Settings"):
        assert title in page.text
    assert "Speed" not in page.text
    assert "Samples" not in page.text
    left = {"log.jsonl", "report.html", "settings.toml"}
    assert {p.name for p in (tmp_path / "run").iterdir()} == left
    with pytest.raises(UserError, match=r"settings\.toml is missing"):
        write_report(tmp_path)


def test_everything_of_a_full_run_is_told(tmp_path):
    timing = [{"step": s, "seconds": t, "tokens_per_second": 2e4} for s, t in ((1, 50), (2, 100))]
    timing += [{"step": s, "seconds": t, "tokens_per_second": 2e4} for s, t in ((2, 5), (3, 25))]
    probe = {"longest": 41, "median": 17, "held_out_longest": 38, "text": "the quick brown"}
    run = make_run(
        tmp_path / "run",
        records(at7={"grad_norm": 3.0}, at9={"loss": "nan", "skipped": "nan"}),
        timing_jsonl=lines(timing),
        evaluation_json=EVALUATION | {"memorization": probe},
        samples_json=[{"step": 60, "prompt": "The", "text": "The end"}],
    )
    text = page_of(run).text
    parts = ["bits per byte [1.7102, 1.7544]", "1.7321", "split:val|context:64", "61.4k"]
    parts += ["2 min 5 s", "started 2 times", "1 clipped steps", "1 skipped (nan)"]
    parts += ["41", "held-out text itself shares 38", "the quick brown", "modern", "51,234"]
    parts += ["312.4"]
    assert [t for t in parts if t not in text] == []


def test_nothing_is_fetched_and_both_color_schemes_are_there(tmp_path):
    run = make_run(tmp_path / "run", records(), evaluation_json=EVALUATION)
    page = page_of(run)
    html = (run / "report.html").read_text(encoding="utf-8")
    assert not {"script", "link", "img", "iframe", "object", "embed", "image", "use"} & {*page.tags}
    names = {name for name, _ in page.attributes}
    assert not names & {"src", "href", "xlink:href", "srcset", "data", "action"}
    assert not any(name.startswith("on") for name in names)
    assert not re.search(r"https?:|//|url\(|@import", html)
    assert "prefers-color-scheme: dark" in html


@pytest.mark.parametrize("where", ["text", "prompt", "signature", "setting", "skipped", "probe"])
def test_what_a_model_or_file_says_is_never_markup(tmp_path, where):
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    sample = {"step": 60, "prompt": "", "text": "good"}
    evaluation = EVALUATION | {"memorization": {"longest": 3, "text": "abc"}}
    log = records()
    if where in ("text", "prompt"):
        sample[where] = evil
    elif where == "signature":
        evaluation["signature"] = evil
    elif where == "probe":
        evaluation["memorization"]["text"] = evil
    elif where == "skipped":
        log[3]["skipped"] = evil
    run = make_run(tmp_path / "run", log, samples_json=[sample], evaluation_json=evaluation)
    if where == "setting":
        (run / "settings.toml").write_text(f"data = '''{evil}'''\n")
        assert tomllib.loads((run / "settings.toml").read_text())["data"] == evil
    page = page_of(run)
    assert not {"script", "img"} & {*page.tags}
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert evil in "".join(page.words)  # shown as it is


def test_a_lone_surrogate_and_odd_names_do_not_stop_it(tmp_path):
    sample = '[{"step": 60, "prompt": "", "text": "half \\ud83d of a pair"}]'
    run = make_run(tmp_path / "a <b> & c", records(), samples_json=sample)
    assert "a <b> & c" in page_of(run).text


@pytest.mark.parametrize("tail", ['{"step": 61, "lo', "\0\0\0\0", '{"step": 61, "loss": 1.5}'])
def test_a_torn_last_line_is_left_out(tmp_path, tail):
    whole = make_run(tmp_path / "run", lines(records()) + tail)
    steps, _ = series(read_lines(whole / "log.jsonl"), "loss")
    assert steps[-1] == (61 if tail.endswith("}") else 60)
    page_of(whole)


def test_a_torn_line_in_the_middle_of_the_log_is_named_but_one_of_the_clock_is_not(tmp_path):
    clock = '{"step": 1, "seconds": 1.0, "tok{"step": 2, "seconds": 3.0, "tokens_per_second": 9}\n'
    clock += '{"step": 3, "seconds": 4.0, "tokens_per_second": 9.0}\n'
    run = make_run(tmp_path / "run", records(), timing_jsonl=clock)
    assert "4 s" in page_of(run).text  # a resumed run appends to a line that a crash tore
    text = (run / "log.jsonl").read_text().replace('"step": 5,', '"step": 5', 1)
    (run / "log.jsonl").write_text(text)
    with pytest.raises(UserError, match=r"log\.jsonl is damaged: line 5 "):
        write_report(run)


@pytest.mark.parametrize("name", ["evaluation.json", "samples.json", "settings.toml"])
def test_a_damaged_file_is_named_and_the_old_report_stays(tmp_path, name):
    run = make_run(tmp_path / "run", records())
    (run / "report.html").write_text("old")
    (run / name).write_text('{"half')
    with pytest.raises(UserError, match=name):
        write_report(run)
    assert (run / "report.html").read_text() == "old"
    assert not list(run.glob("*.tmp"))


@pytest.mark.parametrize(
    "log",
    [
        [],
        [{"step": 1, "loss": 3.0}],
        [{"step": 1, "loss": "nan", "grad_norm": "inf", "skipped": "nan"}],
        [{"step": s, "loss": 2.0, "lr": 0.0, "grad_norm": 0.0} for s in (1, 2, 3)],
        [{"step": 1, "loss": 3.0}, {"step": 1, "val_loss": None}],
    ],
)
def test_degenerate_logs(tmp_path, log):
    page_of(make_run(tmp_path / "run", log))


def test_a_hundred_thousand_steps_stay_small(tmp_path):
    n = 100_000
    rng = np.random.default_rng(0)
    loss, norm, speed = (2 + rng.random((3, n))).round(4).tolist()
    row = '{{"step": {}, "loss": {}, "lr": 0.01, "grad_norm": {}, "tokens": 4096}}\n'
    log = "".join(map(row.format, range(1, n + 1), loss, norm))
    row = '{{"step": {}, "seconds": {}, "tokens_per_second": {}}}\n'
    timing = "".join(map(row.format, range(1, n + 1), range(n), speed))
    long = [{"step": s, "prompt": "<", "text": "<&>" * 3000} for s in range(100)]
    run = make_run(tmp_path / "run", log, timing_jsonl=timing, samples_json=long)
    write_report(run)
    assert (run / "report.html").stat().st_size < 400_000
    assert "410M" in (run / "report.html").read_text(encoding="utf-8")


# ---- curves


@given(
    y=st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=200),
    columns=st.integers(1, 40),
)
def test_thinning_keeps_each_strip_s_extremes_and_the_ends(y, columns):
    y = np.array(y)
    x = np.arange(len(y), dtype=np.float64)
    kept = thin(x, y, columns)
    assert (np.diff(kept) > 0).all()
    finite = np.flatnonzero(np.isfinite(y))
    assert np.isin(kept, finite).all()
    assert len(kept) <= 2 * (columns + 1) + 2
    if finite.size:
        assert kept[0] == finite[0]
        assert kept[-1] == finite[-1]
    strip = (x / max(x[-1], 1) * columns).astype(int)
    for s in np.unique(strip[finite]):
        inside = finite[strip[finite] == s]
        chosen = kept[strip[kept] == s]
        assert y[chosen].min() == y[inside].min()
        assert y[chosen].max() == y[inside].max()


def test_the_running_mean_is_that_of_pandas_within_and_never_looks_only_ahead():
    rng = np.random.default_rng(1)
    y, half = rng.normal(size=50), 4
    valid = rng.random(50) > 0.3
    y[7], valid[7] = np.nan, False
    ours = running_mean(y, half, valid)
    masked = pd.Series(np.where(valid, y, np.nan))
    theirs = masked.rolling(2 * half + 1, center=True, min_periods=1).mean()
    np.testing.assert_allclose(ours[half:], theirs[half:], rtol=1e-12)
    for i in range(half):
        np.testing.assert_allclose(ours[i], masked[: 2 * i + 1].mean(), rtol=1e-12)


def test_series_take_the_later_of_two_and_read_nan_in_words():
    steps, values = series(
        [{"step": 2, "a": 5}, {"step": 1, "a": "nan"}, {"step": 2, "a": 6}, {"step": 3}], "a"
    )
    assert steps.tolist() == [1, 2]
    assert np.isnan(values[0])
    assert values[1] == 6


@given(low=st.floats(-1e4, 1e4), span=st.floats(1e-3, 1e4), log=st.booleans())
def test_ticks_are_few_and_within(low, span, log):
    scale = Scale(low / 1e3, low / 1e3 + span / 1e3, log) if log else Scale(low, low + span)
    ticks = scale.ticks()
    at = scale(ticks)
    assert 1 <= len(ticks) <= 12
    assert (np.diff(at) > 0).all()
    inside = np.log10(ticks) if log else ticks
    slack = 1e-9 * max(1, abs(low))
    assert (inside >= scale.low - slack).all()
    assert (inside <= scale.high + slack).all()


def test_a_skipped_spike_does_not_flatten_the_loss(tmp_path):
    run = make_run(tmp_path / "run", records(at30={"loss": 1e9, "skipped": "spike"}))
    html = page_of(run)
    ticks = [w for w in html.words if re.fullmatch(r"\d(\.\d)?", w.strip())]
    assert {"2", "3"} <= {*ticks}
    assert "1e+09" not in html.text  # no axis reaches that far


def test_paths_stay_within_the_plot(tmp_path):
    run = make_run(tmp_path / "run", records(at30={"loss": 1e9, "grad_norm": 1e5}))
    page = page_of(run)
    for name, d in page.attributes:
        if name == "d":
            for a, b in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", d):
                assert 0 <= float(a) <= WIDTH
                assert 0 <= float(b) <= HEIGHT


def test_numbers_and_times_are_short():
    for value, text in ((0.00012, "0.00012"), (999.7, "1k"), (107_234, "107k"), (999_999, "1M")):
        assert short(value) == text
    times = {3.14159: "3.14 s", 59.99: "1 min 0 s", 119.7: "2 min 0 s", 19980: "5 h 33 min"}
    assert [duration(s) for s in times] == list(times.values())
