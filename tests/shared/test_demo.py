"""`study demo`: the chain of the five programs, its marks, its server and its page."""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from shared import cli, pretrained
from shared.demo import command, material, page, runner
from shared.demo.runner import Chain, StepError
from shared.demo.steps import MODULES, Step, steps
from shared.errors import UserError
from shared.study import call
from shared.texts import Document, pydocs

PATIENCE = 180  # seconds; whatever takes longer hangs
EVIL = "<script>alert('&')</script>"
# Leaves its number and counts how often it ran.
WORK = """
import pathlib, sys
out, name = pathlib.Path(sys.argv[1]), sys.argv[2]
print("says", name)
with (out / f"{name}.count").open("a") as count:
    count.write("x")
if (out / f"{name}.broken").exists():
    sys.exit("it broke here")
(out / name).write_text((out / name).read_text() + "again" if (out / name).exists() else "new")
"""
SERVE = """
import os, pathlib, signal, sys, time
out, deaf = pathlib.Path(sys.argv[1]), len(sys.argv) > 2
if deaf:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
(out / "server.pid").write_text(str(os.getpid()))
print("small at http://127.0.0.1:1/v1", flush=True)
time.sleep(600)
"""
HANG = """
import os, pathlib, sys, time
(pathlib.Path(sys.argv[1]) / "step.pid").write_text(str(os.getpid()))
time.sleep(600)
"""


@dataclass(frozen=True)
class Fake(Step):
    """A step of a few lines of Python."""

    code: str = WORK

    def command(self, places):
        words = [word.replace("{out}", places["out"]) for word in self.words]
        return [sys.executable, "-c", self.code, *words]


def work(name, *words):
    return Fake(name, "rag", "to see", ("{out}", name, *words), (name,))


def server(*words, code=SERVE):
    return Fake("serve", "serve", "to see", ("{out}", *words), serves=True, code=code)


def chain(out, *chosen, start=""):
    for folder in ("marks", "logs"):
        (out / folder).mkdir(exist_ok=True)
    return Chain(out, chosen, Console(quiet=True), start=start)


def counts(out):
    return {path.stem: len(path.read_text()) for path in sorted(out.glob("*.count"))}


def alive(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


class Links(HTMLParser):
    """Links, ids and tags of a page."""

    def __init__(self, html):
        super().__init__()
        self.links, self.ids, self.tags = [], set(), set()
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.add(tag)
        self.ids |= {found["id"]} if "id" in found else set()
        self.links += [found[name] for name in ("href", "src") if name in found]


def check_links(out):
    html = (out / "index.html").read_text(encoding="utf-8")
    found = Links(html)
    assert len(found.links) > 5
    for link in found.links:
        assert link[1:] in found.ids if link.startswith("#") else (out / link).is_file(), link
    assert not found.tags & {"script", "link", "img", "iframe"}
    return html


# ---- the chain as it is


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    assert call(cli.app, ["demo", "--quick", "--out", str(out)]) == 0
    return out


def test_the_quick_form_leaves_a_page_of_what_the_programs_say(quick):
    html = check_links(quick)
    told = json.loads((quick / "tiny_gpt" / "evaluation.json").read_text())
    assert f"{told['bits_per_byte']['value']:.2f}" in html
    small = json.loads((quick / "tiny_gpt_small.json").read_text())
    assert f"{small['bytes']:,}" in html
    results = json.loads((quick / "eval_tiny_gpt_small" / "results.json").read_text())
    bits = [x for x in results["numbers"] if x["metric"] == "bits_per_byte"]
    assert f"{bits[0]['value']:.3f}" in html
    for question in material.QUESTIONS:
        assert question in html
    for step in steps(quick=True, smollm2=False):
        assert f"uv run {step.program} {step.words[0].split('{')[0]}" in html
    assert len((quick / "answers.jsonl").read_text().splitlines()) == len(material.QUESTIONS)


def test_what_is_done_is_not_done_again(quick, capsys):
    before = {path: path.stat().st_mtime_ns for path in (quick / "marks").iterdir()}
    assert call(cli.app, ["demo", "--quick", "--out", str(quick)]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (quick / "marks").iterdir()}
    assert "all steps are done" in capsys.readouterr().out


@pytest.mark.parametrize("smollm2", [True, False])
def test_the_programs_know_the_commands_of_the_default_form(smollm2):
    found = steps(quick=False, smollm2=smollm2)
    assert ("smollm2" in str(found)) == smollm2
    assert {step.program for step in found} == set(MODULES)
    places = {"out": "runs/demo", "url": "http://127.0.0.1:1"}
    for step in found:
        app = importlib.import_module(f"{MODULES[step.program]}.cli").app
        words = step.command(places)[3:]
        app.parse_args(words, exit_on_error=False, print_error=False)


# ---- steps that are small


def test_a_failure_keeps_what_was_done_and_the_next_call_goes_on(tmp_path):
    three = [work("a"), work("b"), work("c")]
    (tmp_path / "b.broken").touch()
    with pytest.raises(StepError, match=r"b failed \(status 1\): uv run rag .*logs/b.log") as error:
        chain(tmp_path, *three).run("m")
    assert error.value.status == 1
    assert (tmp_path / "logs" / "b.log").read_text() == "says b\nit broke here\n"
    assert counts(tmp_path) == {"a": 1, "b": 1}
    (tmp_path / "b.broken").unlink()
    chain(tmp_path, *three).run("m")
    assert counts(tmp_path) == {"a": 1, "b": 2, "c": 1}
    chain(tmp_path, *three).run("m")
    assert counts(tmp_path) == {"a": 1, "b": 2, "c": 1}


def test_from_does_again_from_there(tmp_path):
    three = [work("a"), work("b"), work("c")]
    chain(tmp_path, *three).run("m")
    chain(tmp_path, *three, start="b").run("m")
    assert counts(tmp_path) == {"a": 1, "b": 2, "c": 2}
    assert (tmp_path / "c").read_text() == "new"


def test_another_command_or_other_files_are_done_anew(tmp_path):
    chain(tmp_path, work("a"), work("b")).run("m")
    chain(tmp_path, work("a"), work("b", "--more")).run("m")
    assert counts(tmp_path) == {"a": 1, "b": 2}
    assert (tmp_path / "b").read_text() == "new"
    chain(tmp_path, work("a"), work("b", "--more")).run("other")
    assert counts(tmp_path) == {"a": 2, "b": 3}


def test_what_was_made_from_something_older_is_made_again(tmp_path):
    two = [work("a"), work("b")]
    chain(tmp_path, *two).run("m")
    (tmp_path / "a").unlink()
    chain(tmp_path, *two).run("m")
    assert counts(tmp_path) == {"a": 2, "b": 2}
    assert (tmp_path / "b").read_text() == "new"


def test_what_follows_a_new_one_is_not_done_though_the_server_failed(tmp_path):
    chain(tmp_path, work("a"), server(), work("b")).run("m")
    (tmp_path / "a").unlink()
    with pytest.raises(StepError):
        chain(tmp_path, work("a"), server(code="exit(1)"), work("b")).run("m")
    chain(tmp_path, work("a"), server(), work("b")).run("m")
    assert counts(tmp_path) == {"a": 2, "b": 2}


def test_a_program_goes_on_with_what_it_began(tmp_path):
    (tmp_path / "a.broken").touch()
    with pytest.raises(StepError):
        chain(tmp_path, work("a")).run("m")
    (tmp_path / "a").write_text("half ")
    (tmp_path / "a.broken").unlink()
    chain(tmp_path, work("a")).run("m")
    assert (tmp_path / "a").read_text() == "half again"


def test_what_a_step_prints_is_all_there_or_not_at_all(tmp_path):
    said = Fake("a", "rag", "", ("{out}", "a"), ("a.json",), stdout="a.json")
    (tmp_path / "a.broken").touch()
    with pytest.raises(StepError):
        chain(tmp_path, said).run("m")
    assert not (tmp_path / "a.json").exists()
    (tmp_path / "a.broken").unlink()
    chain(tmp_path, said).run("m")
    assert (tmp_path / "a.json").read_text() == "says a\n"


def test_a_step_that_leaves_nothing_failed(tmp_path):
    lazy = Fake("a", "rag", "", (), ("a",), code="pass")
    with pytest.raises(StepError, match="it did not leave a"):
        chain(tmp_path, lazy).run("m")


def test_the_server_serves_what_comes_after_it_and_ends(tmp_path):
    ask = work("ask", "{url}")
    chain(tmp_path, server(), ask).run("m")
    assert chain(tmp_path).mark(ask)["typed"].endswith("ask http://127.0.0.1:1")
    assert not alive(int((tmp_path / "server.pid").read_text()))
    (tmp_path / "server.pid").unlink()
    chain(tmp_path, server(), ask).run("m")  # nobody is left to be served
    assert not (tmp_path / "server.pid").exists()


@pytest.mark.parametrize("words", [(), ("deaf",)])
def test_the_server_ends_when_a_later_step_fails(words, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "END", 0.3)
    (tmp_path / "ask.broken").touch()
    with pytest.raises(StepError):
        chain(tmp_path, server(*words), work("ask")).run("m")
    assert not alive(int((tmp_path / "server.pid").read_text()))


def test_a_server_that_does_not_start_is_one_line(tmp_path):
    with pytest.raises(StepError, match=r"serve failed \(it is not ready\)"):
        chain(tmp_path, server(code="raise SystemExit('no model')"), work("ask")).run("m")
    assert counts(tmp_path) == {}


@contextlib.contextmanager
def hanging(out):
    """A demo whose step does not end, and the process ids of its server and step."""
    code = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.path[:0] = [{str(Path(__file__).parent)!r}]
import test_demo as t
step = t.Fake("ask", "rag", "", ("{{out}}",), code=t.HANG)
t.command.steps = lambda **kind: [t.server(), step]
sys.exit(t.call(t.cli.app, ["demo", "--quick", "--out", {str(out)!r}]))
"""
    silent = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
    process, files = subprocess.Popen([sys.executable, "-c", code], **silent), ("server", "step")
    try:
        deadline = time.monotonic() + PATIENCE
        while not (out / "step.pid").exists() or not (out / "step.pid").read_text():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process, [int((out / f"{name}.pid").read_text()) for name in files]
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_the_server_and_the_step(number, tmp_path):
    with hanging(tmp_path / "out") as (process, children):
        process.send_signal(number)
        assert process.wait(PATIENCE) in (130, 143)
        assert not any(map(alive, children))


def test_the_program_of_a_killed_demo_holds_the_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Chain, "run", lambda self, digest: None)
    out = tmp_path / "out"
    with hanging(out) as (process, (server, step)):
        process.kill()
        process.wait()
        os.kill(server, signal.SIGKILL)
        assert call(cli.app, ["demo", "--quick", "--out", str(out)]) == 2
        assert f"--out {out} is being worked on by another" in capsys.readouterr().err
        os.kill(step, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(UserError), runner.alone(out / command.OURS):
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ---- what it works on


def test_no_paragraph_is_read_and_judged():
    read, judge = material.split(pydocs())
    seen = {part for document in judge for part in document.text.split("\n\n")}
    assert len(judge) > 5
    assert not seen & {part for document in read for part in document.text.split("\n\n")}
    assert not {d.name for d in judge} & {d.name for d in read}


def test_the_other_form_leaves_no_text_behind(tmp_path):
    first = material.write(tmp_path, quick=False)
    assert material.write(tmp_path, quick=True) != first
    names = {path.stem for path in (tmp_path / "manual").iterdir()}
    assert 5 < len(names) < 20
    assert material.write(tmp_path, quick=False) == first


# ---- the page


@pytest.fixture
def evil(tmp_path):
    """Results whose every text is markup."""
    run = tmp_path / "tiny_gpt"
    run.mkdir()
    (run / "log.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "val_loss": 2.25}\n')
    (run / "samples.json").write_text(json.dumps([{"text": EVIL}]))
    chunk = {"document": EVIL, "start": 10, "text": f"before {EVIL} after"}
    cited = {"number": 1, "document": EVIL, "start": 17, "end": 17 + len(EVIL), "quote": EVIL}
    answer = {"question": EVIL, "text": f"{EVIL} [1] and [2].", "abstained": False, "note": EVIL}
    answer |= {"citations": [cited], "hits": [{"chunk": chunk}]}
    (tmp_path / "answers.jsonl").write_text(json.dumps(answer) + "\n")
    return tmp_path


def test_the_page_takes_every_text_for_a_text(evil):
    made = chain(evil, *steps(quick=True, smollm2=False))
    page.write(made)
    html = check_links(evil)
    assert EVIL not in html
    assert html.count("&lt;script&gt;") >= 6
    assert "<mark>&lt;script&gt;" in html
    assert '<a class="cite" href="#source-1-1">[1]</a>' in html
    assert "and [2]." in html


def test_the_page_of_nothing_links_nothing_that_is_not_there(tmp_path):
    page.write(chain(tmp_path, *steps(quick=False, smollm2=True)))
    html = (tmp_path / "index.html").read_text()
    assert [link for link in Links(html).links if not link.startswith("#")] == []


# ---- mistakes


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--from", "nowhere"], "--from must be one of train, measure-tiny, "),
        (["--out", "file"], "--out must be a new folder or that of an earlier demo, got file"),
        (["--out", "full"], "--out must be a new folder or that of an earlier demo, got full"),
        (["--out", "theirs"], "--out must be a new folder or that of an earlier demo, got theirs"),
        (["--out", "link"], "--out must be a new folder or that of an earlier demo, got link"),
        (["--form", "x"], "--form"),
    ],
)
def test_a_mistake_is_one_line(words, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Chain, "run", lambda self, digest: None)
    Path("file").touch()
    Path("full").mkdir()
    Path("full/letter.txt").touch()
    for theirs in ("theirs/marks/maths.json", "theirs/manual/chapter.txt"):
        Path(theirs).parent.mkdir(parents=True)
        Path(theirs).touch()
    Path("link").symlink_to("nowhere")
    assert call(cli.app, ["demo", "--quick", *words]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert expected in said[0]
    assert not Path("runs").exists()
    assert Path("theirs/manual/chapter.txt").exists()


def test_without_smollm2_the_chain_says_so(tmp_path, monkeypatch, capsys):
    def missing():
        raise UserError("the weights are missing")

    seen = []
    monkeypatch.setattr(pretrained, "smollm2", missing)
    monkeypatch.setattr(Chain, "run", lambda self, digest: seen.extend(self.steps))
    assert call(cli.app, ["demo", "--out", str(tmp_path / "out")]) == 0
    assert "tiny_gpt's model only: the weights are missing" in capsys.readouterr().out
    assert "smollm2" not in str(seen)
    assert "extractive" in seen[-1].words


def test_a_folder_of_texts_may_hold_one():
    read, judge = material.split([Document("a", "one")])
    assert (read, judge) == ([], [Document("a", "one")])
