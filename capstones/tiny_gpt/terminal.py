"""What the commands have in common: the terminal, the folder of data, the prompt."""

import contextlib
import hashlib
import json
import math
import os
import stat
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from shared.artifacts import ArtifactError
from shared.errors import UserError
from shared.require import require
from tiny_gpt import seal
from tiny_gpt.data.text_settings import TextSettings
from tiny_gpt.settings import Settings

console = Console(highlight=False, soft_wrap=True)


def prepared(source: str, out: Path, **options: Any) -> None:
    """Prepare a source, with a bar on a terminal; options as `prepare` takes them."""
    from tiny_gpt.data.prepare import prepare

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(f"preparing {source}", total=None)

        def progress(stage: str, done: int, total: int | None) -> None:
            bar.update(task, description=stage, completed=done, total=total)

        prepare(source, out, progress=progress, **options)


def data_folder(settings: Settings, first: bool = True) -> Path:
    """The prepared folder that `data` is, or one that is made of it (once) under runs/data."""
    from tiny_gpt.data.shards import is_prepared

    if is_prepared(given := Path(settings.data)):
        return given
    options = {f.name: getattr(settings, f.name) for f in fields(TextSettings)}
    facts = json.dumps([settings.data, options, _content(settings.data)]).encode()
    key = hashlib.sha256(facts).hexdigest()[:8]
    folder = settings.out.parent / "data" / f"{slug(settings.data)}-{settings.tokenizer}-{key}"
    if not is_prepared(folder) and first:
        prepared(settings.data, folder, **options)
    limit = time.monotonic() + 3600
    while not is_prepared(folder):  # the first process makes it
        if time.monotonic() > limit:
            raise UserError(f"data {folder} was not prepared by the first process in an hour")
        time.sleep(0.2)
    return folder


def _content(source: str) -> list[list[str]]:
    """Names and digests of the files that are read of a file, a folder or hf:PATH."""
    from tiny_gpt.data.sources import TEXT_FILES

    root, found = Path(source.removeprefix("hf:")), []
    for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
        name = path.relative_to(root).as_posix()
        text = name.removesuffix(".gz").endswith(TEXT_FILES) and "/." not in f"/{name}"
        if path.is_file() and (text or path == root or source.startswith("hf:")):
            with path.open("rb") as stream:
                found.append([name, hashlib.file_digest(stream, "sha256").hexdigest()])
    return found


def data_of(checkpoint: Path, run: Path, trained_on: str | None) -> Any:
    """The data that a run was trained on, known by its content, where it lay."""
    from tiny_gpt.data.shards import is_prepared, open_data

    beside = (run, checkpoint.parent, checkpoint.parent.parent)
    found = [folder for folder in beside if (folder / seal.SEAL).exists()]
    if not found:
        raise UserError(f"data must be given: nothing by {checkpoint} says what it was trained on")
    wrong: Exception = UserError(f"data that {found[0]} was trained on is gone; give it by --data")
    for folder in filter(is_prepared, seal.data_folders(found[0])):
        try:
            if (data := open_data(folder)).sha256 == trained_on:
                return data
            what = f"data {folder} is not what {found[0]} was trained on: its content differs"
            wrong = UserError(f"{what}; prepare it as it was, or give it by --data")
        except ArtifactError as error:
            wrong = error
    raise wrong


@contextlib.contextmanager
def memory_for(options: str, least: int = 0):
    """What memory cannot hold is told by the options that ask for it: `least` bytes are certain."""
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if os.name != "nt" else math.inf
    must = f"{options} must fit into this machine's {have / 1e9:.1f} GB of memory"
    require(least <= have, must, f"at least {least / 1e9:,.1f} GB", error=UserError)
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error):
            raise
        raise UserError(f"memory ran out: one of {options} must be smaller") from error


def own_folder(out: Path) -> Path:
    """Where something is to be written: not the working folder, nor one that holds it."""
    inside = "\0" in str(out) or Path.cwd().is_relative_to(os.path.abspath(out))
    require(not inside, "out must be a folder of its own", repr(str(out)), error=UserError)
    return out


def checkpoint_of(run: Path) -> Any:
    """The checkpoint to use of a run, or that folder itself; not what was made for others."""
    from tiny_gpt.report.describe import is_export
    from tiny_gpt.training.checkpoints import load_checkpoint

    must = "run must be a run or a checkpoint"
    require(not is_export(run), must, f"an export for other programs, {run}", error=UserError)
    return load_checkpoint(run)


def slug(source: str) -> str:
    """A source's name as a folder's."""
    name = Path(source.removeprefix("hf:")).stem or "text"
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-") or "text"


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """The prompt that was given: as text, in a file, or through a pipe."""
    if file is not None:
        try:
            return file.read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise UserError(f"file {file} cannot be read ({error})") from error
    if prompt == "-" or (prompt is None and _is_piped(sys.stdin)):
        try:
            text = sys.stdin.read() if sys.stdin else ""
        except ValueError as error:
            raise UserError(f"prompt on the standard input cannot be read ({error})") from error
        # The line end that echo adds is not meant, nor are the marks that Windows makes.
        return text.removeprefix("\ufeff").replace("\r\n", "\n").removesuffix("\n")
    return prompt or ""


def _is_piped(stream: Any) -> bool:
    """Whether something was sent here; a closed stream or a null device sends nothing."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (AttributeError, OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def use_threads(threads: int | None) -> None:
    """Compute in so many threads; in as many as there are cores if None."""
    if threads:
        import torch
        from threadpoolctl import threadpool_limits

        threadpool_limits(threads)
        torch.set_num_threads(threads)


@contextlib.contextmanager
def training_bar(steps: int, *, shown: bool):
    """A function to call after each step: a bar on a terminal, now and then a line elsewhere."""
    if not shown:
        every = max(1, steps // 10)

        def moved(step: int, loss: float, speed: float) -> None:
            if step % every == 0 and int(os.environ.get("RANK", "0")) == 0:
                console.print(f"step {step}/{steps} loss {loss:.3f} {speed:,.0f} tokens/s")

        yield moved
        return
    columns = (
        TextColumn("training"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:,.0f} tokens/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        tasks = []

        def moved(step: int, loss: float, speed: float) -> None:
            if not tasks:  # a resumed run's time is not estimated from steps that others took
                tasks.append(bar.add_task("", total=steps, completed=step - 1, loss=loss, speed=0))
            bar.update(tasks[0], completed=step, loss=loss, speed=speed)

        yield moved
