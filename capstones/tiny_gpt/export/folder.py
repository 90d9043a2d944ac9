"""A checkpoint for other programs: Hugging Face's folder, ONNX, GGUF; and back.

What is written is read again by the program it is meant for, and compared with the model, before
anything stands at its place: transformers for `hf` and `gguf`, onnxruntime for `onnx`. The error
is the largest difference of two logits, divided by the largest logit where that is above 1.
"""

import contextlib
import importlib.util
import io
import json
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared import artifacts
from shared.artifacts import ArtifactError
from shared.errors import UserError
from shared.require import require
from tiny_gpt.data.tokenizers import Tokenizer, tokenizer_from_bytes
from tiny_gpt.export.gguf import gguf_file, model_from_gguf
from tiny_gpt.export.hugging_face import content_of, folder_files, layout_of, model_from
from tiny_gpt.export.onnx import onnx_file
from tiny_gpt.model.gpt import GPT
from tiny_gpt.seal import refuse_inside
from tiny_gpt.training.checkpoints import Checkpoint
from week18 import pretrained

__all__ = ["Format", "export", "import_model"]

Format = Literal["hf", "onnx", "gguf"]

TOLERANCES = {"hf": 1e-5, "onnx": 1e-4, "gguf": 1e-5}  # rounding of float32 in another order
GREEDY_TOKENS = 64


def export(
    checkpoint: Checkpoint, format: Format | str, out: Path, *, verify: bool = True
) -> dict[str, Any]:
    """Write a checkpoint as a folder that other programs read, whole or not at all.

    Parameters
    ----------
    format
        - ``"hf"``: `config.json`, `model.safetensors`, tokenizer and generation settings, for
          transformers' GPT-2 or LLaMA class, or with the code of our own.
        - ``"onnx"``: `model.onnx` and `tokenizer.json`.
        - ``"gguf"``: `model.gguf` and `tokenizer.json`; architectures gpt2 and llama only.
    verify
        Read it back with the program it is for and compare.

    Returns
    -------
    dict
        `format`, `out`, `architecture`, `step`, `files` (bytes of each), `note` on what the format
        cannot hold (or None) and `errors`: of the logits, and for `hf` how many tokens of greedy
        text were the same.

    Raises
    ------
    UserError
        If the format cannot hold the model, what was written computes something else, a library
        that verifies is not installed, or the folder cannot be written.
    """
    model, tokenizer = checkpoint.model.eval(), checkpoint.tokenizer
    must = f"{checkpoint.path}: the model and its tokenizer must have as many tokens"
    sizes = model.config.vocab_size, tokenizer.vocab_size
    require(sizes[0] == sizes[1], must, *sizes, error=UserError)
    must = f"format must be one of {', '.join(TOLERANCES)}"
    require(format in TOLERANCES, must, repr(format), error=UserError)
    _replaces_only_an_export(out)
    note = None
    if format == "hf":
        files = folder_files(model, tokenizer)
    elif format == "onnx":
        files = {"model.onnx": onnx_file(model, tokenizer), "tokenizer.json": tokenizer.to_bytes()}
    else:
        data, note = gguf_file(model, tokenizer)
        files = {"model.gguf": data, "tokenizer.json": tokenizer.to_bytes()}
    report = {
        "format": format,
        "architecture": layout_of(model.config),
        "step": checkpoint.step,
        "tokenizer_sha256": tokenizer.sha256,
        "errors": _verified(model, tokenizer, format, files) if verify else {},
    }
    artifacts.save(out, files, metadata=report)
    sizes = {name: len(data) for name, data in files.items()}
    return {**report, "out": str(out), "files": sizes, "note": note}


def _replaces_only_an_export(out: Path) -> None:
    refuse_inside(out)
    if not (Path(out) / artifacts.MANIFEST).exists():
        return  # what else there may be is not replaced in any case
    try:
        kind = artifacts.manifest_of(Path(out))["metadata"]["format"]
    except (LookupError, TypeError, OSError, ArtifactError) as error:
        raise ArtifactError(f"out {out} is no export as it was written: not replaced") from error
    must = f"out {out} must be an export where it is to be replaced"
    require(kind in list(TOLERANCES), must, repr(kind), error=ArtifactError)


def import_model(path: Path) -> tuple[GPT, Tokenizer | None]:
    """Read a model that `export` or another program wrote, in the dtype of the file.

    `path` is a folder with `config.json` and safetensors of a GPT-2, a LLaMA or a `tiny_gpt`, a
    folder with `model.gguf`, or such a file. A folder of ours is verified byte by byte. Without a
    `tokenizer.json` the tokenizer is None.

    Raises
    ------
    UserError
        If a file is missing, torn or not understood, or a configuration asks for something that
        `GPT` does not have.
    """
    path = Path(path)
    if path.suffix == ".gguf" and not path.is_dir():
        return model_from_gguf(path), None
    if not path.is_dir():
        raise UserError(f"{path} is not a folder with a model, nor a .gguf file")
    if (path / artifacts.MANIFEST).exists():
        artifacts.load(path)  # ours: every byte is verified
    if (path / "model.gguf").exists():
        model = model_from_gguf(path / "model.gguf")
    elif (path / "config.json").exists():
        content = _json(path / "config.json")
        model = model_from(content, pretrained.read_tensors(path), path)
    else:
        what = "no model: config.json (or model.gguf) is missing"
        if (path / "model.onnx").exists():
            what = "an ONNX graph, which is no model to train: export it as hf"
        raise UserError(f"{path} holds {what}")
    return model, _tokenizer(path / "tokenizer.json", model)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(pretrained.read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is torn or no JSON ({error})") from error
    kind = type(content).__name__
    require(isinstance(content, dict), f"{path} must hold an object", kind, error=UserError)
    return content


def _tokenizer(path: Path, model: GPT) -> Tokenizer | None:
    if not path.exists():
        return None
    try:
        tokenizer = tokenizer_from_bytes(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    except UserError as error:
        raise UserError(f"{path}: {error}; without that file the model alone is read") from error
    n, known = tokenizer.vocab_size, model.config.vocab_size
    must = f"{path} must have no more tokens than the model, {known}"
    require(n <= known, must, n, error=UserError)
    return tokenizer


# ---- the comparison


def _verified(
    model: GPT, tokenizer: Tokenizer, format: Format, files: dict[str, bytes]
) -> dict[str, float]:
    """Errors of what the files compute, read by the program they are for; refuses large ones."""
    readers = {"hf": _read_by_transformers, "onnx": _read_by_onnxruntime, "gguf": _read_gguf}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, data in files.items():
            (folder / file).write_bytes(data)
        try:
            return readers[format](model, tokenizer, folder)
        except ModuleNotFoundError as error:
            raise UserError(
                f"verify needs {error.name}, which is not installed; without verify the export "
                "is written unread"
            ) from error


def _examples(model: GPT, shapes: list[tuple[int, int]]) -> list[Int[Tensor, "batch seq"]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(model.config.vocab_size, s, generator=generator) for s in shapes]


def _logits(model: GPT, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq vocab"]:
    with torch.no_grad():
        return model(tokens).float()


def _compared(
    ours: Float[Tensor, "*shape"], theirs: Float[Tensor, "*shape"], format: Format, reader: str
) -> float:
    scale = max(1.0, ours.abs().max().item())
    error = (ours - theirs).abs().max().item() / scale
    if not error <= TOLERANCES[format]:  # nor where it is no number
        raise UserError(
            f"the {format} export was not written: its logits in {reader} differ by {error:.1e} "
            f"of the largest, more than {TOLERANCES[format]:g}"
        )
    return error


def _read_by_transformers(model: GPT, tokenizer: Tokenizer, folder: Path) -> dict[str, float]:
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    code = folder / "modeling_tiny_gpt.py"
    reader = _class_in(code) if code.exists() else AutoModelForCausalLM
    with _quiet():
        theirs = reader.from_pretrained(folder, dtype=model.embed.weight.dtype).eval()
    context = model.config.context
    errors = []
    for tokens in _examples(model, [(1, 1), (2, context)]):
        with torch.no_grad():
            logits = theirs(tokens).logits.float()
        errors.append(_compared(_logits(model, tokens), logits, "hf", "transformers"))
    result = {"logits": max(errors)}
    if context > 1:
        result["greedy_tokens"] = _same_greedy_text(model, theirs)
    _same_ids(tokenizer, PreTrainedTokenizerFast.from_pretrained(folder))
    return result


def _same_greedy_text(model: GPT, theirs: Any) -> int:
    """Tokens of their greedy, cached text, each of which must be our most likely one too.

    Where two logits are as near as the tolerance either may come first.
    """
    (prompt,) = _examples(model, [(1, min(4, model.config.context - 1))])
    n = min(GREEDY_TOKENS, model.config.context - prompt.shape[1])
    theirs.generation_config.eos_token_id = None  # go on to the end
    ones = torch.ones_like(prompt)
    with _quiet():
        text = theirs.generate(
            prompt, attention_mask=ones, max_new_tokens=n, do_sample=False, pad_token_id=0
        )
    logits = _logits(model, text[:, :-1])[:, prompt.shape[1] - 1 :]
    chosen = logits.gather(-1, text[:, prompt.shape[1] :, None])
    scale = logits.abs().max().clamp(min=1)
    wrong = (logits.max(-1, keepdim=True).values - chosen > 2 * TOLERANCES["hf"] * scale).flatten()
    if wrong.any():
        raise UserError(
            "the hf export was not written: its greedy text in transformers differs from ours "
            f"at token {int(wrong.nonzero()[0]) + 1}"
        )
    return n


def _same_ids(tokenizer: Tokenizer, theirs: Any) -> None:
    ids = [i for i in range(tokenizer.vocab_size) if i != tokenizer.end_of_text]
    text = tokenizer.decode(ids)
    if theirs(text, verbose=False).input_ids != tokenizer.encode(text).tolist():
        raise UserError("the hf export was not written: its tokenizer makes other ids")


def _read_by_onnxruntime(model: GPT, tokenizer: Tokenizer, folder: Path) -> dict[str, float]:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    lengths = sorted({1, min(7, model.config.context), model.config.context})
    errors = []
    for tokens in _examples(model, [(batch, n) for batch in (1, 3) for n in lengths]):
        (logits,) = session.run(["logits"], {"tokens": tokens.numpy()})
        errors.append(
            _compared(_logits(model, tokens), torch.from_numpy(logits), "onnx", "onnxruntime")
        )
    return {"logits": max(errors)}


def _read_gguf(model: GPT, tokenizer: Tokenizer, folder: Path) -> dict[str, float]:
    from transformers import AutoConfig, AutoModelForCausalLM

    # For GPT-2 it reads neither n_positions nor n_inner from the file: they are given.
    content = content_of(model.config)
    with _quiet():
        config = AutoConfig.for_model(content.pop("model_type"), **content)
        given = {"config": config} if layout_of(model.config) == "gpt2" else {}
        theirs = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", **given)
    (tokens,) = _examples(model, [(2, model.config.context)])
    with torch.no_grad():
        logits = theirs.eval()(tokens).logits.float()
    return {"logits": _compared(_logits(model, tokens), logits, "gguf", "transformers")}


def _class_in(code: Path) -> Any:
    """The exported class, without a copy of its file in transformers' cache."""
    spec = importlib.util.spec_from_file_location("modeling_tiny_gpt", code)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TinyGPTForCausalLM


@contextlib.contextmanager
def _quiet():
    """Without transformers' progress bars and warnings; its errors are exceptions and pass."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
