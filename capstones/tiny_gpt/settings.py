"""All that can be chosen for a run, in one place: the command line, `--config` files, presets.

Later ones win: defaults, then `--preset`, then `--config FILE.toml`, then flags.
"""

import dataclasses
import difflib
import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from cyclopts import Parameter

from shared.artifacts import ArtifactError
from shared.errors import UserError
from shared.require import require
from shared.study import Cores, NonNegativeInt, PositiveInt, whole
from tiny_gpt import seal
from tiny_gpt.data.text_settings import TextSettings
from tiny_gpt.model.config import Architecture, GPTConfig

__all__ = ["PRESETS", "Settings", "chosen_settings", "of_kind", "seconds_of"]

PRESETS: dict[str, dict[str, Any]] = {
    # The speed run of the benchmark: beats a 1.9 on tinyshakespeare in seconds.
    "shakespeare-quick": {"data": "tinyshakespeare", "tokenizer": "char", "split": "tail"}
    | {"context": 64, "n_layers": 2, "d_model": 64, "batch_size": 16, "steps": 240}
    | {"eval_every": 0, "save_every": 0, "samples": 0},
    # nanoGPT's documented GPU configuration.
    "shakespeare-char": {"data": "tinyshakespeare", "tokenizer": "char", "split": "tail"}
    | {"context": 256, "n_layers": 6, "n_heads": 6, "d_model": 384, "batch_size": 64}
    | {"steps": 2500, "dropout": 0.2, "eval_every": 250, "save_every": 250},
    "gpt2-124m": {"arch": "gpt2", "tokenizer": "bpe", "vocab_size": 50257, "context": 1024}
    | {"n_layers": 12, "n_heads": 12, "d_model": 768, "batch_size": 480, "micro_batch_size": 12}
    | {"optimizer": "adamw", "lr": 6e-4, "weight_decay": 0.1, "clip": 1.0, "steps": 600_000}
    | {"schedule": "cosine", "final_lr": 0.1, "warmup_steps": 2000}
    | {"eval_every": 1000, "save_every": 1000},
}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Settings(TextSettings):
    """What to train, on what, and how; what is made of a text that is not prepared yet.

    Attributes
    ----------
    data
        A prepared folder, or what `prepare` takes: a file, a folder, a dataset's name, hf:PATH.
    out
        The run's folder.
    arch
        gpt2, llama or modern.
    n_layers
        Blocks of the model.
    n_heads
        Heads of attention.
    d_model
        Width of the model.
    context
        Most tokens the model sees at once.
    n_kv_heads
        Heads of keys and values (llama, modern); as many as heads if not given.
    d_ff
        Width of the MLP; the architecture's multiple of d_model if not given.
    norm
        Other than the architecture's: layer norm, RMS norm, or layer norm without gain and bias.
    positions
        Other than the architecture's.
    mlp
        Other than the architecture's.
    bias
        Biases in linear layers and layer norms, or none; else as the architecture has it.
    qk_norm
        Whether to normalize queries and keys; else as the architecture has it.
    mix_previous
        Whether to add the previous token's embedding; else as the architecture has it.
    tied
        Whether the head is the embedding; else as the architecture has it.
    zero_head
        Whether the head starts at zero; else as the architecture has it.
    dropout
        Probability of dropping; its masks are a function of seed and step.
    packing
        concat cuts documents anywhere; bestfit cuts only those longer than the context.
    document_mask
        Attention stays within a document.
    batch_size
        Sequences per step, over all processes and micro-batches.
    micro_batch_size
        Sequences that one process computes at once; all of its share if not given. Where memory
        runs out it is halved.
    steps
        Optimizer steps.
    optimizer
        muon (matrices of the blocks; AdamW for the rest) or adamw.
    lr
        Peak learning rate of AdamW.
    matrix_lr
        Peak learning rate of Muon.
    momentum
        Decay rate of Muon's running mean of the gradient.
    ns_steps
        Newton–Schulz iterations of Muon.
    weight_decay
        Decoupled, on matrices.
    schedule
        linear, cosine, wsd (a plateau, then a fall over the last fifth) or constant.
    warmup_steps
        Steps in which the rate rises.
    final_lr
        Where the schedule ends, as a share of the peak.
    clip
        Longest gradient; 0 never clips.
    dtype
        fp32, bf16 or fp16; auto times them and says what it chose.
    compile
        Whether to use torch.compile; auto does where the run is long enough to repay it.
    checkpoint_activations
        Less memory, a third more arithmetic, the same gradients.
    spike_factor
        A gradient longer than this many times the running median is not applied; 0 applies all.
    eval_every
        Steps between evaluations on the whole validation split; 0 only at the end.
    save_every
        Steps between checkpoints; 0 only at the end.
    keep
        Checkpoints to keep; the best one is kept beside them.
    max_time
        Stop after this long (90s, 3m, 2h), saved and resumable.
    resume
        auto goes on where a run's folder ends, must insists on it, never starts anew.
    samples
        Texts to write at the end.
    strategy
        Under torchrun: ddp or fsdp (auto takes ddp).
    device
        auto, cpu or cuda.
    threads
        Threads of the CPU; as many as there are cores if not given.
    seed
        Seed of the weights and of everything else.
    tensorboard
        Also write TensorBoard's event files.
    """

    data: str = "pydocs"
    out: Path = Path("runs/tiny_gpt")
    arch: Architecture = "modern"
    n_layers: PositiveInt = 4
    n_heads: PositiveInt = 4
    d_model: PositiveInt = 128
    context: PositiveInt = 128
    n_kv_heads: PositiveInt | None = None
    d_ff: PositiveInt | None = None
    norm: Literal["layer", "rms", "plain"] | None = None
    positions: Literal["learned", "rotary"] | None = None
    mlp: Literal["gelu", "swiglu", "relu2"] | None = None
    bias: bool | None = None
    qk_norm: bool | None = None
    mix_previous: bool | None = None
    tied: bool | None = None
    zero_head: bool | None = None
    dropout: float = 0.0
    tokenizer: Literal["char", "byte", "bpe"] = "char"
    packing: Literal["concat", "bestfit"] = "concat"
    document_mask: bool = False
    batch_size: PositiveInt = 32
    micro_batch_size: PositiveInt | None = None
    steps: PositiveInt = 600
    optimizer: Literal["muon", "adamw"] = "muon"
    lr: float = 0.012
    matrix_lr: float = 0.02
    momentum: float = 0.95
    ns_steps: Annotated[int, whole(1, 100)] = 5
    weight_decay: float = 0.0
    schedule: Literal["linear", "cosine", "wsd", "constant"] = "linear"
    warmup_steps: NonNegativeInt = 0
    final_lr: float = 0.0
    clip: float = 0.0
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    checkpoint_activations: bool = False
    spike_factor: float = 0.0
    eval_every: NonNegativeInt = 100
    save_every: NonNegativeInt = 100
    keep: PositiveInt = 2
    max_time: str | None = None
    resume: Literal["auto", "must", "never"] = "auto"
    samples: Annotated[int, whole(0, 10_000)] = 3
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Cores | None = None
    seed: NonNegativeInt = 0
    tensorboard: bool = False

    def __post_init__(self):
        super().__post_init__()
        for name in ("data", "out"):  # settings.toml is UTF-8
            value = str(getattr(self, name))
            require(
                value.encode("utf-8", "ignore").decode() == value,
                f"{name} must be a name in UTF-8",
                ascii(value),
            )
        if self.max_time is not None:
            seconds_of(self.max_time)
        for name in ("lr", "matrix_lr", "weight_decay", "final_lr", "clip", "spike_factor"):
            value = getattr(self, name)
            require(0 <= value < float("inf"), f"{name} must be at least 0", value)
        must = "final_lr must be a share of the peak, in [0, 1]"
        require(self.final_lr <= 1, must, self.final_lr)
        require(0 <= self.momentum < 1, "momentum must lie in [0, 1)", self.momentum)
        must = "spike_factor must be above 1, or 0 to apply all"
        require(self.spike_factor == 0 or self.spike_factor > 1, must, self.spike_factor)
        must = f"warmup_steps must be below steps = {self.steps}"
        require(self.warmup_steps < self.steps, must, self.warmup_steps)
        self.model_config(2)  # says what is wrong with the sizes

    def model_config(self, vocab_size: int) -> GPTConfig:
        """The model these settings ask for."""
        choices = ("norm", "positions", "mlp", "bias", "qk_norm", "mix_previous", "tied")
        asked = {name: getattr(self, name) for name in (*choices, "zero_head")}
        if asked["tied"] and asked["zero_head"] is None:
            asked["zero_head"] = False
        sizes = ("n_layers", "n_heads", "d_model", "context", "n_kv_heads", "d_ff", "dropout")
        return GPTConfig.of(
            self.arch,
            vocab_size,
            **{name: getattr(self, name) for name in sizes},
            **{name: value for name, value in asked.items() if value is not None},
        )

    def least_memory(self, vocab_size: int) -> int:
        """Bytes without which no step can be taken: the weights, and a step's tokens."""
        config, objects = self.model_config(vocab_size), 20_000 * self.n_layers
        weights = config.block_weights + vocab_size * self.d_model
        return 4 * weights + objects + 16 * self.batch_size * self.context

    def to_toml(self) -> str:
        """The settings as a file that `--config` reads back."""
        lines = []
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if value is not None:
                lines.append(f"{f.name.replace('_', '-')} = {_toml(value)}")
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str) -> "Settings":
        """Read what `to_toml` wrote."""
        content = _known(tomllib.loads(text))
        if isinstance(content.get("out"), str):
            content["out"] = Path(content["out"])
        return of_kind(cls, content)

    @classmethod
    def of_run(cls, run: Path) -> "Settings":
        """The settings that a run was begun with."""
        content = seal.read(Path(run), "settings.toml")
        try:
            return cls.from_toml(content.decode())
        except (ValueError, RecursionError) as error:
            path = Path(run) / "settings.toml"
            raise ArtifactError(f"{path} was altered or is torn: {error}") from error


def of_kind(cls: type, content: dict[str, Any]) -> Any:
    """A dataclass of what a file holds; a ValueError names a value of another kind than its own."""
    hints = get_type_hints(cls)
    for name, value in content.items():
        fits = name in hints and _fits(value, hints[name])
        require(fits, f"{name} must be a value of its kind", repr(value))
    return cls(**content)


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, kind) for kind in get_args(hint))
    if hint is Path:
        return isinstance(value, Path)
    return type(value) is hint or (hint is float and type(value) is int)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False)  # TOML's strings are escaped alike


def seconds_of(duration: str) -> float:
    """Seconds of 90, 90s, 3m or 1.5h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", duration.strip())
    require(match, "max_time must be like 90s, 3m or 1.5h", repr(duration))
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def read_config(path: Path) -> dict[str, Any]:
    """A `--config` file's settings by name, in a table `[train]` or not."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"config {path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"config {path} is not TOML: {error}") from error
    if isinstance(content.get("train"), dict):
        content = {**content.pop("train"), **content}
    try:
        return _known(content)
    except ValueError as error:
        raise UserError(f"config {path}: {error}") from error


def _known(content: dict[str, Any]) -> dict[str, Any]:
    """Settings by their Python names; a name that is none is refused with the nearest one."""
    names = [f.name for f in dataclasses.fields(Settings)]
    found = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0].replace('_', '-')}?" if near else ""
            raise ValueError(f"there is no setting {key!r}{hint}")
        found[name] = value
    return found


def chosen_settings(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Take --config and --preset out of a command line: the other words, and settings by name."""
    if not words or words[0] not in ("train", "find-lr"):
        return words, {}
    rest, chosen = [], {}
    given = {"--preset": None, "--config": None}
    at = iter(words)
    for word in at:
        name, equals, value = word.partition("=")
        if name not in given:
            rest.append(word)
            continue
        given[name] = value if equals else next(at, None)
        if not given[name]:
            raise UserError(f"{name} must be followed by its value, got none")
    if preset := given["--preset"]:
        must = f"preset must be one of {', '.join(PRESETS)}"
        require(preset in PRESETS, must, repr(preset), error=UserError)
        chosen |= PRESETS[preset]
    if given["--config"]:
        chosen |= read_config(Path(given["--config"]))
    return rest, {name.replace("_", "-"): value for name, value in chosen.items()}
