"""Windows, pages and units of the two perplexities against lm-eval's own."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.tasks.wikitext import preprocess_wikitext as theirs
from lm_eval.utils import get_rolling_token_windows
from torch import nn

from shared import datasets
from shared.errors import UserError
from week19 import perplexity as ours
from week19.twins import small_llama


@given(st.integers(0, 40), st.integers(1, 12))
def test_rolling_windows_are_lm_evals(n, context):
    tokens = list(range(100, 100 + n))
    expected = list(get_rolling_token_windows(tokens, 7, context, 1))
    assert list(ours.rolling_windows(tokens, 7, context=context)) == expected
    assert [t for _, said in expected for t in said] == tokens


@settings(max_examples=200)
@given(st.text("ab s'\"()[]{}@-,.=°N\n:!?;", max_size=40))
def test_detokenized_as_lm_eval_does(text):
    assert ours.detokenize(text) == theirs.wikitext_detokenizer({"page": text})


def test_wikitext_pages_and_units():
    try:
        text = datasets.wikitext2("test")
    except UserError as error:
        pytest.skip(str(error))
    found = ours.pages(text)
    assert len(found) == 62
    assert all(page.count("\n") > 1 for page in found)
    page = found[3]
    assert ours.detokenize(page) == theirs.wikitext_detokenizer({"page": page})
    units = theirs.process_results({"page": page}, (-1000.0,))
    mine = ours.per_word_and_byte(page, 1000.0)
    nats, words = units["word_perplexity"]
    assert mine["word_perplexity"] == pytest.approx(math.exp(-nats / words))
    assert mine["bits_per_byte"] == pytest.approx(1000 / units["bits_per_byte"][1] / math.log(2))


def test_nats_are_those_of_one_pass_over_each_window():
    model = small_llama(0)
    tokens = torch.randint(61, (23,), generator=torch.Generator().manual_seed(1))
    windows = tokens[:20].view(4, 5)
    log_p = model(windows).log_softmax(-1)[:, :-1].gather(-1, windows[:, 1:, None])[..., 0]
    torch.testing.assert_close(ours.gptq_nats(model, tokens, context=5), -log_p.mean(1))
    whole = model(torch.cat([torch.tensor([9]), tokens])[None]).log_softmax(-1)[0]
    expected = -whole[:-1].gather(-1, tokens[:, None]).sum().item()
    found = ours.page_nats(model, tokens.tolist(), 9, context=23)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ours.gptq_nats(nn.Identity(), torch.arange(3), context=1),
            "context must be at least 2",
        ),
        (
            lambda: ours.gptq_nats(nn.Identity(), torch.arange(3), context=4),
            "must fill a window of 4, got 3",
        ),
        (lambda: list(ours.rolling_windows([1], 0, context=0)), "context must be at least 1"),
    ],
)
def test_what_fits_no_window_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
