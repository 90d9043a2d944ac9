"""Methods that round weights, judged by the loss that they leave SmolLM2 on WikiText-2."""

from collections.abc import Mapping

import numpy as np

from shared.stats import paired_bootstrap
from shared.study import Run
from week19.layer_inputs import Quantizer, quantized_losses
from week19.wikitext import Judged, language_model


def judge_on_text(
    run: Run,
    n_windows: tuple[int, int],
    methods: Mapping[str, Quantizer],
    gains: Mapping[str, tuple[str, str]],
) -> Judged:
    """Perplexity of each method, and claims that one of two leaves a lower loss, by window.

    Parameters
    ----------
    n_windows
        To learn from, and to be judged by, of 48 tokens each.
    gains
        What is claimed, after the model's name: the method with the higher loss, then the other.
    """
    quick = run.mode == "quick"
    found = language_model(*n_windows, context=48, quick=quick, seed=run.seed)
    methods = {"as it is": lambda block, inputs: None, **methods}
    losses = quantized_losses(found.model, found.calibration, found.texts, methods)
    losses = {name: values.numpy() for name, values in losses.items()}
    for name, values in losses.items():
        run.metric(f"perplexity, {name}", float(np.exp(values.mean())), rtol=0.05)
    for claim, (worse, better) in gains.items():
        gain = paired_bootstrap(losses[worse], losses[better], rng=run.rng)
        rule = {"at_least": 0.0, "unit": "nats/token", "quick": False}
        run.claim(f"on {found.name} {claim}", gain, **rule)
    return found
