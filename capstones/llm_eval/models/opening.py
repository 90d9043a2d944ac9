"""Models by reference.

>>> open_model("dummy").name
'dummy'
>>> open_model("gpt-9")
Traceback (most recent call last):
shared.errors.UserError: model must be smollm2, hf:FOLDER, tiny_gpt:RUN, compress:DIR, gguf:FILE, \
openai:URL[#MODEL], onnx:DIR or dummy, got 'gpt-9'
"""

import dataclasses
from typing import Any

from llm_eval.models.dummy import Dummy
from llm_eval.models.identity import VERSION, artifact_digests, files_digest, tensors_digest
from llm_eval.types import Model, digest
from shared.errors import UserError
from shared.model_refs import SHARED, ModelRef, parse
from shared.require import require

ACCEPTS = (*SHARED, "onnx", "dummy")
DTYPES = ("float32", "float64", "bfloat16", "float16")
WEIGHTS = (".safetensors", ".safetensors.index.json")
TEXTS = (".json", ".jinja", ".model", ".txt")
PLAIN = 1024  # tokens per batch where logits of whole rows may be in memory


def open_model(
    name: str = "smollm2",
    *,
    dtype: str = "float32",
    device: str = "cpu",
    batch_tokens: int | None = None,
    requests_per_minute: float | None = None,
) -> Model:
    """Open a model; nothing is fetched, and no code or pickle of a folder is run.

    Parameters
    ----------
    name
        `smollm2`; `hf:FOLDER`, a model of Transformers; `tiny_gpt:RUN`, a run's folder;
        `compress:DIR`, what `compress` wrote; `gguf:FILE`, a LLaMA; `openai:URL` or
        `openai:URL#MODEL`, a server that speaks OpenAI's format, the key in OPENAI_API_KEY;
        `onnx:DIR`, an export of tiny-gpt; `dummy`, which answers by chance; or what a folder or a
        file is, if it is one of these.
    dtype, device
        Of the weights, where they are here.
    batch_tokens
        Most tokens that are read together; what suits the kind of model if None.
    requests_per_minute
        Most of them to a server; None for no limit.

    Raises
    ------
    UserError
        There is no such model, or it cannot be read.
    """
    ref, must = parse(name, accepts=ACCEPTS), f"dtype must be one of {', '.join(DTYPES)}"
    require(dtype in DTYPES, must, repr(dtype), error=UserError)
    few = batch_tokens is None or batch_tokens >= 1
    require(few, "batch_tokens must be at least 1", batch_tokens, error=UserError)
    if ref.kind == "dummy":
        return Dummy()
    if ref.kind == "openai":
        from llm_eval.models.remote import OpenAI

        return OpenAI(ref.rest, requests_per_minute=requests_per_minute)
    _check_device(device)
    openers = {"hf": _hugging_face, "tiny_gpt": _tiny_gpt, "onnx": _onnx}
    network, codec, digests = openers.get(ref.kind, _llama)(ref, dtype, device)
    from llm_eval.models.local import LocalModel

    identity = {**digests, "dtype": dtype, "device": device, "code": VERSION}
    most = batch_tokens or (4096 if network.shared else PLAIN)
    return LocalModel(ref.text, network, codec, identity, batch_tokens=most)


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"device {device!r} cannot be used: {reason}") from error


def _llama(ref: ModelRef, dtype: str, device: str):
    import torch

    from llm_eval.models.llamas import open_llama, path_of
    from llm_eval.models.networks import LlamaNetwork

    (model, codec), path = open_llama(ref), path_of(ref)
    if ref.kind == "compress":
        digests = artifact_digests(path)
    else:
        digests = dict.fromkeys(("weights", "tokenizer"), files_digest([path]))
    return LlamaNetwork(model.to(device, getattr(torch, dtype))), codec, digests


def open_hugging_face(ref: ModelRef, *, dtype: Any = "auto", device: str = "cpu"):
    """A model of Transformers and its tokenizer; nothing is fetched, no code or pickle is run.

    Parameters
    ----------
    dtype
        Of the weights; as they are stored if `"auto"`.

    Raises
    ------
    UserError
        It cannot be read.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llm_eval.models.networks import HuggingFaceNetwork
    from llm_eval.models.tokens import HuggingFaceCodec

    folder = ref.path
    options = {"local_files_only": True, "trust_remote_code": False}
    weights = options | {"dtype": dtype, "use_safetensors": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        model = AutoModelForCausalLM.from_pretrained(folder, **weights).to(device)
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"{folder} is not a readable language model: {reason}") from error
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return HuggingFaceNetwork(model), HuggingFaceCodec(tokenizer, ref.text, ends)


def _hugging_face(ref: ModelRef, dtype: str, device: str):
    import torch

    network, codec = open_hugging_face(ref, dtype=getattr(torch, dtype), device=device)
    files = [path for path in ref.path.iterdir() if path.is_file()]
    heavy = [path for path in files if path.name.endswith(WEIGHTS) or path.name == "config.json"]
    light = [path for path in files if path not in heavy and path.suffix in TEXTS]
    digests = {"weights": files_digest(heavy), "tokenizer": files_digest(light)}
    return network, codec, digests


def _tiny_gpt(ref: ModelRef, dtype: str, device: str):
    import torch

    from llm_eval.models.networks import TinyNetwork
    from llm_eval.models.tokens import TinyCodec
    from tiny_gpt.training.checkpoints import load_checkpoint

    checkpoint = load_checkpoint(ref.path)
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    sizes = digest(dataclasses.asdict(model.config))
    digests = {"weights": tensors_digest(model.state_dict()), "tokenizer": tokenizer.sha256}
    network = TinyNetwork(model.requires_grad_(False).to(device, getattr(torch, dtype)))
    return network, TinyCodec(tokenizer, ref.text), digests | {"config": sizes}


def _onnx(ref: ModelRef, dtype: str, device: str):
    import onnxruntime
    import torch

    from llm_eval.models.networks import OnnxNetwork
    from llm_eval.models.tokens import TinyCodec
    from shared import artifacts
    from tiny_gpt.data.tokenizers import tokenizer_from_bytes

    folder, plain = ref.path, (dtype, device) == ("float32", "cpu")
    require(plain, "onnx:DIR must be float32 on cpu", dtype, device, error=UserError)
    if (folder / artifacts.MANIFEST).exists():
        artifacts.verify(folder)
    path = folder / "model.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        tokenizer = tokenizer_from_bytes((folder / "tokenizer.json").read_bytes())
        digests = {"weights": files_digest([path]), "tokenizer": tokenizer.sha256}
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        said = session.get_modelmeta().custom_metadata_map
        context = int(said["context"])
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror})") from error
    except (RuntimeError, LookupError, ValueError) as error:
        raise UserError(f"{path} is not an export of tiny-gpt ({type(error).__name__})") from error
    except Exception as error:  # onnxruntime's own are direct children of Exception
        if type(error).__module__.partition(".")[0] != "onnxruntime":
            raise
        raise UserError(f"{path} cannot be read by onnxruntime") from error
    wrong = said.get("tokenizer_sha256") not in (None, tokenizer.sha256)
    require(not wrong, f"{folder} must hold the tokenizer that its graph names", error=UserError)
    return OnnxNetwork(session, context), TinyCodec(tokenizer, ref.text), digests
