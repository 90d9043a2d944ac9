"""The same model in lm-eval, and the same questions on both sides.

SmolLM2's packaged weights are read by Transformers, so that both harnesses multiply by the same
numbers; lm-eval gets the batch size that serves it best.
"""

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

from llm_eval.types import Request, Response
from shared import pretrained


@cache
def lm_eval_smollm2(batch_size: int = 1) -> Any:
    """SmolLM2 in lm-eval's own class for models of Transformers, in float32 on the processor."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = pretrained.smollm2()
    options = {"gguf_file": path.name, "local_files_only": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **options)
        model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **options)
        found = HFLM(pretrained=model.eval(), tokenizer=tokenizer, batch_size=batch_size)
    return found


def ask(harness: Any, requests: Sequence[Request], batch_size: int) -> list[Response]:
    """Answers of lm-eval to our requests, all of one kind."""
    from lm_eval.api.instance import Instance

    harness.batch_size_per_gpu = batch_size
    kinds = {"loglikelihood": "loglikelihood", "generate": "generate_until"}
    kind = kinds[requests[0].kind]
    instances = [
        Instance(request_type=kind, doc={}, arguments=_arguments(request), idx=i)
        for i, request in enumerate(requests)
    ]
    answers = getattr(harness, kind)(instances, disable_tqdm=True)
    if kind == "generate_until":
        return [Response(text=text) for text in answers]
    return [Response(logprob=logprob, greedy=greedy) for logprob, greedy in answers]


def _arguments(request: Request) -> tuple:
    if request.kind == "loglikelihood":
        return request.context, request.continuation
    options = {"until": list(request.until), "max_gen_toks": request.max_new_tokens}
    return request.context, options | {"do_sample": False}
