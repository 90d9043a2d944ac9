"""`serve`: a language model behind OpenAI's interface, on this machine.

For example:

    serve                         # SmolLM2 at http://127.0.0.1:8000/v1
    serve tiny_gpt:runs/mine --served-model-name mine
    serve hf:FOLDER --host 0.0.0.0 --api-key KEY
    serve bench http://127.0.0.1:8000 --rate 5 --duration 30 --disconnect 0.05

Exit status:

    0    it was ended by SIGTERM or Ctrl-C, with all answers written
    1    it failed
    2    a mistake in the command, or a model that cannot be read
    3    a torn, altered or missing artifact, run or store
"""

import os
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter
from cyclopts.types import Port

from serving.benchmark.commands import COMMANDS
from shared import study

options = {"help_format": "plaintext", "version_flags": [], "result_action": "return_value"}
app = cyclopts.App(name="serve", help=__doc__, **options)
Names = Annotated[tuple[str, ...], Parameter(negative="", show_default=False)]


def main(argv: list[str] | None = None) -> int:
    """Run a command line; return its exit status."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    study.silence_libraries()
    return study.call(app, argv)


@app.default
def serve(
    model: str = "smollm2",
    *,
    host: str = "127.0.0.1",
    port: Port = 8000,
    served_model_name: Names = (),
    api_key: str | None = None,
    allowed_host: Names = (),
    max_model_len: int | None = None,
    max_num_seqs: int = 8,
    max_queue: int = 64,
    kv_cache_memory_bytes: int = 512 * 1024**2,
    deadline: float = 120.0,
    drain: float = 30.0,
    safety: Literal["off", "warn", "block"] = "off",
    redact: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Serve a model until SIGTERM or Ctrl-C.

    Parameters
    ----------
    model
        smollm2, hf:FOLDER, tiny_gpt:RUN, compress:DIR, gguf:FILE, rag:STORE, week28:NAME or dummy;
        NAME is verilog, teacher or circuits.
    host
        Where to listen. Another address than the loopback wants a key.
    port
        Where to listen; 0 takes one that is free.
    served_model_name
        The model's name in requests; may be given several times.
    api_key
        What requests must bring as a bearer; SERVE_API_KEY if not given.
    allowed_host
        Another name of this machine that requests may use; may be given several times.
    max_model_len
        Most tokens of a prompt and its answer.
    max_num_seqs
        Answers that are written at a time.
    max_queue
        Answers that may wait; the next one is refused with 429.
    kv_cache_memory_bytes
        Memory of keys and values.
    deadline
        Seconds after which an answer is broken off.
    drain
        Seconds that answers have to end after SIGTERM.
    safety
        What secrets and toxic sentences in prompts and answers do: nothing, a word in the log and
        the metrics, or block.
    redact
        With --safety block: answers show marks instead of personal data.
    quiet
        Write no line per request.
    """
    from serving.engine.backend import Limits
    from serving.server import Settings, run

    limits = Limits(max_num_seqs, max_queue, max_model_len, kv_cache_memory_bytes)
    settings = Settings(
        model,
        host,
        port,
        served_model_name or (model,),
        api_key or os.environ.get("SERVE_API_KEY") or None,
        allowed_host,
        limits,
        deadline,
        drain,
        safety,
        redact,
        quiet,
    )
    return run(settings)


for command in COMMANDS:
    app.command(command)
