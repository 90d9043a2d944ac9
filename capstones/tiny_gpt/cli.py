"""`tiny-gpt`: prepare text, train a small GPT on it, and know what came of it.

Exit status: 0 all went well, 1 it failed, 2 a mistake in the command,
3 a torn or altered file, 75 interrupted, saved, and to be resumed by the
same command, 130 (Ctrl-C) or 143 (SIGTERM) interrupted with nothing saved,
141 nobody reads what is printed.
"""

import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter, validators

from shared import study
from shared.artifacts import ArtifactError
from shared.errors import UserError
from shared.require import require
from shared.study import Cores, NonNegativeInt, PositiveInt, whole
from tiny_gpt.data.text_settings import TextSettings
from tiny_gpt.settings import Settings, chosen_settings
from tiny_gpt.terminal import (
    checkpoint_of,
    console,
    data_folder,
    data_of,
    memory_for,
    own_folder,
    prepared,
    read_prompt,
    slug,
    training_bar,
    use_threads,
)

Share = Annotated[float, Parameter(validator=validators.Number(gte=0, lte=1))]
CORRUPT, INTERRUPTED = ArtifactError.status, 75
SIZES = "d_model, d_ff, n_layers, context, batch_size and micro_batch_size"

options = {"help_format": "plaintext", "version_flags": [], "result_action": "return_value"}
app = cyclopts.App(name="tiny-gpt", help=__doc__, **options)


def main(argv: list[str] | None = None) -> int:
    """Run a command line; return its exit status."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    study.silence_libraries()
    words = list(sys.argv[1:] if argv is None else argv)
    return study.call(app, words, prepare=_take_chosen_settings, lost="")


# ---- the commands


@app.command
def prepare(
    source: str = "pydocs",
    *,
    text: TextSettings | None = None,
    out: Path | None = None,
    seed: NonNegativeInt = 0,
    workers: Cores | None = None,
) -> None:
    """Turn text into token files: deduplicated, split by document, checked for leaks.

    Parameters
    ----------
    source
        A text file, a folder, a .jsonl with "text", a dataset's name, or hf:PATH of a Hugging Face
        dataset on disk.
    out
        The folder to write; runs/data/NAME if not given.
    seed
        Another seed gives another split.
    workers
        Processes; as many as there are cores, up to 8.
    """
    from tiny_gpt.report.describe import describe, show

    out = own_folder(out or Path("runs/data") / slug(source))
    prepared(source, out, **asdict(text or TextSettings()), seed=seed, workers=workers)
    console.print(show(describe(out)))


@app.command
def train(settings: Settings | None = None) -> int:
    """Train a model; with no options, on Python's manual, in about two minutes.

    --preset NAME takes a known set of options: shakespeare-quick,
    shakespeare-char or gpt2-124m. --config FILE.toml reads options from a file
    and wins over the preset; flags win over both.

    The same command goes on where an interrupted run stopped.

    Several processes share the work under torchrun:
    torchrun --standalone --nproc-per-node 2 -m tiny_gpt train
    """
    settings = settings or Settings()
    own_folder(settings.out)
    use_threads(settings.threads)
    from tiny_gpt.data import shards
    from tiny_gpt.training import checkpoints
    from tiny_gpt.training.train import Listener, train

    first = int(os.environ.get("RANK", "0")) == 0
    folder = data_folder(settings, first)
    data = shards.open_data(folder)
    say = console.print if first else (lambda line: None)
    counts = " and ".join(f"{s.n_tokens:,} to {n}" for n, s in data.splits.items())
    say(f"data {folder}: tokens {counts} on")
    least = settings.least_memory(data.tokenizer.vocab_size)
    goes_on = "and saved; the same command goes on from there"
    try:
        with (
            training_bar(settings.steps, shown=first and console.is_terminal) as moved,
            memory_for(SIZES, least),
        ):
            outcome = train(data, settings, Listener(say, moved))
        if not outcome.finished:
            where = f"step {outcome.step} of {settings.steps}"
            say(f"{outcome.run}: interrupted at {where} {goes_on}")
            return INTERRUPTED
        if first:
            from tiny_gpt.report.wrapup import wrap_up

            wrap_up(outcome, data, settings, console)
    except KeyboardInterrupt:  # a second one, or while the end is written
        if not (steps := checkpoints.steps_saved(settings.out)):
            raise
        say(f"{settings.out}: interrupted after step {steps[-1]} {goes_on}")
        return INTERRUPTED
    return 0


@app.command
def find_lr(
    settings: Settings | None = None,
    *,
    trial_steps: Annotated[int | None, whole(4)] = None,
) -> None:
    """Search for the learning rate by short runs; takes all the options of train.

    All rates are doubled or halved together, on the same batches, until both neighbors are worse.
    Nothing is kept, and the validation text is not looked at.

    Parameters
    ----------
    trial_steps
        Optimizer steps of a trial; a fifth of --steps if not given.
    """
    settings = settings or Settings()
    use_threads(settings.threads)
    from tiny_gpt.data import shards
    from tiny_gpt.training.find_lr import find_lr as search

    if "RANK" in os.environ:
        raise UserError("find-lr must run in one process, got several of torchrun")
    must = f"trial_steps must be at most steps = {settings.steps}"
    require((trial_steps or 4) <= max(4, settings.steps), must, trial_steps, error=UserError)
    data = shards.open_data(data_folder(settings))
    with memory_for(SIZES, settings.least_memory(data.tokenizer.vocab_size)):
        found = search(data, settings, steps=trial_steps, say=console.print)
    if found.at_the_edge:
        console.print("still falling where the search ended: begin again from these rates")
    console.print(f"train with {found.flags}")


@app.command(name="eval")
def evaluate_(
    run: Path,
    *,
    data: Path | None = None,
    split: str = "val",
    stride: PositiveInt | None = None,
    context: PositiveInt | None = None,
    rolling: bool = False,
    json_: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Evaluate a model on a whole split: loss, perplexity, bits per byte with an interval.

    Parameters
    ----------
    run
        A run's folder (its best checkpoint is taken) or a checkpoint.
    data
        A prepared folder; the one that the run was trained on if not given.
    split
        train or val.
    stride
        New tokens per window, the rest of it being read again; the whole window if not given.
    context
        Window in tokens; the model's if not given.
    rolling
        lm-eval's rolling log-likelihood, each document for itself.
    json_
        Print one JSON object.
    """
    from tiny_gpt.data import shards
    from tiny_gpt.training.evaluate import evaluate

    checkpoint = checkpoint_of(run)
    trained_on = checkpoint.state.get("data_sha256")
    prepared = shards.open_data(data) if data else data_of(checkpoint.path, run, trained_on)
    prepared.check_ids()
    must = f"split must be one of {', '.join(prepared.splits)}"
    require(split in prepared.splits, must, repr(split), error=UserError)
    if prepared.tokenizer.sha256 != checkpoint.tokenizer.sha256:
        raise UserError(f"data was made with another tokenizer than {checkpoint.path}")
    protocol = {"stride": stride, "context": context, "rolling": rolling}
    result = evaluate(checkpoint.model, prepared.splits[split], checkpoint.tokenizer, **protocol)
    if prepared.sha256 != trained_on:  # other numbers may be as many, of tokens that are others
        other = f"{result.signature}|data:{prepared.sha256[:6]}"
        result = replace(result, signature=other)
    console.print_json(data=result.to_dict()) if json_ else console.print(str(result))


@app.command
def sample(
    run: Path,
    *,
    prompt: Annotated[str | None, Parameter(alias="-p", allow_leading_hyphen=True)] = None,
    file: Annotated[Path | None, Parameter(alias="-f")] = None,
    number: Annotated[PositiveInt, Parameter(alias="-n")] = 1,
    max_new_tokens: PositiveInt = 200,
    temperature: Annotated[float, Parameter(alias="-t")] = 0.8,
    top_k: NonNegativeInt | None = None,
    top_p: Share | None = None,
    min_p: Share | None = None,
    repetition_penalty: float = 1.0,
    stop: str | None = None,
    seed: NonNegativeInt = 0,
    cache: bool = True,
) -> None:
    """Write text: as it comes where one is asked for, all at once for several.

    Parameters
    ----------
    run
        A run's folder (its best checkpoint is taken) or a checkpoint.
    prompt
        What the text begins with; - reads it from the standard input.
    file
        A file that holds the prompt.
    number
        How many texts; each has its own seed and is the same in any company.
    max_new_tokens
        Tokens to write at most.
    temperature
        0 always takes the likeliest token.
    top_k
        Draw from so many of the likeliest tokens; 0 for all.
    top_p
        Draw from the likeliest tokens that together have this probability.
    min_p
        Leave out tokens below this share of the likeliest one's probability.
    repetition_penalty
        Above 1: what was said becomes less likely.
    stop
        Stop before this text.
    seed
        The same seed writes the same text.
    cache
        Keep keys and values; without, the same text, slower.
    """
    from tiny_gpt.generation import writing
    from week19.sampling import Sampler

    if prompt is not None and file is not None:
        raise UserError("prompt and file cannot both be given")
    checkpoint = checkpoint_of(run)
    text = read_prompt(prompt, file)
    limits = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
    sampler = Sampler(temperature, **limits, repetition_penalty=repetition_penalty)
    options = {"sampler": sampler, "stop": stop, "cache": cache}
    each = 8 * max_new_tokens + 5_000  # ids, and a generator of random numbers
    if number > 1:
        seeds = range(seed, seed + number)
        with memory_for("number and max_new_tokens", number * each):
            texts = writing.write(checkpoint, text, max_new_tokens, seeds=seeds, **options)
        for i, more in zip(seeds, texts, strict=True):
            console.rule(f"seed {i}")
            sys.stdout.write(f"{text}{more}\n")
        return
    with memory_for("max_new_tokens", each):
        pieces = writing.stream(checkpoint, text, max_new_tokens, seed=seed, **options)
        first = next(pieces, "")  # so that a mistake is said before the prompt is repeated
    sys.stdout.write(text + first)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


@app.command
def export(
    run: Path, *, out: Path, format: Literal["hf", "onnx", "gguf"] = "hf", verify: bool = True
) -> None:
    """Write a model for other programs, and compare what they will compute.

    Parameters
    ----------
    run
        A run's folder (its best checkpoint is taken) or a checkpoint.
    out
        The folder to write.
    format
        hf for transformers, onnx for onnxruntime, gguf for llama.cpp (llama and gpt2 only).
    verify
        Load it again and compare logits (and, for hf, greedy text).
    """
    from tiny_gpt.export.folder import export as write

    result = write(checkpoint_of(run), format, own_folder(out), verify=verify)
    for name, value in result.items():
        console.print(f"{name}: {value}")


@app.command
def inspect(path: Path, *, json_: Annotated[bool, Parameter(name="--json")] = False) -> None:
    """Say what a run, a checkpoint or a prepared folder is.

    Parameters
    ----------
    path
        Its folder.
    json_
        Print one JSON object.
    """
    from tiny_gpt.report.describe import describe, show

    description = describe(path)
    if json_:
        console.print_json(data=description)
    else:
        console.print(show(description))


@app.command
def verify(path: Path) -> int:
    """Check every byte of a run, a checkpoint or a prepared folder.

    Parameters
    ----------
    path
        Its folder.
    """
    from tiny_gpt.report.verify import verify as read_all

    findings = read_all(path)
    for finding in findings:
        console.print(str(finding))
    if not findings:
        console.print(f"{path}: every byte is as it was written")
    return CORRUPT if any(finding.fatal for finding in findings) else 0


@app.command
def bench(
    *rows: str,
    seeds: PositiveInt = 3,
    threads: Cores = 2,
    quick: bool = False,
    quick_steps: PositiveInt = 6,
    fresh: bool = False,
    record: bool = False,
) -> None:
    """Measure beside the rival: training, decoding, throughput, memory, cost as sizes grow.

    Nothing else should run on the machine meanwhile. What was measured already is not measured
    again; all rows take about fifty minutes.

    Parameters
    ----------
    rows
        Which rows (speed, same-size, quality-64, quality-256, ngrams, decoding, windows,
        throughput, prepare, curves, costs-model, costs-data, costs-prepare), all of these if none
        is named; or ablation, wikipedia, wikipedia-small, about half an hour each.
    seeds
        Runs of each side, in turns.
    threads
        Threads of every process.
    quick
        A few steps of each, to see that it works.
    quick_steps
        How many.
    fresh
        Measure again what is there.
    record
        Write into the project's records, and its tables and figures, instead of below runs/.
    """
    from rich.markdown import Markdown

    from tiny_gpt.benchmark import rows as benchmark
    from tiny_gpt.benchmark import tables

    out = benchmark.RECORD if record else Path("runs") / ("quick" if quick else "") / "bench.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    options = {"seeds": seeds, "threads": threads, "quick": quick, "quick_steps": quick_steps}
    benchmark.bench(rows, **options, fresh=fresh, out=out, say=console.print)
    for text in tables.pages(out.parent).values():
        console.print(Markdown(text))
    if record:
        tables.main()


# ---- --config and --preset


def _take_chosen_settings(words: list[str]) -> list[str]:
    command = words[0] if words else ""
    words, chosen = chosen_settings(words)
    app.config = [cyclopts.config.Dict({command: chosen}, source="--config or --preset")]
    return words
