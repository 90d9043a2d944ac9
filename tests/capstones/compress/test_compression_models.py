"""Models by every name, their tokenizers against `tokenizers`, texts that are always the same."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from tiny_llama import tiny_folder

from compress.artifact.folder import load, save
from compress.benchmark.bench import facts
from compress.calibration import calibrate
from compress.models.opening import open_model
from compress.models.testing import tiny_model
from compress.models.tokenizers import of_files, of_gguf, of_tiny_gpt
from compress.pipeline.recipe import recipe_from
from compress.pipeline.run import compress
from shared.errors import UserError
from tiny_gpt.data.tokenizers import train_tokenizer
from tiny_gpt.model.config import GPTConfig
from tiny_gpt.model.gpt import GPT
from tiny_gpt.training.checkpoints import save_checkpoint
from week15.merges import printable_bytes
from week18.gguf_file import GGUF

TEXT = "The sea is blue, isn't it?  Yes!\n\nQuestion: 12 + 345 = <|im_end|> été — 中文\n"
SMALL = {"d_model": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "context": 32}


def test_a_folder_of_hugging_face_by_both_names(tmp_path):
    folder = tiny_folder(tmp_path / "model", 3)
    ours, (expected, text) = open_model(f"hf:{folder}"), tiny_model(3)
    assert torch.equal(ours.model(text.ids), expected.model(text.ids))
    assert ours.tokenizer.encode(TEXT.replace("<|im_end|>", "")) == expected.tokenizer.encode(
        TEXT.replace("<|im_end|>", "")
    )
    assert ours.tokenizer.decode(ours.tokenizer.encode("été")) == "été"
    assert open_model(str(folder)).digest == ours.digest
    other = open_model(f"hf:{tiny_folder(tmp_path / 'other', 4)}")
    assert other.digest != ours.digest


def model_bytes(model):
    return sum(4 * p.numel() for p in model.parameters())


def test_a_run_of_tiny_gpt(tmp_path):
    tokenizer = train_tokenizer("char", ["abcdefg "])
    config = GPTConfig.of("llama", tokenizer.vocab_size, **SMALL)
    model = GPT(config, torch.Generator().manual_seed(0)).eval()
    save_checkpoint(tmp_path / "run", model, tokenizer, 0)
    opened = open_model(f"tiny_gpt:{tmp_path / 'run'}")
    ids = torch.tensor([opened.tokenizer.encode("a bad cab")])
    torch.testing.assert_close(opened.model(ids), model(ids), rtol=1e-5, atol=1e-5)
    assert facts(f"tiny_gpt:{tmp_path / 'run'}")["bytes"]["file"] == model_bytes(opened.model)
    steps = recipe_from([{"quantize": {"method": "rtn", "group_size": 8}}])
    save(compress(opened, steps), tmp_path / "a")
    again = load(tmp_path / "a").tokenizer
    assert again.decode(again.encode("a bad cab")) == "a bad cab"
    with pytest.raises(ValueError, match="text must hold only characters"):
        again.encode("xyz")


def test_a_run_that_is_no_llama_is_refused_in_one_line(tmp_path):
    tokenizer = train_tokenizer("byte", [])
    for architecture in ("gpt2", "modern"):
        config = GPTConfig.of(architecture, tokenizer.vocab_size, **{**SMALL, "n_kv_heads": 4})
        run = tmp_path / architecture
        save_checkpoint(run, GPT(config, torch.Generator().manual_seed(0)), tokenizer, 0)
        with pytest.raises(UserError, match="must have the architecture of a LLaMA"):
            open_model(f"tiny_gpt:{run}")


@pytest.mark.parametrize(
    ("ref", "line"),
    [
        ("", "MODEL must be smollm2, hf:FOLDER"),
        ("gpt-9", "MODEL must be smollm2, hf:FOLDER"),
        ("hf:", "MODEL must be smollm2, hf:FOLDER"),
        ("hf:/none", "hf:FOLDER must be a folder"),
        ("gguf:/none.gguf", "none.gguf"),
        ("gguf:/none", "gguf:FILE must end in .gguf"),
        ("tiny_gpt:/none", "/none"),
        ("compress:/none", "there is no artifact at /none"),
    ],
)
def test_what_cannot_be_opened_is_said(ref, line):
    with pytest.raises(UserError) as error:
        open_model(ref)
    assert line in str(error.value)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    folder = tiny_folder(tmp_path / "model")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer.json is not one that is known"):
        open_model(str(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"holds no tokenizer.json"):
        open_model(str(folder))


# ---- the tokenizer of a GGUF file


@pytest.fixture(scope="module")
def smollm2():
    """SmolLM2 with the first of its layers."""
    opened = open_model("smollm2")
    opened.model.blocks = opened.model.blocks[:1]
    opened.model.config = dataclasses.replace(opened.model.config, n_layers=1)
    return opened


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return smollm2.tokenizer


def test_the_tokenizer_of_a_gguf_file_is_written_for_others(tokenizer):
    from tokenizers import Tokenizer

    theirs = Tokenizer.from_str(tokenizer.files["tokenizer.json"].decode())
    plain = TEXT.replace("<|im_end|>", "")
    assert theirs.encode(plain, add_special_tokens=False).ids == tokenizer.encode(plain)
    assert theirs.token_to_id("<|im_end|>") == tokenizer.inner.end
    words = json.loads(tokenizer.files["tokenizer_config.json"])
    assert words["eos_token"] == "<|im_end|>"
    assert "<|im_start|>" in words["chat_template"]


def test_digits_are_cut_where_a_merge_would_join_them():
    from tokenizers import Tokenizer

    names = [*printable_bytes().values(), "12", "<|im_end|>"]
    fields = {"model": "gpt2", "tokens": names, "token_type": [1] * 257 + [3], "pre": "smollm"}
    fields |= {"merges": ["1 2"], "eos_token_id": 257}
    fields = {f"tokenizer.ggml.{name}": value for name, value in fields.items()}
    ours = of_gguf(GGUF("small", fields, {}, np.empty(0, np.uint8)))
    theirs = Tokenizer.from_str(ours.files["tokenizer.json"].decode())
    found = theirs.encode("12", add_special_tokens=False).ids
    assert found == ours.encode("12") == [names.index("1"), names.index("2")]


def test_and_read_back_as_it_was(tokenizer):
    again = of_files("gguf", tokenizer.files)
    assert again.encode(TEXT) == tokenizer.encode(TEXT)
    assert tokenizer.inner.end not in again.encode(TEXT)  # what a text says ends nothing
    assert again.decode(again.encode(TEXT)) == tokenizer.decode(tokenizer.encode(TEXT))
    message = [{"role": "user", "content": "Hi"}]
    assert again.inner.chat(message) == tokenizer.inner.chat(message)
    assert again.inner.special_tokens == tokenizer.inner.special_tokens


# ---- calibration


def bytes_tokenizer():
    return of_tiny_gpt(train_tokenizer("byte", []))


def test_windows_depend_on_the_seed_alone():
    options = {"n": 6, "seqlen": 32}
    first, again = (calibrate(bytes_tokenizer(), "pydocs", **options, seed=1) for _ in "ab")
    other = calibrate(bytes_tokenizer(), "pydocs", **options, seed=2)
    assert torch.equal(first.ids, again.ids)
    assert first.sha256 == again.sha256 != other.sha256
    assert len({tuple(row) for row in first.ids.tolist()}) == 6
    more = calibrate(bytes_tokenizer(), "pydocs", n=9, seqlen=32, seed=1)
    assert more.sha256 != first.sha256


def test_windows_are_pieces_of_the_text(tmp_path):
    text = " ".join(f"word{i}" for i in range(400))
    (tmp_path / "t.txt").write_text(text)
    found = calibrate(bytes_tokenizer(), str(tmp_path / "t.txt"), n=5, seqlen=40)
    assert found.source == "t.txt"
    for row in found.ids.tolist():
        assert bytes_tokenizer().decode(row) in text + text


def test_a_short_file_may_wrap_around_but_not_be_empty(tmp_path):
    (tmp_path / "t.txt").write_text("one two three four five six seven eight")
    assert calibrate(bytes_tokenizer(), str(tmp_path / "t.txt"), n=3, seqlen=30).ids.shape == (
        3,
        30,
    )
    with pytest.raises(UserError, match=r"calib t.txt must hold 60 tokens, got 39"):
        calibrate(bytes_tokenizer(), str(tmp_path / "t.txt"), n=1, seqlen=60)
    (tmp_path / "t.txt").write_text("")
    with pytest.raises(UserError, match=r"calib t.txt must hold 2 tokens, got 0"):
        calibrate(bytes_tokenizer(), str(tmp_path / "t.txt"), n=1, seqlen=2)


def test_characters_that_were_never_seen_are_left_out():
    tokenizer = of_tiny_gpt(train_tokenizer("char", ["abcdefghij "]))
    found = calibrate(tokenizer, "pydocs", n=2, seqlen=20)
    assert set(tokenizer.decode(found.ids.flatten().tolist())) <= set("abcdefghij ")


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("/none.txt", "calib must be builtin, wikitext2, pydocs or a text file"),
        ("/", "a text file"),
    ],
)
def test_texts_that_cannot_be_read_are_named(source, line):
    with pytest.raises(UserError, match=line):
        calibrate(bytes_tokenizer(), source, n=1, seqlen=4)


# ---- SmolLM2


def test_a_layer_of_smollm2_goes_through_all_of_it(smollm2, tmp_path):
    """Groups of 128 are not its file's grid of 32; 576 inputs are four and a half of them."""
    text = calibrate(smollm2.tokenizer, "pydocs", n=2, seqlen=32)
    steps = [{"quantize": {"bits": 4, "group_size": 128, "embedding_bits": 8}}]
    done = compress(smollm2, recipe_from(steps), text)
    save(done, tmp_path / "a")
    again = load(tmp_path / "a")
    assert torch.equal(again.model(text.ids), done.model(text.ids))
    assert again.tokenizer.encode(TEXT) == smollm2.tokenizer.encode(TEXT)
    assert all(record["error"] < 0.02 for record in done.records)
    size = (tmp_path / "a" / "tensors.safetensors").stat().st_size
    weights = sum(record["n_weights"] for record in done.records)
    codes, grids = weights / 2, weights / 576 * 5 * 4.5  # float32 scales, zero points of 4 bits
    assert size < 1.02 * (49_152 * (576 + 4) + codes + grids)
