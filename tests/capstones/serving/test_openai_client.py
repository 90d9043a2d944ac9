"""The interface as OpenAI's own client uses it."""

import asyncio

import numpy as np
import openai
import pytest
import torch
from serving_small import DUMMY, Served, events

MESSAGES = [{"role": "user", "content": "Tell me of tea."}]


@pytest.fixture(scope="module")
def served():
    with Served() as served:
        yield served


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(client, **options):
    given = {"model": "dummy", "messages": MESSAGES, "max_tokens": 12, "seed": 3} | options
    return client.chat.completions.create(**given)


def joined(chunks, index=0):
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


def test_models(client):
    assert [model.id for model in client.models.list()] == ["dummy", "other"]
    assert client.models.retrieve("other").id == "other"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"


def test_a_conversation(client):
    found = chat(client)
    choice = found.choices[0]
    assert (choice.message.role, choice.finish_reason, choice.logprobs) == (
        "assistant",
        "length",
        None,
    )
    prompt = DUMMY.tokens((("user", "Tell me of tea."),))
    usage = found.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(prompt), 12)
    assert usage.total_tokens == len(prompt) + 12
    assert found._request_id


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"stop": "\ufffd"}, {"top_p": 0.5}])
def test_a_stream_is_the_whole(client, options):
    whole = chat(client, **options).choices[0]
    chunks = list(chat(client, stream=True, **options))
    assert joined(chunks) == whole.message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason
    assert all(chunk.choices[0].finish_reason is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_streaming_helper(client):
    options = {"logit_bias": {"65": 8, "66": 7}, "frequency_penalty": 2, "temperature": 0}
    options |= {"model": "dummy", "messages": MESSAGES, "stop": "BAB"}
    with client.chat.completions.stream(**options) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds[-1] == "content.done"
    assert final.choices[0].message.content == "A"


def test_usage_comes_after_the_finish_reason(client):
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == chat(client).usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_several_answers(client):
    found = chat(client, n=3)
    texts = [choice.message.content for choice in found.choices]
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts[1:] == [chat(client, seed=seed).choices[0].message.content for seed in (4, 5)]
    assert found.usage.completion_tokens == 36
    assert found.usage.prompt_tokens == chat(client).usage.prompt_tokens
    chunks = list(chat(client, n=3, stream=True))
    assert [joined(chunks, i) for i in range(3)] == texts


def test_the_seed_decides(client):
    first, same, other = (chat(client, seed=s).choices[0].message.content for s in (1, 1, 2))
    assert first == same != other
    assert chat(client, seed=openai.NOT_GIVEN).choices[0].message.content != (
        chat(client, seed=openai.NOT_GIVEN).choices[0].message.content
    )


def test_a_stop_string_is_left_out(client):
    text = chat(client, max_tokens=60).choices[0].message.content
    stop = next(text[i : i + 2] for i in range(8, 50) if "\ufffd" not in text[i : i + 2])
    for stops in (stop, ["no such text", stop]):
        choice = chat(client, max_tokens=60, stop=stops).choices[0]
        assert choice.message.content == text[: text.find(stop)]
        assert choice.finish_reason == "stop"


def reference(prompt, n):
    """Greedy tokens and log-probabilities, everything read again for each token."""
    tokens, found = list(prompt), []
    for _ in range(n):
        row = DUMMY.plain(torch.tensor([tokens]))[0, -1].log_softmax(-1)
        tokens.append(int(row.argmax()))
        found.append(row)
    return tokens[len(prompt) :], found


def test_log_probabilities_are_the_models(client):
    options = {"temperature": 0, "logprobs": True, "top_logprobs": 3}
    content = chat(client, **options).choices[0].logprobs.content
    tokens, rows = reference(DUMMY.tokens((("user", "Tell me of tea."),)), 12)
    assert [bytes(entry.bytes) for entry in content] == [bytes([token]) for token in tokens]
    for entry, token, row in zip(content, tokens, rows, strict=True):
        assert entry.logprob == pytest.approx(float(row[token]), abs=1e-4)
        best = [top.logprob for top in entry.top_logprobs]
        assert best == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
    chunks = list(chat(client, stream=True, **options))
    parts = [c.choices[0].logprobs for c in chunks if c.choices[0].logprobs]
    assert [entry for part in parts for entry in part.content] == content


def test_log_probabilities_are_those_before_the_temperature(client):
    cold, hot = (
        chat(client, temperature=t, logprobs=True, top_logprobs=1, max_tokens=1) for t in (0, 2)
    )
    top = [found.choices[0].logprobs.content[0].top_logprobs[0].logprob for found in (cold, hot)]
    assert top[0] == pytest.approx(top[1], abs=1e-6)


def test_a_text_goes_on(client):
    options = {"model": "dummy", "prompt": "Tea is", "max_tokens": 6, "temperature": 0}
    found = client.completions.create(**options)
    tokens, _ = reference(b"Tea is", 6)
    assert found.choices[0].text == DUMMY.decode(tokens)
    same = client.completions.create(**options | {"prompt": list(b"Tea is")})
    assert same.choices[0].text == found.choices[0].text
    chunks = list(client.completions.create(**options, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == found.choices[0].text


def test_the_likelihood_of_a_text(client):
    text = "Tea ☕"
    options = {"model": "dummy", "prompt": text, "max_tokens": 0, "echo": True, "logprobs": 2}
    found = client.completions.create(**options)
    choice, tokens = found.choices[0], list(text.encode())
    rows = DUMMY.plain(torch.tensor([tokens]))[0].log_softmax(-1)
    expected = rows[:-1].gather(1, torch.tensor(tokens)[1:, None])[:, 0].tolist()
    assert choice.text == text
    assert choice.logprobs.token_logprobs[0] is choice.logprobs.top_logprobs[0] is None
    assert choice.logprobs.token_logprobs[1:] == pytest.approx(expected, abs=1e-4)
    assert choice.logprobs.text_offset == [0, 1, 2, 3, 4, 4, 4]
    assert choice.logprobs.tokens[4:] == ["bytes:\\xe2", "bytes:\\x98", "bytes:\\x95"]
    assert all(len(top) == 2 for top in choice.logprobs.top_logprobs[1:])
    assert found.usage.completion_tokens == 0
    longer = client.completions.create(**options | {"max_tokens": 3, "temperature": 0})
    assert longer.choices[0].text.startswith(text)
    assert longer.choices[0].logprobs.token_logprobs[:7] == choice.logprobs.token_logprobs
    assert len(longer.choices[0].logprobs.tokens) == 10


def test_a_bias_forces_a_token_and_a_penalty_forbids_it(client):
    def said(**options):
        return chat(client, temperature=0, max_tokens=4, **options).choices[0].message.content

    assert said(logit_bias={"65": 100}) == "AAAA"
    # Both letters are in the prompt, which does not count.
    assert said(frequency_penalty=2, logit_bias={"101": 8, "116": 7}) == "etet"
    assert said(presence_penalty=2, logit_bias={"101": 9, "116": 8}) == "etee"


def test_a_bias_of_nothing_changes_nothing(client):
    plain, moved = chat(client), chat(client, logit_bias={"65": 0, "66": 0, "67": 0})
    assert plain.choices[0].message.content == moved.choices[0].message.content
    few = {str(token): 0 for token in range(258)}
    moved = chat(client, logit_bias=few, temperature=0)
    assert (
        moved.choices[0].message.content == chat(client, temperature=0).choices[0].message.content
    )


def test_an_end_that_is_ignored(client):
    end = {"logit_bias": {"257": 100}, "temperature": 0}
    found = chat(client, **end)
    assert (found.choices[0].message.content, found.choices[0].finish_reason) == ("", "stop")
    assert found.usage.completion_tokens == 1
    found = chat(client, **end, extra_body={"ignore_eos": True})
    assert (found.choices[0].finish_reason, found.usage.completion_tokens) == ("length", 12)


def test_vectors_of_texts(client):
    from rag.embeddings.minilm import MiniLM

    texts = ["a cup of tea", "a mug of coffee"]
    expected = MiniLM().encode(texts)
    for form in ({}, {"encoding_format": "float"}):  # the client asks for base64 by itself
        found = client.embeddings.create(model="minilm", input=texts, **form)
        vectors = np.array([row.embedding for row in found.data])
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert found.usage.prompt_tokens == 12  # with the tokens that begin and end a text
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="dummy", input="tea")


def test_too_many_who_want_vectors(served, client):
    served.service.embed.waiting = 16
    with pytest.raises(openai.RateLimitError):
        client.embeddings.create(model="minilm", input="tea")
    served.service.embed.waiting = 0
    assert len(client.embeddings.create(model="minilm", input="tea").data) == 1
    assert served.service.embed.waiting == 0


def test_many_at_a_time_get_what_each_gets_alone(served, client):
    prompts = [f"{'Tea ' * (i % 5)}{i}" for i in range(12)]

    def ask(one, i, prompt):
        message = [{"role": "user", "content": prompt}]
        options = {"temperature": 0.0 if i % 2 else 1.0, "seed": i, "max_tokens": 5 + i}
        return one.chat.completions.create(model="dummy", messages=message, **options)

    async def together():
        url = f"{served.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as one:
            return await asyncio.gather(*(ask(one, i, p) for i, p in enumerate(prompts)))

    alone = [ask(client, i, p).choices[0].message.content for i, p in enumerate(prompts)]
    assert [found.choices[0].message.content for found in asyncio.run(together())] == alone


def test_a_message_in_parts(client):
    parts = [{"type": "text", "text": "Tell me "}, {"type": "text", "text": "of tea."}]
    found = chat(client, messages=[{"role": "user", "content": parts}])
    assert found.choices[0].message.content == chat(client).choices[0].message.content


def test_events_as_they_are_on_the_wire(served):
    found = served.chat(stream=True, max_tokens=3)
    assert found.headers["content-type"].startswith("text/event-stream")
    assert len(events(found.text)) >= 3


def test_the_schema_can_be_read(served):
    paths = served.client.get("/openapi.json").json()["paths"]
    assert {"/v1/models", "/v1/completions", "/v1/chat/completions", "/v1/embeddings"} <= set(paths)
