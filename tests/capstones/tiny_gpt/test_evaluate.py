"""Evaluation against lm-eval, transformers, SciPy, and one token at a time."""

import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.stats import Interval
from tiny_gpt.data.shards import ShardWriter, open_data, write_data_manifest
from tiny_gpt.data.tokenizers import END_OF_TEXT, train_tokenizer
from tiny_gpt.export.hugging_face import tensors_of
from tiny_gpt.model.config import GPTConfig
from tiny_gpt.model.gpt import GPT
from tiny_gpt.training.evaluate import Evaluation, Protocol, evaluate, token_losses, windows

CONTEXT = 8
WORDS = ["the", "moon", "läßt", "grüßen", "naïve", "日本", "and", "a", "fox", "élan"]
# Shorter than a window, one window, one token more, two windows, many; one without any text.
LENGTHS = [1, 3, CONTEXT, CONTEXT + 1, 2 * CONTEXT, 2 * CONTEXT + 1, 62, 0, 5]


def words(n, seed=0):
    return " ".join(np.random.default_rng(seed).choice(WORDS, n))


DOCUMENTS = [words(40, seed)[:n] for seed, n in enumerate(LENGTHS)]


def prepare(folder, documents, kind="char", *, end_of_text=True):
    """A split of documents, in files of 100 tokens, and its tokenizer."""
    tokenizer = train_tokenizer(kind, [words(300)], end_of_text=end_of_text, vocab_size=270)
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_bytes(tokenizer.to_bytes())
    close = [tokenizer.end_of_text] if end_of_text else []
    with ShardWriter(folder, "val", tokenizer.sha256, tokenizer.vocab_size, 100) as writer:
        for text in documents:
            ids = np.concatenate([tokenizer.encode(text), np.array(close, dtype=np.int64)])
            writer.append(ids, len(text.encode()))
    write_data_manifest(folder, {})
    return open_data(folder).splits["val"], tokenizer


def model_for(tokenizer, architecture="gpt2", context=CONTEXT, **changes):
    """Weights so large that every token's loss differs from every other's."""
    sizes = {"context": context, "n_layers": 2, "n_heads": 2, "d_model": 16, **changes}
    model = GPT(GPTConfig.of(architecture, tokenizer.vocab_size, **sizes))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "documents", DOCUMENTS)


@pytest.fixture(scope="module")
def model(documents):
    return model_for(documents[1])


def in_transformers(model, n_positions):
    """The same weights in `GPT2LMHeadModel`; positions beyond the model's are zero."""
    from transformers.models.gpt2.configuration_gpt2 import GPT2Config
    from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel

    c, theirs = model.config, tensors_of(model)
    rows = torch.zeros(n_positions - c.context, c.d_model)
    theirs["transformer.wpe.weight"] = torch.cat([theirs["transformer.wpe.weight"], rows])
    size = {"n_embd": c.d_model, "n_layer": c.n_layers, "n_head": c.n_heads}
    config = GPT2Config(vocab_size=c.vocab_size, n_positions=n_positions, **size)
    found = GPT2LMHeadModel(config)
    found.load_state_dict(theirs, strict=False)
    found.tie_weights()
    return found.eval()


def alone(model, context):
    """Nats of the last token of `context`, by a forward pass for it alone."""
    with torch.no_grad():
        logits = model(torch.from_numpy(context[None, :-1]))[0, -1].double()
    return -float(logits.log_softmax(0)[context[-1]])


# ---- parity


@pytest.mark.filterwarnings("ignore")
def test_rolling_equals_lm_eval(tmp_path):
    # A tokenizer whose tokens are not characters: nats, tokens, bytes and words all differ.
    texts = [text for text in DOCUMENTS if text]
    split, tokenizer = prepare(tmp_path, texts, "bpe")
    model = model_for(tokenizer)
    import tokenizers
    from lm_eval.api.instance import Instance
    from lm_eval.api.metrics import bits_per_byte, weighted_perplexity
    from lm_eval.models.huggingface import HFLM
    from lm_eval.utils import get_rolling_token_windows
    from transformers import PreTrainedTokenizerFast

    hf = PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(tokenizer.to_bytes().decode()),
        eos_token=END_OF_TEXT,
    )
    lm = HFLM(pretrained=in_transformers(model, CONTEXT), tokenizer=hf, batch_size=4, device="cpu")
    requests = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    theirs = lm.loglikelihood_rolling(requests, disable_tqdm=True)
    losses = token_losses(model, split, tokenizer, rolling=True)
    ours = [
        -np.nansum(losses[a:b], dtype=np.float64)
        for a, b in zip(split.offsets[:-1], split.offsets[1:], strict=True)
    ]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    result = evaluate(model, split, tokenizer, rolling=True)
    by_bytes = [(ll, len(text.encode())) for ll, text in zip(theirs, texts, strict=True)]
    assert result.bits_per_byte.mean == pytest.approx(bits_per_byte(by_bytes), abs=1e-6)
    by_words = [
        (ll, len(re.split(r"\s+", text.strip()))) for ll, text in zip(theirs, texts, strict=True)
    ]
    assert result.word_perplexity == pytest.approx(weighted_perplexity(by_words), rel=1e-5)

    # Their windows, for every length and stride: read from `begin`, score from `first`.
    for n in range(1, 30):
        for stride in range(1, CONTEXT + 1):
            plan = get_rolling_token_windows(list(range(n)), -1, CONTEXT, CONTEXT - stride + 1)
            expected = [(read[0], scored[0], scored[-1] + 1) for read, scored in plan]
            assert list(windows(-1, n, CONTEXT, stride, reach_back=True)) == expected


@pytest.mark.parametrize("stride", [1, 3, CONTEXT])
def test_strided_equals_the_loop_of_hugging_faces_docs(documents, model, stride):
    split, tokenizer = documents
    ids = torch.from_numpy(split.read(0, split.n_tokens))[None]
    theirs = in_transformers(model, CONTEXT + 1)  # the last position's logits go unused
    # "Perplexity of fixed-length models", with sums in place of means of means.
    total, previous_end = 0.0, 0
    for begin in range(0, split.n_tokens, stride):
        end = min(begin + CONTEXT + 1, split.n_tokens)
        labels = ids[:, begin:end].clone()
        labels[:, : previous_end - end] = -100
        with torch.no_grad():
            logits = theirs(ids[:, begin:end]).logits[0, :-1].double()
        loss = torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum")
        total, previous_end = total + float(loss), end
        if end == split.n_tokens:
            break
    ours = evaluate(model, split, tokenizer, stride=stride)
    assert ours.nats_per_token * ours.n_tokens == pytest.approx(total, abs=1e-4)
    assert ours.n_tokens == split.n_tokens - 1


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "modern"])
@pytest.mark.parametrize("stride", [None, 1, 3])
def test_every_token_from_its_own_context(documents, architecture, stride):
    split, tokenizer = documents
    model = model_for(tokenizer, architecture)
    ids, step = split.read(0, split.n_tokens), stride or CONTEXT
    losses = token_losses(model, split, tokenizer, stride=stride)
    assert np.isnan(losses[0])
    assert len(losses) == split.n_tokens
    for i in range(1, split.n_tokens):
        begin = max(0, -(-(i - CONTEXT) // step)) * step
        assert losses[i] == pytest.approx(alone(model, ids[begin : i + 1]), abs=1e-5)


def test_total_is_the_sum_over_all_tokens(documents, model):
    # The last window is short: a mean of the windows' means would weigh its tokens more.
    split, tokenizer = documents
    assert (split.n_tokens - 1) % CONTEXT
    losses = token_losses(model, split, tokenizer)
    result = evaluate(model, split, tokenizer)
    assert result.n_tokens == split.n_tokens - 1
    assert result.nats_per_token == pytest.approx(np.mean(losses[1:].astype(float)), rel=1e-12)


# ---- properties


@given(
    st.integers(-5, 5), st.integers(0, 60), st.integers(1, 12), st.integers(1, 12), st.booleans()
)
def test_windows_predict_each_token_once(start, n, context, stride, reach_back):
    stride = min(stride, context)
    plan = list(windows(start, start + n, context, stride, reach_back=reach_back))
    scored = [i for _, first, end in plan for i in range(first, end)]
    assert scored == list(range(start + 1, start + n))
    for begin, first, end in plan:
        assert start <= begin < first
        assert end - 1 - begin <= context
        # What the stride promises: so much is read before each token, or all there is.
        assert first - begin >= min(context - stride + 1, first - start)


@pytest.mark.parametrize("rolling", [False, True])
@pytest.mark.parametrize("batch_size", [2, 5, 16])
def test_batch_size_changes_nothing(documents, model, batch_size, rolling):
    split, tokenizer = documents
    options = {"rolling": rolling, "stride": 5}
    a = evaluate(model, split, tokenizer, batch_size=1, **options)
    b = evaluate(model, split, tokenizer, batch_size=batch_size, **options)
    assert (a.n_tokens, a.signature) == (b.n_tokens, b.signature)
    assert a.nats_per_token == pytest.approx(b.nats_per_token, abs=1e-6)


def test_dropout_is_off_and_modes_come_back(documents):
    split, tokenizer = documents
    model = model_for(tokenizer, dropout=0.5)
    expected = evaluate(model, split, tokenizer)
    model.train()
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    assert repr(evaluate(model, split, tokenizer)) == repr(expected)  # its interval is nan
    assert [module.training for module in model.modules()] == modes

    def fail(*_):
        raise RuntimeError("broken")

    model.head.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(model, split, tokenizer)
    assert [module.training for module in model.modules()] == modes


def test_bytes_words_and_bits_of_a_uniform_model(tmp_path):
    # A zero head gives every token the same probability, so all numbers are known.
    texts = [words(5, seed) for seed in range(3)]
    split, tokenizer = prepare(tmp_path, texts, "char")
    model = GPT(
        GPTConfig.of("modern", tokenizer.vocab_size, context=4, n_layers=1, n_heads=1, d_model=8)
    )
    vocab, n_bytes = tokenizer.vocab_size, sum(len(text.encode()) for text in texts)
    n_characters = sum(map(len, texts))
    assert n_bytes > n_characters
    rolling = evaluate(model, split, tokenizer, rolling=True)
    assert (rolling.n_bytes, rolling.n_tokens, rolling.n_words) == (n_bytes, n_characters, 15)
    assert rolling.perplexity == pytest.approx(vocab, rel=1e-6)
    bits = n_characters * math.log2(vocab) / n_bytes
    assert rolling.bits_per_byte.mean == pytest.approx(bits, rel=1e-6)
    assert rolling.word_perplexity == pytest.approx(vocab ** (n_characters / 15), rel=1e-5)
    # One stream: the first token's bytes are not in it, each end of text is, and weighs nothing.
    fixed = evaluate(model, split, tokenizer)
    assert fixed.n_tokens == n_characters + 3 - 1
    assert fixed.n_bytes == n_bytes - len(texts[0][0].encode())


def test_interval_over_documents_is_scipys_bootstrap(tmp_path):
    from scipy.stats import bootstrap

    texts = [words(1 + seed % 7, seed) for seed in range(30)]
    split, tokenizer = prepare(tmp_path, texts)
    model = model_for(tokenizer)
    result = evaluate(model, split, tokenizer, rolling=True)
    losses = token_losses(model, split, tokenizer, rolling=True)
    ends = zip(split.offsets[:-1], split.offsets[1:], strict=True)
    nats = np.array([np.nansum(losses[a:b]) for a, b in ends])

    def ratio(nats, n_bytes, axis):
        return nats.sum(axis) / n_bytes.sum(axis) / math.log(2)

    theirs = bootstrap(
        (nats, split.document_bytes.astype(float)),
        ratio,
        paired=True,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    ours = result.bits_per_byte
    assert "|interval:documents-30|" in result.signature
    assert ours.n == 30
    # A quantile of 9,999 resamples has a Monte Carlo error of a fiftieth of the width or so.
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_interval_over_blocks_of_few_documents(tmp_path):
    split, tokenizer = prepare(tmp_path, [words(400, 1), words(500, 2)])
    model = model_for(tokenizer, context=64)
    result = evaluate(model, split, tokenizer)
    blocks = split.n_tokens // 1024
    assert blocks >= 3
    assert f"|interval:blocks-{blocks}|" in result.signature
    assert result.bits_per_byte.low < result.bits_per_byte.mean < result.bits_per_byte.high
    assert evaluate(model, split, tokenizer) == result  # the resamples are the same each time
    # Without an interval all else is the same, and nothing is said to have been resampled.
    plain = evaluate(model, split, tokenizer, interval=False)
    assert plain.bits_per_byte.mean == pytest.approx(result.bits_per_byte.mean, rel=1e-12)
    assert "|interval:none|" in plain.signature
    assert math.isnan(plain.bits_per_byte.low)


@pytest.mark.parametrize(
    ("n", "unit"),
    [(19, "none"), (20, "documents-20"), (1000, "documents-1000"), (1001, "documents-1000")],
)
def test_units_of_the_interval(n, unit, tmp_path):
    split, tokenizer = prepare(tmp_path, ["a"] * n)
    result = evaluate(model_for(tokenizer), split, tokenizer)
    assert f"|interval:{unit}|" in result.signature
    assert math.isnan(result.bits_per_byte.low) == (unit == "none")


def test_protocol_by_default(documents, model):
    settled = Protocol().settled(model, *documents)
    assert (settled.context, settled.stride, settled.batch_size) == (8, 8, 8192 // 8)


def test_perplexity_that_no_float_can_hold_is_infinite(documents):
    split, tokenizer = documents
    model = model_for(tokenizer)
    with torch.no_grad():
        model.head.weight.mul_(1e6)
    assert evaluate(model, split, tokenizer).perplexity == math.inf


# ---- what is said about it


def test_signature_says_what_the_numbers_depend_on(documents, model):
    split, tokenizer = documents
    name = f"tokenizer:char:{tokenizer.sha256[:6]}"
    n = split.n_tokens
    default = evaluate(model, split, tokenizer)
    assert default.signature == (
        f"tiny-gpt|split:val|protocol:fixed|context:8|tokens:{n - 1}|dtype:fp32|{name}"
        "|interval:none|v1"
    )
    for options, part in (
        ({"stride": 3}, "|protocol:strided|context:8|stride:3|"),
        ({"stride": 8}, f"|protocol:fixed|context:8|tokens:{n - 1}|"),
        ({"context": 5}, "|context:5|"),
        ({"rolling": True}, "|protocol:rolling|context:8|prefix:0|"),
        ({"dtype": torch.bfloat16}, "|dtype:bf16|"),
    ):
        result = evaluate(model, split, tokenizer, **options)
        assert part in result.signature
        assert result.signature in str(result)
    assert result.nats_per_token != default.nats_per_token
    assert result.nats_per_token == pytest.approx(default.nats_per_token, rel=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert repr(evaluate(model, split, tokenizer)) == repr(default)
    assert f"{default.nats_per_token:.4f} nats/token" in str(default)


@pytest.mark.parametrize(
    ("low", "high", "interval"), [(1.18, 1.305, " [1.1800, 1.3050]"), (math.nan, math.nan, "")]
)
def test_in_words_and_as_json(low, high, interval):
    """The whole line and every number: no two of them may change places."""
    bits = Interval(1.25, low, high, 30)
    result = Evaluation(0.5, 1.6487, bits, 90.25, 7, 21, 3, "tiny-gpt|v1")
    assert str(result) == (
        f"0.5000 nats/token, perplexity 1.649, 1.2500 bits/byte{interval}, "
        "perplexity per word between white space 90.25 (tiny-gpt|v1)"
    )
    ends = [None if math.isnan(end) else end for end in (low, high)]
    assert result.to_dict() == {
        "nats_per_token": 0.5,
        "perplexity": 1.6487,
        "bits_per_byte": {"value": 1.25, "low": ends[0], "high": ends[1]},
        "word_perplexity": 90.25,
        "n_tokens": 7,
        "n_bytes": 21,
        "n_words": 3,
        "signature": "tiny-gpt|v1",
    }


def test_to_dict_is_json(documents, model):
    split, tokenizer = documents
    result = evaluate(model, split, tokenizer)
    back = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert back["nats_per_token"] == result.nats_per_token
    assert back["bits_per_byte"]["value"] == result.bits_per_byte.mean
    assert back["bits_per_byte"]["low"] is None
    assert set(back) == set(Evaluation.__dataclass_fields__)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_that_diverged_is_not_flattered(documents, value):
    split, tokenizer = documents
    model = model_for(tokenizer)
    with torch.no_grad():
        model.embed.weight[7] = value
    result = evaluate(model, split, tokenizer)
    assert result.n_tokens == split.n_tokens - 1
    assert not math.isfinite(result.nats_per_token)
    assert result.to_dict()["nats_per_token"] is None
    assert result.signature in str(result)


# ---- wrong input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 0}, "context must be between 1 and 8, got 0"),
        ({"context": 9}, "context must be between 1 and 8, got 9"),
        ({"stride": 0}, "stride must be between 1 and 8, got 0"),
        ({"context": 4, "stride": 5}, "stride must be between 1 and 4, got 5"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"dtype": torch.float64}, "dtype must be .* got torch.float64"),
    ],
)
def test_wrong_options(documents, model, options, message):
    split, tokenizer = documents
    with pytest.raises(ValueError, match=message):
        evaluate(model, split, tokenizer, **options)


@pytest.mark.parametrize(
    "options", [{"context": 1}, {"context": 8}, {"stride": 1}, {"stride": 8}, {"batch_size": 1}]
)
def test_options_at_their_limits(documents, model, options):
    split, tokenizer = documents
    assert evaluate(model, split, tokenizer, **options).n_tokens == split.n_tokens - 1


def test_the_shortest_split(model, tmp_path):
    """Two tokens, one of them predicted."""
    split, tokenizer = prepare(tmp_path, [words(4)[:2]], end_of_text=False)
    model = model_for(tokenizer)
    assert split.n_tokens == 2
    assert evaluate(model, split, tokenizer).n_tokens == 1


def test_wrong_split_or_tokenizer(documents, model, tmp_path):
    split, tokenizer = documents
    # As many ids, for characters of other lengths: what a tokenizer from an older run may be.
    other = train_tokenizer("char", [bytes(range(65, 64 + tokenizer.vocab_size)).decode()])
    assert other.vocab_size == tokenizer.vocab_size
    for wrong, message in (
        (other, "tokenizer must be the split's, got one .* bytes"),
        (train_tokenizer("char", ["ab"]), "tokenizer must be the split's, got one of 3 ids"),
        (train_tokenizer("byte", []), f"at most the model's {model.config.vocab_size} ids"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(model, split, wrong)
    stream, no_end = prepare(tmp_path / "stream", [words(4)], end_of_text=False)
    with pytest.raises(ValueError, match="rolling must have an end of text"):
        evaluate(model, stream, no_end, rolling=True)
    short, _ = prepare(tmp_path / "short", ["a"], end_of_text=False)
    with pytest.raises(ValueError, match="split must have at least 2 tokens, got 1"):
        evaluate(model, short, no_end)
    blank, _ = prepare(tmp_path / "blank", ["", ""])
    with pytest.raises(ValueError, match="split must hold text"):
        evaluate(model, blank, tokenizer)
