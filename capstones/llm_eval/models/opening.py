"""Models by name.

>>> open_model("dummy").name
'dummy'
>>> open_model("gpt-9")
Traceback (most recent call last):
shared.errors.UserError: model must be smollm2, hf:PATH, tiny_gpt:RUN, onnx:DIR, gguf:FILE, \
openai:URL or dummy, got 'gpt-9'
"""

import dataclasses
from pathlib import Path

from llm_eval.models.dummy import Dummy
from llm_eval.models.identity import VERSION, files_digest, tensors_digest
from llm_eval.types import Model, digest
from shared.errors import UserError
from shared.require import require

NAMES = "smollm2, hf:PATH, tiny_gpt:RUN, onnx:DIR, gguf:FILE, openai:URL or dummy"
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
        `smollm2`; `hf:PATH`, a folder of Transformers; `tiny_gpt:RUN`, a run's folder; `onnx:DIR`,
        an export of tiny-gpt; `gguf:FILE`, a LLaMA; `openai:URL` or `openai:URL#MODEL`, a server
        that speaks OpenAI's format, the key in OPENAI_API_KEY; `dummy`, which answers by chance.
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
    kind, _, rest = name.partition(":")
    must = f"dtype must be one of {', '.join(DTYPES)}"
    require(dtype in DTYPES, must, repr(dtype), error=UserError)
    few = batch_tokens is None or batch_tokens >= 1
    require(few, "batch_tokens must be at least 1", batch_tokens, error=UserError)
    if name == "dummy":
        return Dummy()
    if kind == "openai" and rest:
        from llm_eval.models.remote import OpenAI

        return OpenAI(rest, requests_per_minute=requests_per_minute)
    openers = {"hf": _hugging_face, "tiny_gpt": _tiny_gpt, "onnx": _onnx, "gguf": _gguf}
    if name == "smollm2":
        from shared import pretrained

        kind, rest = "gguf", str(pretrained.smollm2())
    if kind not in openers or not rest:
        raise UserError(f"model must be {NAMES}, got {name!r}")
    _check_device(device)
    network, codec, digests = openers[kind](Path(rest), dtype, device)
    from llm_eval.models.local import LocalModel

    identity = {**digests, "dtype": dtype, "device": device, "code": VERSION}
    most = batch_tokens or (4096 if network.shared else PLAIN)
    return LocalModel(name, network, codec, identity, batch_tokens=most)


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"device {device!r} cannot be used: {reason}") from error


def _gguf(path: Path, dtype: str, device: str):
    import torch

    from llm_eval.models.networks import LlamaNetwork
    from llm_eval.models.tokens import GGUFCodec
    from week18.gguf_file import GGUF
    from week18.pretrained import load_pretrained

    require(path.suffix == ".gguf", "gguf:FILE must end in .gguf", path, error=UserError)
    codec, content = GGUFCodec(GGUF.open(path)), files_digest([path])
    model = load_pretrained(path).requires_grad_(False).to(device, getattr(torch, dtype))
    return LlamaNetwork(model), codec, {"weights": content, "tokenizer": content}


def _hugging_face(folder: Path, dtype: str, device: str):
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llm_eval.models.networks import HuggingFaceNetwork
    from llm_eval.models.tokens import HuggingFaceCodec

    require(folder.is_dir(), "hf:PATH must be a folder on this machine", folder, error=UserError)
    options = {"local_files_only": True, "trust_remote_code": False}
    weights = options | {"dtype": getattr(torch, dtype), "use_safetensors": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        model = AutoModelForCausalLM.from_pretrained(folder, **weights).to(device)
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"{folder} is not a readable language model: {reason}") from error
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    codec = HuggingFaceCodec(tokenizer, f"hf:{folder}", ends)
    files = [path for path in folder.iterdir() if path.is_file()]
    heavy = [path for path in files if path.name.endswith(WEIGHTS) or path.name == "config.json"]
    light = [path for path in files if path not in heavy and path.suffix in TEXTS]
    digests = {"weights": files_digest(heavy), "tokenizer": files_digest(light)}
    return HuggingFaceNetwork(model), codec, digests


def _tiny_gpt(run: Path, dtype: str, device: str):
    import torch

    from llm_eval.models.networks import TinyNetwork
    from llm_eval.models.tokens import TinyCodec
    from tiny_gpt.training.checkpoints import load_checkpoint

    checkpoint = load_checkpoint(run)
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    sizes = digest(dataclasses.asdict(model.config))
    digests = {"weights": tensors_digest(model.state_dict()), "tokenizer": tokenizer.sha256}
    network = TinyNetwork(model.requires_grad_(False).to(device, getattr(torch, dtype)))
    return network, TinyCodec(tokenizer, f"tiny_gpt:{run}"), digests | {"config": sizes}


def _onnx(folder: Path, dtype: str, device: str):
    import onnxruntime
    import torch

    from llm_eval.models.networks import OnnxNetwork
    from llm_eval.models.tokens import TinyCodec
    from shared import artifacts
    from tiny_gpt.data.tokenizers import tokenizer_from_bytes

    plain = (dtype, device) == ("float32", "cpu")
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
    return OnnxNetwork(session, context), TinyCodec(tokenizer, f"onnx:{folder}"), digests
