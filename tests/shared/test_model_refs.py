"""One reference means one model in all programs: what is parsed, and what is then said."""

import json
import os
import subprocess
import sys

import pytest
import torch

import compress.models.opening as compress_opening
import llm_eval.models.opening as llm_eval_opening
import rag.answering.models as rag_models
import serving.models.opening as serving_opening
from llm_eval.listing import MODELS
from llm_eval.types import Request
from serving import server
from serving.engine.backend import Limits
from serving.engine.metrics import Metrics
from shared import artifacts, model_refs
from shared.artifacts import ArtifactError
from shared.errors import UserError
from shared.model_refs import KINDS, LOCAL, SHARED, ModelRef, address, kind_of, listed, parse
from week19.sampling import greedy

PROGRAMS = {
    "rag": rag_models.ACCEPTS,
    "llm-eval": llm_eval_opening.ACCEPTS,
    "serve": server.ACCEPTS,
    "compress": LOCAL,
}


# ---- what is written


@pytest.mark.parametrize(
    ("text", "kind", "rest"),
    [
        ("smollm2", "smollm2", ""),
        (" tiny_gpt: runs/mine ", "tiny_gpt", "runs/mine"),
        ("compress:C:\\x", "compress", "C:\\x"),
        ("gguf:a b:c.gguf", "gguf", "a b:c.gguf"),
        ("openai:http://127.0.0.1:8000/v1#a/b@c", "openai", "http://127.0.0.1:8000/v1#a/b@c"),
        ("openai:http://[::1]/v1#a?b", "openai", "http://[::1]/v1#a?b"),
        ("https://host/v1", "openai", "https://host/v1"),
        ("week28:verilog", "week28", "verilog"),
    ],
)
def test_a_kind_and_the_rest(text, kind, rest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b:c.gguf").touch()
    ref = parse(text, accepts=tuple(KINDS))
    assert ref == ModelRef(kind, rest)
    assert parse(ref.text, accepts=[kind]) == ref


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "hf:",
        "hf: ",
        "openai:",
        "smollm2:x",
        "SmolLM2",
        "hf",
        "C:\\x",
        "no/such",
        "/",
        "\0",
    ],
)
def test_what_is_no_reference_is_one_line(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        parse(text, accepts=["hf", "openai", "smollm2"], what="--model")
    must = "--model must be hf:FOLDER, openai:URL[#MODEL] or smollm2, got "
    assert str(caught.value) == f"{must}{text.strip()!r}"


@pytest.mark.parametrize(
    "text",
    [
        "openai:http://me:secret@host/v1",
        "openai:host:80/secret",
        "openai:ftp://secret",
        "openai:http://",
        "http://me:secret@host",
        "openai:http://host/v1?key=secret",
        "http://host?key=secret#m",
        "opena:http://me:secret@host",
    ],
)
def test_an_address_is_checked_and_not_repeated(text):
    with pytest.raises(UserError) as caught:
        parse(text, accepts=SHARED)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no weights") as caught:
        parse("openai:http://me:secret@host", accepts=LOCAL, refuses={"openai": "no weights"})
    assert "secret" not in str(caught.value)


def test_an_address_names_a_model_or_not():
    assert address("http://host/v1/#m") == ("http://host/v1", "m")
    assert address("http://host") == ("http://host", "default")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hf:a file", "hf:FOLDER must be a folder that holds a config.json, got 'a file'"),
        ("hf:empty", "hf:FOLDER must be a folder that holds a config.json, got 'empty'"),
        ("hf:a\nb", r"hf:FOLDER must be a folder that holds a config.json, got 'a\nb'"),
        ("gguf:a file", "gguf:FILE must end in .gguf, got 'a file'"),
        ("gguf:empty.gguf", "gguf:FILE must be a file on this machine, got 'empty.gguf'"),
        ("gguf:pipe.gguf", "gguf:FILE must be a file on this machine, got 'pipe.gguf'"),
        ("gguf:link.gguf", "gguf:FILE must be a file on this machine, got 'link.gguf'"),
    ],
)
def test_what_lies_there_is_looked_at_first(text, said, tmp_path, monkeypatch):
    """A pipe would be opened until somebody writes into it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file").touch()
    for name in ("empty", "empty.gguf"):
        (tmp_path / name).mkdir()
    os.mkfifo("pipe.gguf")
    os.symlink("nowhere", "link.gguf")
    with pytest.raises(UserError) as caught:
        parse(text, accepts=LOCAL)
    assert str(caught.value) == said


def test_a_home_is_found_where_a_kind_stands_before_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.gguf").touch()
    for text in ("gguf:~/x.gguf", "~/x.gguf"):
        ref = parse(text, accepts=LOCAL)
        assert (ref.path, ref.text) == (tmp_path / "x.gguf", "gguf:~/x.gguf")


def test_nothing_heavy_is_read_for_a_name():
    code = "import sys, shared.model_refs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- what a folder is


def test_a_folder_that_is_something_else(tmp_path):
    assert kind_of(tmp_path) is None
    (tmp_path / "config.json").touch()
    (tmp_path / "tensors.safetensors").touch()  # an artifact that lost its manifest
    assert kind_of(tmp_path) is None
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    assert kind_of(tmp_path) == "hf"
    artifacts.save(tmp_path / "lsa", {artifacts.TENSORS: b""}, metadata={"kind": "lsa"})
    assert kind_of(tmp_path / "lsa") is None
    (tmp_path / "x.gguf").mkdir()
    assert kind_of(tmp_path / "x.gguf") is None


def test_a_torn_manifest_is_named(tmp_path):
    artifacts.save(tmp_path / "a", {artifacts.TENSORS: b""}, metadata={"format": "compression 1"})
    assert kind_of(tmp_path / "a") == "compress"
    (tmp_path / "a" / artifacts.MANIFEST).write_text("{")
    with pytest.raises(ArtifactError, match=r"MANIFEST\.json was altered or is torn"):
        parse(str(tmp_path / "a"), accepts=LOCAL)


# ---- what the programs accept


@pytest.mark.parametrize("kind", SHARED)
def test_every_program_accepts_the_same_or_says_why_not(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("config.json", "a.gguf"):
        (tmp_path / name).touch()
    rest = {"openai": "http://host", "gguf": "a.gguf", "hf": os.curdir}.get(kind, "a")
    text = ModelRef(kind, rest if KINDS[kind] else "").text
    refuses = {"serve": server.REFUSES, "compress": compress_opening.REFUSES}
    for program, accepts in PROGRAMS.items():
        reasons = refuses.get(program, {})
        assert (kind in accepts) != (kind in reasons)
        if kind in accepts:
            assert parse(text, accepts=accepts, refuses=reasons).text == text
        assert [k for k in accepts if k in SHARED] == [k for k in SHARED if k in accepts]


def test_every_program_lists_what_it_accepts():
    limits, metrics = Limits(), Metrics("x")
    openers = {
        "rag": rag_models.open_model,
        "llm-eval": llm_eval_opening.open_model,
        "serve": lambda ref: server.open_backend(ref, limits, metrics),
        "compress": compress_opening.open_model,
    }
    for program, opener in openers.items():
        with pytest.raises(UserError) as caught:
            opener("gpt-9")
        assert f" must be {listed(PROGRAMS[program])}, got 'gpt-9'" in str(caught.value)
    with pytest.raises(UserError, match=r"; openai:URL is served already$"):
        openers["serve"]("openai:http://host")
    with pytest.raises(UserError, match=r"; openai:URL has no weights here to compress$"):
        openers["compress"]("openai:http://host")


def test_helps_say_what_is_accepted():
    from compress import cli as compress_cli
    from llm_eval.options import Asking
    from rag.options import Answering
    from serving.cli import serve

    docs = {"rag": Answering, "llm-eval": Asking, "serve": serve, "compress": compress_cli}
    for program, documented in docs.items():
        assert listed(PROGRAMS[program]) in " ".join(documented.__doc__.split()), program
    assert tuple(MODELS) == llm_eval_opening.ACCEPTS


@pytest.mark.parametrize("program", ["rag", "llm_eval", "serving", "compress"])
def test_readmes_name_the_same_in_the_same_order(program):
    text = artifacts.Path(model_refs.__file__).parents[1] / "capstones" / program / "README.md"
    names = [f"`{listed([kind])}`" for kind in (LOCAL if program == "compress" else SHARED)]
    if program == "serving":
        names = names[:-1]
    assert ", ".join(names) in text.read_text(encoding="utf-8")


# ---- what they then say

PROMPT, N = "Black tea", 12


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A small run of tiny-gpt, its exports, and what compress makes of it."""
    from compress.artifact.folder import save
    from compress.pipeline.recipe import recipe_from
    from compress.pipeline.run import compress
    from tiny_gpt.data.tokenizers import train_tokenizer
    from tiny_gpt.export.folder import export
    from tiny_gpt.model.config import GPTConfig
    from tiny_gpt.model.gpt import GPT
    from tiny_gpt.training.checkpoints import load_checkpoint, save_checkpoint

    home = tmp_path_factory.mktemp("models")
    text = "Black tea needs boiling water, and green tea less. " * 8
    tokenizer = train_tokenizer("bpe", [text], vocab_size=280, end_of_text=True)
    generator = torch.Generator().manual_seed(0)
    sizes = {"context": 64, "n_layers": 2, "n_heads": 2, "d_model": 32, "d_ff": 64}
    model = GPT(GPTConfig.of("llama", tokenizer.vocab_size, **sizes), generator).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
        for token in range(tokenizer.vocab_size):  # so that text comes out
            text = tokenizer.decode([token])
            if token == tokenizer.end_of_text or not (text.isascii() and text.isprintable()):
                model.head.weight[token] = 0
    save_checkpoint(home / "run" / "best", model, tokenizer, 0)
    for format in ("hf", "gguf"):
        export(load_checkpoint(home / "run"), format, home / format, verify=False)
    recipe = recipe_from([{"quantize": {"method": "rtn", "bits": 3, "group_size": 16}}])
    for kind, ref in {"run": home / "run", "gguf": home / "gguf" / "model.gguf"}.items():
        save(compress(compress_opening.open_model(str(ref)), recipe), home / f"{kind}-3-bit")
    return {
        "tiny_gpt": home / "run",
        "hf": home / "hf",
        "gguf": home / "gguf" / "model.gguf",
        "compress": home / "run-3-bit",
        "compressed gguf": home / "gguf-3-bit",
    }


def said_by_rag(ref):
    model = rag_models.open_model(ref)
    message = {"role": "user", "content": PROMPT}
    assert model.fits([message], N)
    return "".join(model.stream([message], max_new_tokens=N))


def said_by_llm_eval(ref):
    model = llm_eval_opening.open_model(ref)
    (found,) = model.answer([Request("generate", f"{PROMPT}\nAnswer:", max_new_tokens=N)])
    return found.text


def said_by_serving(ref):
    model = serving_opening.open_model(ref)
    tokens = model.tokens(f"{PROMPT}\nAnswer:")
    return model.decode(greedily(model.network, tokens)[len(tokens) :])


def said_by_compress(ref):
    opened = compress_opening.open_model(ref)
    tokens = opened.tokenizer.encode(f"{PROMPT}\nAnswer:")
    return opened.tokenizer.decode(greedily(opened.model, tokens)[len(tokens) :])


def greedily(network, tokens):
    tokens = list(tokens)
    with torch.inference_mode():
        for _ in range(N):
            tokens.append(int(greedy(network(torch.tensor([tokens]))[:, -1])))
    return tokens


@pytest.mark.parametrize("kind", ["tiny_gpt", "hf", "gguf", "compress", "compressed gguf"])
def test_programs_say_the_same_of_a_path(places, kind):
    path = str(places[kind])
    assert kind_of(places[kind]) == kind.split()[0].replace("compressed", "compress")
    expected = said_by_compress(path)
    assert len(expected) >= N
    for said in (said_by_rag, said_by_llm_eval, said_by_serving):
        assert said(path) == expected, said.__name__


def test_a_run_its_export_and_its_checkpoint_are_one_model(places):
    texts = {said_by_rag(str(places[kind])) for kind in ("tiny_gpt", "hf", "gguf")}
    texts.add(said_by_serving(str(places["tiny_gpt"] / "best")))
    assert len(texts) == 1
    assert said_by_compress(str(places["compress"])) not in texts


def test_names_are_references_in_full(places):
    path = places["compress"]
    full = f"compress:{path}"
    for open_model in (
        rag_models.open_model,
        llm_eval_opening.open_model,
        serving_opening.open_model,
        compress_opening.open_model,
    ):
        assert open_model(str(path)).name == full


def test_the_identity_of_a_compressed_model_is_its_weights(places, tmp_path):
    path = places["compress"]
    first = llm_eval_opening.open_model(f"compress:{path}").identity
    artifact = artifacts.load(path)
    late = artifact.metadata | {"identity": "of another day"}
    artifacts.save(tmp_path / "late", artifact.files, metadata=late)
    assert llm_eval_opening.open_model(f"compress:{tmp_path / 'late'}").identity == first
    tensors, artifact = artifacts.load_tensors(path)
    tensors["norm.weight"][0] += 1
    files = {n: data for n, data in artifact.files.items() if n != artifacts.TENSORS}
    artifacts.save_tensors(tmp_path / "other", tensors, metadata=artifact.metadata, files=files)
    other = llm_eval_opening.open_model(f"compress:{tmp_path / 'other'}").identity
    assert {name for name in first if first[name] != other[name]} == {"weights"}


def test_a_layer_that_rounds_its_inputs_is_served_too(places, tmp_path):
    from compress.artifact.folder import save
    from compress.pipeline.recipe import recipe_from
    from compress.pipeline.run import compress

    opened = compress_opening.open_model(str(places["tiny_gpt"]))
    steps = {"method": "rtn", "bits": 8, "group_size": None, "symmetric": True}
    steps["int8_inputs"] = True
    save(compress(opened, recipe_from([{"quantize": steps}])), tmp_path / "int8")
    path, tokens = str(tmp_path / "int8"), torch.arange(9)[None]
    assert said_by_rag(path) == said_by_llm_eval(path)
    with torch.inference_mode():
        served = serving_opening.open_model(path).network(tokens)[:, -1]
        assert torch.equal(served, compress_opening.open_model(path).model(tokens)[:, -1])


def test_the_tokenizer_of_a_compressed_gguf_file_is_the_files_own():
    import numpy as np

    from compress.models.tokenizers import of_files, of_gguf
    from llm_eval.models.llamas import compressed_codec
    from llm_eval.models.tokens import GGUFCodec
    from week15.merges import printable_bytes
    from week18.gguf_file import GGUF
    from week18.smollm2 import SYSTEM

    names = [*printable_bytes().values(), "Ġt", "<|im_start|>", "<|im_end|>"]
    fields = {"model": "gpt2", "tokens": names, "token_type": [1] * 257 + [3, 3], "pre": "smollm"}
    fields |= {"merges": ["Ġ t"], "eos_token_id": 258}
    turns = (("user", "What is 12 + tea? <|im_end|>"), ("assistant", "46"), ("user", "é漢"))
    for template, more in (
        ("", {}),
        (f"<|im_start|>system {SYSTEM}", {"bos_token_id": 257}),
        ("", {"bos_token_id": 257, "add_bos_token": True}),
    ):
        given = {f"tokenizer.ggml.{name}": value for name, value in (fields | more).items()}
        file = GGUF("x", given | {"tokenizer.chat_template": template}, {}, np.empty(0, np.uint8))
        own, kept = GGUFCodec.of(file), of_files("gguf", of_gguf(file).files)
        kept = compressed_codec(kept, artifacts.Path(os.curdir), "kept")
        assert kept.chat(turns) == own.chat(turns)
        assert (kept.prefix, kept.ends) == (own.prefix, own.ends)
        assert kept.encode("a tea") == own.encode("a tea")
        assert kept.decode(own.chat(turns)) == own.decode(own.chat(turns))
    assert json.loads(of_gguf(file).files["tokenizer_config.json"])["add_bos_token"]
