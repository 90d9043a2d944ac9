"""What other programs compute from an export, what comes back, and what is refused."""

import ast
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shared import artifacts
from shared.errors import UserError
from tiny_gpt.data.tokenizers import train_tokenizer
from tiny_gpt.export import folder as export_module
from tiny_gpt.export import gguf as gguf_export
from tiny_gpt.export import hugging_face
from tiny_gpt.export.custom_code import custom_code
from tiny_gpt.export.folder import export, import_model
from tiny_gpt.export.hugging_face import config_from, content_of, layout_of
from tiny_gpt.model.config import GPTConfig
from tiny_gpt.model.gpt import GPT
from tiny_gpt.training.checkpoints import Checkpoint

TEXT = "To be, or not to be: that is the question. It's 12 o'clock, déjà vu.\n"
TOKENIZERS = {
    kind: train_tokenizer(kind, [TEXT], vocab_size=280, end_of_text=kind != "char")
    for kind in ("char", "byte", "bpe")
}
CHAR = TOKENIZERS["char"]
SIZES = {"context": 72, "n_layers": 2, "n_heads": 4, "d_model": 16}
CASES = {
    "gpt2": ("gpt2", {}),
    "gpt2-untied": ("gpt2", {"tied": False, "d_ff": 24, "norm_eps": 1e-2}),
    "gpt2-no-bias": ("gpt2", {"bias": False, "dropout": 0.2}),
    "llama": ("llama", {"rope_base": 50.0, "norm_eps": 1e-2}),
    "llama-grouped": ("llama", {"n_kv_heads": 2, "d_ff": 24}),
    "llama-tied": ("llama", {"tied": True, "n_kv_heads": 1}),
    "modern": ("modern", {"rope_base": 50.0}),
    "modern-tied": ("modern", {"zero_head": False, "tied": True, "n_kv_heads": 2}),
    "mixture": ("gpt2", {"norm": "rms", "mlp": "swiglu", "n_kv_heads": 2}),
}
NATIVE = [name for name in CASES if name.startswith(("gpt2", "llama"))]
every = pytest.mark.parametrize("case", CASES)


def a_checkpoint(case="llama-grouped", tokenizer=CHAR, **changes):
    architecture, own = CASES[case]
    config = GPTConfig.of(architecture, tokenizer.vocab_size, **{**SIZES, **own, **changes})
    generator = torch.Generator().manual_seed(0)
    model = GPT(config, generator).eval()
    with torch.no_grad():
        for p in model.parameters():  # no weight, gain or bias near its initial value
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return Checkpoint(Path("a-run"), model, tokenizer, 7, {}, {})


def tokens_for(config, batch=2, n=None):
    shape = (batch, n or config.context)
    return torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(1))


def greedy(model, tokens, n):
    """The most likely text, everything computed again for each token."""
    with torch.no_grad():
        for _ in range(n):
            tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    return tokens


@pytest.fixture
def load(tmp_path, monkeypatch):
    """`from_pretrained` as a user calls it; code is cached in the test's folder."""
    from transformers import AutoModelForCausalLM, dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "modules")])

    def from_pretrained(folder):
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
        model.generation_config.eos_token_id = None
        return model

    return from_pretrained


def one_line(function, *arguments):
    with pytest.raises(UserError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- Hugging Face


@every
def test_transformers_computes_the_same_logits_and_text(case, tmp_path, load):
    checkpoint = a_checkpoint(case)
    model, config = checkpoint.model, checkpoint.model.config
    report = export(checkpoint, "hf", tmp_path / "out", verify=False)
    class_name = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}
    theirs = load(tmp_path / "out")
    expected = class_name.get(report["architecture"], "TinyGPTForCausalLM")
    assert type(theirs).__name__ == expected
    tokens = tokens_for(config)
    with torch.no_grad():
        ours = model(tokens)
        assert ours.abs().max() > 1
        torch.testing.assert_close(theirs(tokens).logits, ours, rtol=1e-5, atol=1e-5)
    prompt, n = tokens[:, :5], 64
    text = greedy(model, prompt, n)
    for cached in (True, False):
        options = {"do_sample": False, "use_cache": cached, "pad_token_id": 0}
        assert torch.equal(theirs.generate(prompt, max_new_tokens=n, **options), text)
    assert len(set(text[0].tolist())) > 4


@every
def test_import_gives_back_every_bit(case, tmp_path):
    checkpoint = a_checkpoint(case)
    export(checkpoint, "hf", tmp_path / "out", verify=False)
    model, tokenizer = import_model(tmp_path / "out")
    if layout_of(model.config) != "llama":
        assert model.config == checkpoint.model.config
    assert tokenizer.sha256 == checkpoint.tokenizer.sha256
    same_weights(model, checkpoint.model)
    tokens = tokens_for(model.config)
    assert torch.equal(model(tokens), checkpoint.model(tokens))
    assert (model.head.weight is model.embed.weight) == model.config.tied


def same_weights(a, b):
    for (name, p), (other, q) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        assert name == other
        assert p.dtype == q.dtype
        assert torch.equal(p, q), name


@pytest.mark.parametrize("case", ["gpt2", "llama-grouped", "modern"])
def test_verified_export_reports_its_errors(case, tmp_path):
    report = export(a_checkpoint(case), "hf", tmp_path)
    assert report["errors"]["logits"] <= 1e-5
    assert report["errors"]["greedy_tokens"] == 64
    files = {p.name: p.stat().st_size for p in tmp_path.iterdir()}
    del files[artifacts.MANIFEST]
    assert report["files"] == files
    metadata = artifacts.load(tmp_path).metadata
    assert (metadata["tokenizer_sha256"], metadata["step"]) == (CHAR.sha256, 7)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_transformers_makes_the_same_ids(kind, tmp_path):
    from transformers import PreTrainedTokenizerFast

    tokenizer = TOKENIZERS[kind]
    export(a_checkpoint(tokenizer=tokenizer), "hf", tmp_path / "out", verify=False)
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path / "out")
    ids = tokenizer.encode(TEXT).tolist()
    assert theirs(TEXT).input_ids == ids
    assert theirs.decode(ids) == TEXT
    assert theirs.eos_token_id == tokenizer.end_of_text
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == tokenizer.end_of_text


def test_models_made_by_transformers_are_imported(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 31, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 20}
    gpt2 = GPT2LMHeadModel(GPT2Config(**sizes, layer_norm_epsilon=1e-3))
    sizes = {"vocab_size": 31, "hidden_size": 12, "intermediate_size": 20, "rms_norm_eps": 1e-3}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1}
    rope = {"rope_type": "default", "rope_theta": 77.0}
    config = LlamaConfig(**sizes, max_position_embeddings=20, rope_parameters=rope)
    llama = LlamaForCausalLM(config)
    tokens = torch.randint(31, (2, 20))
    for name, theirs, size in (("gpt2", gpt2, "1MB"), ("llama", llama, "2KB")):
        with torch.no_grad():
            for p in theirs.parameters():
                p.add_(0.3 * torch.randn_like(p))
        theirs.eval().save_pretrained(tmp_path / name, max_shard_size=size)
        ours, tokenizer = import_model(tmp_path / name)
        assert tokenizer is None
        with torch.no_grad():
            expected = theirs(tokens).logits
        torch.testing.assert_close(ours(tokens), expected, rtol=1e-5, atol=1e-5)


def test_bare_gpt2_without_prefix_and_with_old_buffers_is_imported(tmp_path):
    checkpoint = a_checkpoint("gpt2")
    folder = plain_folder(tmp_path / "out", checkpoint)

    def change(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 72, 72)
        tensors["lm_head.weight"] = tensors["wte.weight"].clone()

    rewrite(folder, change)
    same_weights(import_model(folder)[0], checkpoint.model)


def test_biases_trained_after_an_export_without_are_kept(tmp_path):
    folder = plain_folder(tmp_path / "out", a_checkpoint("gpt2-no-bias"))
    assert not import_model(folder)[0].config.bias
    rewrite(folder, lambda tensors: tensors["transformer.h.1.mlp.c_fc.bias"].fill_(2.0))
    model, _ = import_model(folder)
    assert model.config.bias
    assert (model.blocks[1].up.bias == 2).all()


def test_exported_code_needs_torch_and_transformers_alone():
    nodes = list(ast.walk(ast.parse(custom_code())))
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    packages = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    assert packages == {"torch", "transformers"}


@pytest.fixture
def modern(tmp_path, load):
    checkpoint = a_checkpoint("modern")
    export(checkpoint, "hf", tmp_path / "out", verify=False)
    return load(tmp_path / "out"), checkpoint.model


def test_left_padding_and_beams_of_our_class(modern):
    theirs, ours = modern
    long, short = tokens_for(ours.config, 1, 9), tokens_for(ours.config, 1, 4)
    padded = torch.cat([long, torch.nn.functional.pad(short, (5, 0))])
    mask = torch.ones_like(padded)
    mask[1, :5] = 0
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    text = theirs.generate(padded, attention_mask=mask, **options)
    assert torch.equal(text[0], greedy(ours, long, 12)[0])
    assert torch.equal(text[1, 5:], greedy(ours, short, 12)[0])
    cached, recomputed = (
        theirs.generate(padded, attention_mask=mask, num_beams=3, use_cache=use, **options)
        for use in (True, False)
    )
    assert torch.equal(cached, recomputed)


def test_our_class_trains_and_saves_again(modern, tmp_path, load):
    theirs, ours = modern
    tokens = tokens_for(ours.config)
    output = theirs(tokens, labels=tokens)
    logits = ours(tokens)[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)
    theirs.save_pretrained(tmp_path / "again")
    same_weights(import_model(tmp_path / "again")[0], ours)
    assert torch.equal(load(tmp_path / "again")(tokens).logits, output.logits)


def test_our_class_refuses_a_cache_without_the_tokens_before(modern):
    theirs, ours = modern
    tokens = tokens_for(ours.config, n=6)
    cache = theirs(tokens[:, :5], use_cache=True).past_key_values
    with pytest.raises(ValueError, match="previous_ids must be given"):
        theirs(tokens[:, 5:], past_key_values=cache)
    logits = theirs(tokens[:, 5:], past_key_values=cache, previous_ids=tokens[:, 4:5]).logits
    torch.testing.assert_close(logits, ours(tokens)[:, 5:], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="attention_mask must be batch by sequence"):
        theirs(tokens, attention_mask=torch.ones(2, 1, 6, 6))


# ---- ONNX


# Together: every norm, MLP and kind of position, tied and untied, grouped heads and not.
@pytest.mark.parametrize("case", ["gpt2", "llama-grouped", "modern-tied"])
def test_onnxruntime_computes_the_same_logits(case, tmp_path, capfd, monkeypatch):
    import onnx
    import onnxruntime

    checkpoint = a_checkpoint(case, n_layers=1, context=12)
    report = export(checkpoint, "onnx", tmp_path / "out")
    assert report["errors"]["logits"] <= 1e-4
    assert capfd.readouterr() == ("", "")
    path = tmp_path / "out" / "model.onnx"
    session = onnxruntime.InferenceSession(path)
    for shape in ((1, 1), (3, 1), (1, 7), (3, 7), (1, 12), (3, 12)):
        tokens = tokens_for(checkpoint.model.config, *shape)
        (logits,) = session.run(["logits"], {"tokens": tokens.numpy()})
        with torch.no_grad():
            ours = checkpoint.model(tokens)
        torch.testing.assert_close(torch.from_numpy(logits), ours, rtol=1e-4, atol=1e-4)
    proto = onnx.load(path)
    assert max(o.version for o in proto.opset_import if not o.domain) >= 18
    assert {p.key: p.value for p in proto.metadata_props}["tokenizer_sha256"] == CHAR.sha256
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == CHAR.to_bytes()
    assert "ONNX graph" in one_line(import_model, tmp_path / "out")
    monkeypatch.setattr(export_module, "onnx_file", lambda model, tokenizer: path.read_bytes())
    with torch.no_grad():
        checkpoint.model.head.weight.mul_(1.001)
    assert "onnxruntime differ by" in one_line(export, checkpoint, "onnx", tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


# ---- GGUF


@pytest.mark.parametrize("case", NATIVE)
def test_gguf_is_read_by_transformers_and_by_us(case, tmp_path, capfd):
    checkpoint = a_checkpoint(case)
    report = export(checkpoint, "gguf", tmp_path / "out")
    assert report["errors"]["logits"] <= 1e-5
    assert "takes ids" in report["note"]
    assert capfd.readouterr() == ("", "")
    model, tokenizer = import_model(tmp_path / "out")
    same_weights(model, checkpoint.model)
    for name in ("norm_eps", "rope_base", "context", "tied", "n_kv_heads"):
        assert getattr(model.config, name) == getattr(checkpoint.model.config, name)
    assert tokenizer.sha256 == CHAR.sha256
    alone, nothing = import_model(tmp_path / "out" / "model.gguf")
    same_weights(alone, model)
    assert nothing is None


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_gguf_holds_a_byte_level_tokenizer(kind, tmp_path):
    import gguf
    from transformers import AutoTokenizer

    tokenizer = TOKENIZERS[kind]
    export(a_checkpoint(tokenizer=tokenizer), "gguf", tmp_path / "out", verify=False)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file="model.gguf")
    assert theirs(TEXT).input_ids == tokenizer.encode(TEXT).tolist()
    fields = gguf.GGUFReader(tmp_path / "out" / "model.gguf").fields
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.end_of_text
    merges, field = (
        json.loads(tokenizer.to_bytes())["model"]["merges"],
        fields["tokenizer.ggml.merges"],
    )
    assert len(field.data) == len(merges)
    assert not merges or field.contents() == [" ".join(merge) for merge in merges]


@pytest.mark.parametrize("case", ["modern", "mixture"])
def test_gguf_refuses_what_llama_cpp_has_not(case, tmp_path):
    message = one_line(export, a_checkpoint(case), "gguf", tmp_path / "out")
    assert "gpt2 or llama" in message
    assert "mlp" in message
    assert not (tmp_path / "out").exists()


# ---- wrong exports and wrong files


def test_what_computes_something_else_is_not_written(tmp_path, monkeypatch):
    checkpoint = a_checkpoint()
    export(checkpoint, "hf", tmp_path / "out", verify=False)
    before = (tmp_path / "out" / artifacts.MANIFEST).read_bytes()
    right = hugging_face.tensors_of

    def wrong(model):
        tensors = right(model)
        return tensors | {"model.norm.weight": tensors["model.norm.weight"] * (1 + 1e-4)}

    for module in (hugging_face, gguf_export):
        monkeypatch.setattr(module, "tensors_of", wrong)
    for format in ("hf", "gguf"):
        assert "differ by" in one_line(export, checkpoint, format, tmp_path / "out")
    assert (tmp_path / "out" / artifacts.MANIFEST).read_bytes() == before


@pytest.mark.parametrize("wrong", [1.00003, float("nan")])
def test_logits_that_differ_are_refused(wrong):
    ours = torch.tensor([[[1.0, -3.0, 0.5]]])
    assert export_module._compared(ours, ours * 1.000001, "hf", "x") < 1e-5
    message = one_line(export_module._compared, ours, ours * wrong, "hf", "a reader")
    assert "logits in a reader differ" in message


def test_greedy_text_that_differs_is_refused():
    from transformers import LlamaForCausalLM

    checkpoint = a_checkpoint()
    content = content_of(checkpoint.model.config)
    other = LlamaForCausalLM(LlamaForCausalLM.config_class(**content)).eval()
    message = one_line(export_module._same_greedy_text, checkpoint.model, other)
    assert "greedy text in transformers differs from ours at token " in message


def test_export_refuses_wrong_arguments(tmp_path):
    checkpoint, out = a_checkpoint(), tmp_path / "out"
    other = Checkpoint(Path("a-run"), checkpoint.model, TOKENIZERS["bpe"], 1, {}, {})
    assert "format must be one of hf, onnx, gguf" in one_line(export, checkpoint, "pickle", out)
    assert "as many tokens, got 30 and 280" in one_line(export, other, "hf", out)
    (tmp_path / "thesis.txt").write_text("mine")
    assert "not replaced" in one_line(lambda: export(checkpoint, "hf", tmp_path, verify=False))


def plain_folder(path, checkpoint, *, manifest=False):
    """An export as others write it: no manifest of ours, so files may be changed."""
    export(checkpoint, "hf", path, verify=False)
    if not manifest:
        (path / artifacts.MANIFEST).unlink()
    return path


def rewrite(path, change):
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("manifest", [True, False])
def test_missing_and_torn_files_are_named(name, manifest, tmp_path):
    path = plain_folder(tmp_path, a_checkpoint(), manifest=manifest) / name
    path.write_bytes(path.read_bytes()[:20])
    assert name in one_line(import_model, tmp_path)
    path.unlink()
    if manifest or name != "tokenizer.json":
        assert name in one_line(import_model, tmp_path)
    else:
        assert import_model(tmp_path)[1] is None


def test_torn_and_wrong_gguf_files_are_named(tmp_path):
    checkpoint = a_checkpoint()
    export(checkpoint, "gguf", tmp_path / "out", verify=False)
    data = (tmp_path / "out" / "model.gguf").read_bytes()
    path = tmp_path / "torn.gguf"
    assert "torn.gguf" in one_line(import_model, path)
    for n in [0, 3, 30, 500, *range(1000, len(data) - 1, 1999)]:
        path.write_bytes(data[:n])
        assert "torn.gguf" in one_line(import_model, path)
    path.write_bytes(data.replace(b"llama", b"lamma"))
    assert "gpt2 or llama" in one_line(import_model, path)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    ("case", "changes", "named"),
    [
        ("gpt2", {"activation_function": "relu"}, "activation_function"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"n_head": 3}, "n_heads must divide"),
        ("gpt2", {"n_head": "4"}, "n_heads must be a number"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act"),
        ("llama", {"attention_bias": True}, "attention_bias"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type"),
        ("llama", {"rope_parameters": LLAMA3}, "rope_type"),
        ("llama", {"head_dim": 8}, "head_dim"),
        ("modern", {"gpt": {"vocab_size": 9, "norm": "batch"}}, "norm must be one of"),
        ("modern", {"gpt": {"vocab_size": 9, "experts": 4}}, "experts"),
        ("modern", {"gpt": {"vocab_size": 9, "tied": 1}}, "tied"),
        ("modern", {"gpt": None}, "gpt must be an object"),
        ("modern", {"model_type": "mamba"}, "model_type"),
    ],
)
def test_what_we_lack_is_refused_by_name(case, changes, named, tmp_path):
    architecture, own = CASES[case]
    content = content_of(GPTConfig.of(architecture, 31, **{**SIZES, **own})) | changes
    with pytest.raises(UserError, match=named) as caught:
        config_from(content, tmp_path / "config.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model.norm.weight", None, "misses weight model.norm.weight"),
        ("extra", torch.ones(1), "has unknown weight extra"),
        ("model.norm.weight", torch.ones(3), r"norm.weight must have shape \(16,\), got \(3,\)"),
        ("model.embed_tokens.weight", torch.ones(30, 16).int(), "must be floating-point"),
    ],
)
def test_wrong_weights_are_named(name, value, message, tmp_path):
    folder = plain_folder(tmp_path / "out", a_checkpoint("llama"))
    rewrite(folder, lambda t: t.pop(name) if value is None else t.update({name: value}))
    with pytest.raises(UserError, match=message):
        import_model(folder)


def test_import_says_what_is_not_there(tmp_path):
    assert "not a folder" in one_line(import_model, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "config.json" in one_line(import_model, tmp_path / "empty")
    folder = plain_folder(tmp_path / "out", a_checkpoint())
    (folder / "config.json").write_text("[1]")
    assert "must hold an object" in one_line(import_model, folder)
    plain_folder(tmp_path / "more", a_checkpoint())
    (tmp_path / "more" / "tokenizer.json").write_bytes(TOKENIZERS["bpe"].to_bytes())
    assert "got 280" in one_line(import_model, tmp_path / "more")
