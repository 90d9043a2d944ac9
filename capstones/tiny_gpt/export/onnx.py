"""ONNX: the decoder as a graph for any runtime, for every batch size and length up to `context`.

One input, `tokens` (int64, batch by sequence), one output, `logits`; the tokenizer's digest stands
in the metadata. The way is one-way: a graph cannot be read back into a model.
"""

import contextlib
import io
import logging
import warnings

import jaxtyping
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tiny_gpt.data.tokenizers import Tokenizer
from tiny_gpt.model.gpt import GPT

OPSET = 18


class Logits(nn.Module):
    """The decoder as a function of one input.

    The mask of ones says nothing, but makes causality part of the graph: the kernel's own flag
    would depend on the length, and a graph has no such branch.
    """

    def __init__(self, model: GPT):
        super().__init__()
        self.model = model

    def forward(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq vocab"]:
        """Logits of the next token after each one."""
        return self.model(tokens, mask=torch.ones_like(tokens, dtype=torch.bool))


def onnx_file(model: GPT, tokenizer: Tokenizer) -> bytes:
    """The bytes of an ONNX model in the weights' dtype."""
    import onnx

    context = model.config.context
    # Neither dimension may be 1 here: the tracer takes a 1 for a constant.
    example = torch.zeros(2, max(min(2, context), context - 1), dtype=torch.int64)
    dims = {0: torch.export.Dim("batch")}
    if context > 1:
        dims[1] = torch.export.Dim("sequence", max=context)
    with _tracing():
        program = torch.onnx.export(
            Logits(model).eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["tokens"],
            output_names=["logits"],
            dynamic_shapes={"tokens": dims},
            verbose=False,
        )
    proto = program.model_proto
    metadata = {
        "tokenizer_sha256": tokenizer.sha256,
        "context": str(context),
        "end_of_text": "" if tokenizer.end_of_text is None else str(tokenizer.end_of_text),
    }
    onnx.helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


@contextlib.contextmanager
def _tracing():
    """Without the exporter's chatter; its errors are exceptions and pass.

    Nor with shapes enforced, should they be: symbols stand where annotations say int.
    """
    disabled, unchecked = logging.root.manager.disable, jaxtyping.config.jaxtyping_disable
    logging.disable(logging.WARNING)
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        jaxtyping.config.update("jaxtyping_disable", unchecked)
