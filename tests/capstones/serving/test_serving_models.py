"""Models by name: a folder of Transformers, a run of tiny-gpt, what compress wrote, documents."""

import threading

import pytest
import torch
from rag_small import Slow, small_store
from serving_small import Served, events, wait

from rag.answering.models import Extractive
from serving.engine.backend import Limits, TokenBackend
from serving.engine.metrics import Metrics
from serving.models.opening import open_model
from serving.models.rag_pipeline import RagBackend
from shared.artifacts import MANIFEST
from tiny_gpt.data.tokenizers import train_tokenizer
from tiny_gpt.generation.generate import generate
from tiny_gpt.model.config import GPTConfig
from tiny_gpt.model.gpt import GPT
from tiny_gpt.training.checkpoints import save_checkpoint
from week18.pretrained import save_pretrained
from week19.sampling import greedy
from week19.twins import small_llama

TEXT = "Black tea needs boiling water, and green tea less. " * 8


def answered(ref, path, bodies):
    """What a server over a model says to several requests that come one after the other."""
    metrics = Metrics(ref)
    load = lambda: TokenBackend(open_model(ref), Limits(), metrics)  # noqa: E731
    with Served(load=load) as served:
        return [served.client.post(path, json=body) for body in bodies]


def test_a_folder_of_transformers(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>"]
    options = {"vocab_size": 300, "special_tokens": special, "initial_alphabet": alphabet}
    tokenizer.train_from_iterator([TEXT], trainers.BpeTrainer(**options))
    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    theirs.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    save_pretrained(small_llama(0, vocab_size=len(theirs), context=64), tmp_path / "model")
    theirs.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / MANIFEST).unlink()  # as a folder of somebody else's
    theirs = AutoTokenizer.from_pretrained(tmp_path / "model")
    chat = {"messages": [{"role": "user", "content": "tea"}], "max_tokens": 9, "temperature": 0}
    text = {"prompt": "Black tea", "max_tokens": 9, "temperature": 0}
    ref = f"hf:{tmp_path / 'model'}"
    (found,) = answered(ref, "/v1/chat/completions", [chat])
    assert found.status_code == 200, found.text
    (other,) = answered(ref, "/v1/completions", [text])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    for prompt, said in (
        ("user: tea\n", found.json()["choices"][0]["message"]["content"]),
        ("Black tea", other.json()["choices"][0]["text"]),
    ):
        ids = torch.tensor([theirs.encode(prompt, add_special_tokens=False)])
        options = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0}
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        new = out[0, ids.shape[1] :]
        assert said == theirs.decode(new, skip_special_tokens=True)


@pytest.fixture(scope="module", params=["modern", "gpt2"])
def run(request, tmp_path_factory):
    tokenizer = train_tokenizer("bpe", [TEXT], vocab_size=280, end_of_text=True)
    sizes = {"context": 48, "n_layers": 2, "n_heads": 2, "d_model": 16}
    generator = torch.Generator().manual_seed(0)
    model = GPT(GPTConfig.of(request.param, tokenizer.vocab_size, **sizes), generator).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    path = tmp_path_factory.mktemp("run") / "a-run"
    save_checkpoint(path, model, tokenizer, 0)
    return path, model, tokenizer


def test_a_run_of_tiny_gpt(run):
    path, model, tokenizer = run
    prompts = ["Black tea", "Black tea needs boiling", "w", TEXT[:60]]
    assert 18 <= len(tokenizer.encode(prompts[-1])) <= 36  # the second answer shares a block
    bodies = [
        {"prompt": prompt, "max_tokens": 12, "temperature": 0, "n": 2, "ignore_eos": True}
        for prompt in prompts
    ]
    for prompt, found in zip(
        prompts, answered(f"tiny_gpt:{path}", "/v1/completions", bodies), strict=True
    ):
        tokens = tokenizer.encode(prompt).tolist()
        columns = generate(model, [tokens], 12, sampler=lambda z, history, g: greedy(z))
        expected = [int(column[0]) for column in columns]
        expected = tokenizer.decode([i for i in expected if i != tokenizer.end_of_text])
        assert [choice["text"] for choice in found.json()["choices"]] == [expected] * 2


def test_a_model_that_knows_no_conversations_says_so(run):
    path, *_ = run
    body = {"messages": [{"role": "user", "content": "tea"}]}
    (found,) = answered(f"tiny_gpt:{path}", "/v1/chat/completions", [body])
    assert found.status_code == 400
    assert "use /v1/completions" in found.json()["error"]["message"]


def test_a_compressed_model(tmp_path):
    from compress.artifact.folder import load, save
    from compress.models.testing import tiny_model
    from compress.pipeline.recipe import recipe_from
    from compress.pipeline.run import compress

    opened, text = tiny_model(0)
    recipe = recipe_from([{"quantize": {"bits": 4, "group_size": 16}}])
    save(compress(opened, recipe, text), tmp_path / "int4")
    body = {"prompt": "tea", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    (found,) = answered(f"compress:{tmp_path / 'int4'}", "/v1/completions", [body])
    model, tokens = load(tmp_path / "int4").model, opened.tokenizer.encode("tea")
    for _ in range(8):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    assert found.json()["choices"][0]["text"] == opened.tokenizer.decode(tokens[3:])


# ---- documents


@pytest.fixture
def documents(tmp_path):
    small_store(tmp_path / "store")
    return str(tmp_path / "store")


def pipeline(folder, model):
    metrics = Metrics("rag")
    served = Served(load=lambda: RagBackend(folder, Limits(max_queue=1), metrics, model=model))
    served.pipeline_metrics = metrics
    return served


QUESTION = [{"role": "user", "content": "What water does black tea need?"}]


def test_documents_answer_with_citations(documents):
    with pipeline(documents, Extractive()) as served:
        body = {"messages": QUESTION}
        found = served.client.post("/v1/chat/completions", json=body).json()["choices"][0]
        assert "Black tea needs boiling water." in found["message"]["content"]
        assert found["finish_reason"] == "stop"
        citations = found["message"]["citations"]
        assert {citation["document"] for citation in citations} == {"notes/tea.md"}
        assert any("boiling water" in citation["quote"] for citation in citations)
        text = served.client.post("/v1/chat/completions", json=body | {"stream": True}).text
        chunks = events(text)
        said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        assert said == found["message"]["content"]
        assert chunks[-1]["choices"][0]["delta"]["citations"] == citations


def test_what_documents_do_not_know(documents):
    with pipeline(documents, Extractive()) as served:
        body = {"messages": [{"role": "user", "content": "Who won the football cup in 1966?"}]}
        found = served.client.post("/v1/chat/completions", json=body).json()["choices"][0]
        assert found["message"]["abstained"]
        assert found["message"]["citations"] == []


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"stop": "x"}, "stop"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages"),
    ],
)
def test_what_documents_cannot_do(documents, change, param):
    with pipeline(documents, Extractive()) as served:
        found = served.client.post("/v1/chat/completions", json={"messages": QUESTION} | change)
        assert (found.status_code, found.json()["error"]["param"]) == (400, param)
        for extra in ({}, {"echo": True}):
            text = served.client.post("/v1/completions", json={"prompt": "tea"} | extra)
            assert text.status_code == 400


def test_whoever_leaves_makes_a_pipeline_stop(documents):
    from serving_small import connection

    model = Slow()
    with pipeline(documents, model) as served:
        body = {"messages": QUESTION, "stream": True}
        with connection(served, body):
            wait(lambda: served.service.active == 1)
            asked = threading.Thread(
                target=lambda: served.client.post("/v1/chat/completions", json=body)
            )
            asked.start()
            wait(lambda: served.service.active == 2)
            refused = served.client.post("/v1/chat/completions", json=body)
            assert refused.status_code == 429
        wait(model.stopped.is_set)
        model.go_on.set()
        asked.join(60)
        wait(lambda: served.service.active == 0)
