"""Answers are those of lm-eval and of transformers, whichever way a model is opened."""

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_eval.models.identity import files_digest
from llm_eval.models.local import LocalModel
from llm_eval.models.networks import LlamaNetwork
from llm_eval.models.opening import open_model
from llm_eval.models.tokens import HuggingFaceCodec, pair
from llm_eval.types import Request
from shared import pretrained
from shared.errors import UserError
from tiny_gpt.data.tokenizers import train_tokenizer
from tiny_gpt.export.folder import export
from tiny_gpt.model.config import GPTConfig
from tiny_gpt.model.gpt import GPT
from tiny_gpt.training.checkpoints import load_checkpoint, save_checkpoint
from week18.gguf_llama import hugging_face_folder
from week18.pretrained import load_pretrained

TEXT = (
    "The capital of France is Paris.\nThe sea is blue, isn't it?  Yes!\n\nQuestion: 12 + 30 = 42\n"
)
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXT = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random LLaMA and a small tokenizer, as transformers saves them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("models") / "llama"
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    names = ["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([TEXT], trainer)
    begin, end = names[:2]
    options = {"bos_token": begin, "eos_token": end, "pad_token": end, "chat_template": TEMPLATE}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **options)
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=1,
        **sizes,
        **heads,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def theirs(folder):
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, device="cpu")


@pytest.fixture(scope="module", params=["hf", "ours"])
def ours(request, folder, theirs):
    """The same weights in transformers, and in week 18's LLaMA with its shared beginnings."""
    if request.param == "hf":
        return open_model(f"hf:{folder}", batch_tokens=64)
    codec = HuggingFaceCodec(theirs.tokenizer, "llama")
    network = LlamaNetwork(load_pretrained(folder), batch_tokens=64)
    return LocalModel("llama", network, codec, {}, batch_tokens=64)


def instances(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, each, i) for i, each in enumerate(arguments)]


def answers(model, requests):
    """By the plan's batches."""
    found = [None] * len(requests)
    for batch in model.plan(requests):
        for i, response in zip(batch, model.answer([requests[i] for i in batch]), strict=True):
            found[i] = response
    return found


WORDS = st.sampled_from(
    ["The capital", " of", " France", "sea", " ", "\n", "é", "42", "<|end|>", "x"]
)
STRINGS = st.lists(WORDS, max_size=8).map("".join)
LONG = st.sampled_from(["", TEXT[:40], TEXT * 2])
PAIRS = st.lists(st.tuples(LONG, STRINGS, st.lists(STRINGS, min_size=1, max_size=3)), max_size=4)


@given(PAIRS)
@settings(max_examples=15)
def test_loglikelihoods_are_lm_evals(ours, theirs, questions):
    asked = [(a + b, choice) for a, b, choices in questions for choice in choices]
    found = answers(ours, [Request("loglikelihood", *each) for each in asked])
    kept = [i for i, each in enumerate(asked) if answerable(theirs, *each)]
    expected = theirs.loglikelihood(instances("loglikelihood", [asked[i] for i in kept]), True)
    for i, (logprob, greedy) in zip(kept, expected, strict=True):
        assert found[i].logprob == pytest.approx(logprob, abs=1e-5, rel=1e-5)
        assert found[i].greedy == greedy
        assert found[i].error == ""
        assert found[i].logprob == pytest.approx(sum(found[i].logprobs))
    for i in set(range(len(asked))) - set(kept):  # lm-eval ends here with an assertion
        assert bool(found[i].error) == (not continuation_of(ours, *asked[i]))


def continuation_of(ours, context, choice):
    try:
        tokens = pair(ours.codec, context, choice)[1]
    except ValueError:
        return []
    return tokens if len(tokens) <= CONTEXT else []


def answerable(theirs, context, choice):
    if not context:
        return bool(theirs.tok_encode(choice))
    before, after = theirs._encode_pair(context, choice)
    return bool(before) and 0 < len(after) <= CONTEXT


def test_greedy_is_lm_evals(ours, theirs):
    """Of what the model itself would say, and of that with another end."""
    asked = []
    for context in ("The", "The capital of", TEXT, "42"):
        tokens = theirs.tok_encode(context)
        with torch.no_grad():
            said = theirs.model.generate(
                torch.tensor([tokens]), max_new_tokens=3, do_sample=False, eos_token_id=None
            )
        for n in (1, 2, 3):
            likely = theirs.tokenizer.decode(said[0, len(tokens) : len(tokens) + n])
            asked += [(context, likely), (context, likely + " x")]
    expected = theirs.loglikelihood(instances("loglikelihood", asked), True)
    found = answers(ours, [Request("loglikelihood", *each) for each in asked])
    assert [one.greedy for one in found] == [greedy for _, greedy in expected]
    assert {greedy for _, greedy in expected} == {True, False}


@given(st.lists(st.one_of(STRINGS, STRINGS.map(lambda text: text * 9)), max_size=3))
@settings(max_examples=15)
def test_rolling_loglikelihoods_are_lm_evals(ours, theirs, texts):
    expected = theirs.loglikelihood_rolling(
        instances("loglikelihood_rolling", [(text,) for text in texts]), True
    )
    found = answers(ours, [Request("rolling", "", text) for text in texts])
    for one, logprob in zip(found, expected, strict=True):
        assert one.logprob == pytest.approx(logprob, abs=1e-5, rel=1e-5)
        assert len(one.logprobs) == len(one.ids) == one.n_tokens


@pytest.mark.parametrize("until", [(), ("\n",), ("a",), ("is", " "), ("th", "e", "zz")])
def test_texts_are_lm_evals(ours, theirs, until):
    contexts = ["The capital", "é", "42 + ", TEXT * 2, "sea"]
    new = 12
    options = {"until": list(until), "max_gen_toks": new}
    expected = theirs.generate_until(
        instances("generate_until", [(context, options) for context in contexts]), True
    )
    asked = [Request("generate", c, until=until, max_new_tokens=new) for c in contexts]
    found = answers(ours, asked)
    assert [one.text for one in found] == expected
    assert [one.truncated for one in found] == [False, False, False, True, False]


def test_stops_cut_out_of_the_models_own_words_are_lm_evals(ours, theirs):
    whole = answers(ours, [Request("generate", "The", max_new_tokens=12)])[0].text
    untils = [(whole[i : i + n],) for i in range(0, len(whole) - 3, 2) for n in (1, 3)]
    arguments = [("The", {"until": list(until), "max_gen_toks": 12}) for until in untils]
    expected = theirs.generate_until(instances("generate_until", arguments), True)
    asked = [Request("generate", "The", until=until, max_new_tokens=12) for until in untils]
    found = answers(ours, asked)
    assert [one.text for one in found] == expected
    assert {one.ended for one in found} == {"stop"}


def test_conversations_follow_the_models_template(ours, theirs):
    turns = (("user", "Hello"), ("assistant", "Hi"), ("user", "The sea?"))
    messages = [{"role": role, "content": content} for role, content in turns]
    text = theirs.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    (one,) = theirs.loglikelihood(instances("loglikelihood", [(text, " blue")]), True)
    found = answers(ours, [Request("loglikelihood", turns, " blue"), Request("generate", turns)])
    assert found[0].logprob == pytest.approx(one[0], abs=1e-5)
    assert found[1].error  # 256 new tokens do not fit


def test_names_do_not_count_and_weights_do(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    same, other = tmp_path / "same", tmp_path / "other"
    for copy in (same, other):
        shutil.copytree(folder, copy)
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"][0] += 1e-3
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    models = [open_model(f"hf:{path}") for path in (folder, same, other)]
    first, second, third = (model.identity for model in models)
    assert first == second
    assert {name for name in first if first[name] != third[name]} == {"weights"}
    assert open_model(f"hf:{same}", dtype="float64").identity != first
    assert all(isinstance(value, str) and str(tmp_path) not in value for value in first.values())


def test_a_torn_folder_is_one_line(folder, tmp_path):
    torn = tmp_path / "torn"
    shutil.copytree(folder, torn)
    (torn / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="torn is not a readable language model") as caught:
        open_model(f"hf:{torn}")
    assert "\n" not in str(caught.value)


# ---- tiny-gpt's


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    tokenizer = train_tokenizer("bpe", [TEXT], vocab_size=280, end_of_text=True)
    sizes = {"context": CONTEXT, "n_layers": 1, "n_heads": 2, "d_model": 16}
    generator = torch.Generator().manual_seed(0)
    model = GPT(GPTConfig.of("modern", tokenizer.vocab_size, **sizes), generator).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    path = tmp_path_factory.mktemp("run") / "a-run"
    save_checkpoint(path, model, tokenizer, 0)
    return path


def test_a_run_of_tiny_gpt_and_its_graph(run, tmp_path):
    checkpoint = load_checkpoint(run)
    export(checkpoint, "onnx", tmp_path / "onnx", verify=False)
    asked = [Request("loglikelihood", "The capital of", end) for end in (" France", " x", "\n")]
    asked += [Request("rolling", "", TEXT), Request("loglikelihood", TEXT, " 43")]
    asked += [Request("generate", c, until=("e",), max_new_tokens=9) for c in ("", "The", TEXT)]
    asked += [Request("generate", "sea", temperature=1.0, max_new_tokens=9)]
    first, second = (open_model(f"{kind}") for kind in (f"tiny_gpt:{run}", f"onnx:{tmp_path}/onnx"))
    assert first.plan(asked) == second.plan(asked)
    found = answers(first, asked)
    for request, one, other in zip(asked, found, answers(second, asked), strict=True):
        assert one.error == other.error == ""
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert (one.greedy, one.ids, one.truncated) == (other.greedy, other.ids, other.truncated)
        if not request.temperature:
            assert (one.text, one.ended) == (other.text, other.ended)
    tokens = checkpoint.tokenizer.encode("The capital of France")
    before = len(checkpoint.tokenizer.encode("The capital of"))
    with torch.no_grad():
        logprobs = checkpoint.model(torch.tensor(tokens)[None])[0].log_softmax(-1)
    expected = [float(logprobs[i - 1, tokens[i]]) for i in range(before, len(tokens))]
    assert list(found[0].logprobs) == pytest.approx(expected, abs=1e-5)
    assert found[4].truncated
    with pytest.raises(UserError, match="knows no conversations"):
        first.plan([Request("generate", (("user", "Hello"),), max_new_tokens=9)])
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"model\.onnx"):
        open_model(f"onnx:{tmp_path}/onnx")


# ---- a real one


def test_smollm2_is_transformers():
    from transformers import AutoModelForCausalLM

    model, path = open_model(), pretrained.smollm2()
    assert model.identity["weights"] == files_digest([path])
    reference = AutoModelForCausalLM.from_pretrained(hugging_face_folder(path))
    question = "Question: What is the capital of France?\nAnswer:"
    turns = (("user", "What is the capital of France?"),)
    opened = model.codec.chat(turns)
    assert model.codec.tokenizer.decode(opened) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    asked = [Request("loglikelihood", question, end) for end in (" Paris", " Rome", " the sea")]
    asked += [Request("loglikelihood", turns, "The capital"), Request("rolling", "", question)]
    asked.append(Request("generate", turns, until=(".",), max_new_tokens=16))
    *scored, written = model.answer(asked)
    before = [model.codec.encode(question)] * 3 + [opened, [1]]  # <|im_start|> begins a text
    for one, start in zip(scored, before, strict=True):
        tokens = torch.tensor([[*start, *one.ids]])
        with torch.no_grad():
            logprobs = reference(tokens).logits[0, len(start) - 1 : -1].log_softmax(-1)
        ids = torch.tensor(one.ids)
        expected = logprobs.gather(1, ids[:, None])[:, 0]
        assert list(one.logprobs) == pytest.approx(expected.tolist(), abs=1e-3)
        assert one.greedy == bool((logprobs.argmax(-1) == ids).all())
    assert scored[0].logprob > scored[1].logprob > scored[2].logprob
    assert (written.text, written.ended) == ("The capital of France is Paris", "stop")
