"""One pass of a recipe over a model: block by block, and within a block by what is read together.

At any moment there are the model, the stream of the calibration text, one Hessian and the packed
layers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Int
from torch import Tensor

from compress.artifact.packing import Packed, pack, unpack
from compress.layers import install, layer_names
from compress.methods.equalizing import equalize
from compress.methods.gptq import gptq
from compress.methods.masks import global_masks
from compress.methods.matrix import compress_matrix
from compress.methods.rounding import rtn
from compress.pipeline.compressed import Compressed
from compress.pipeline.journal import Journal, NoJournal
from compress.pipeline.stages import READ, begin, head_reads, inputs_of, measure, stages
from compress.pipeline.steps import Pass
from shared.errors import UserError
from shared.require import require
from week18.llama3 import Block
from week19.folding import READERS, fold_block
from week19.layer_inputs import Inputs

Progress = Callable[[int, int], None]


class StrictError(UserError):
    """A layer needed more damping than was asked for, and that was not to be."""

    status = 1


@dataclass
class PassRun:
    """A pass that is being made."""

    done: Compressed
    step: Pass
    number: int
    journal: Journal | NoJournal
    strict: bool
    progress: Progress

    def run(self, ids: Int[Tensor, "window seqlen"] | None) -> None:
        """All blocks in turn, with the stream between them."""
        model, step = self.done.model, self.step
        self._embedding(ids)
        self.masks = {}
        if step.prune is not None and step.prune.scope == "global":
            weights = {name: self.done.matrix(name) for name in layer_names(model)}
            self.masks = global_masks(weights, step.prune.sparsity)
        xs, waves = [], ()
        if step.needs_inputs:
            xs, waves = begin(model, ids, ids.shape[1])
        for number, block in enumerate(model.blocks):
            if step.quantize is not None and step.quantize.folds:
                self._fold(number, block, [stages(block, x, *waves, weighted=False) for x in xs])
            running = [stages(block, x, *waves, weighted=step.weighted) for x in xs]
            for names in READ.values():
                read = _Read([next(each)[1] for each in running])
                for name in names:
                    self._layer(f"blocks.{number}.{name}", read)
                del read  # and its Hessian, before the next one
            xs = [next(each)[1] for each in running]

    def _layer(self, name: str, read: "_Read") -> None:
        quantize = self.step.quantize and self.step.quantize.of(name)
        prune, done, key = self.step.prune, self.done, f"{self.number}.{name}"
        if quantize is None and prune is None:
            return
        entry = self.journal.get(key)
        if entry is None:
            w, was = done.matrix(name), done.weight_of(name)
            parts = {"prune": prune, "quantize": quantize, "mask": self.masks.get(name)}
            seen = read.inputs if self.step.needs_inputs else None
            try:
                weight, record = compress_matrix(w, seen, was=was, **parts)
            except ValueError as error:
                raise UserError(f"{name}: {error}") from error
            packed = pack(weight)
            self._check(name, record, prune, quantize)
            self.journal.put(key, packed.tensors, {"meta": packed.meta, "record": record})
        else:
            tensors, said = entry
            packed, record = Packed(tensors, said["meta"]), said["record"]
        done.layers[name] = packed
        done.records.append({"step": self.number, "layer": name, **record})
        install(done.model, name, unpack(*packed))
        total = len(layer_names(done.model))
        self.progress(sum(each["step"] == self.number for each in done.records), total)

    def _check(self, name: str, record: dict, *parts: Any) -> None:
        asked = max(getattr(part, "damping", 0.0) for part in parts if part is not None)
        needed = record.get("damping", 0.0)
        must = f"{name}: its Hessian must be positive definite at damping {asked:g} (--strict)"
        fine = not self.strict or needed <= asked
        require(fine, must, f"{needed:g} that it needs", error=StrictError)

    def _fold(self, number: int, block: Block, running: list) -> None:
        key = f"{self.number}.blocks.{number}.fold"
        entry = self.journal.get(key)
        if entry is None:
            factors = equalize(block, inputs_of(running), self.step.quantize)
            self.journal.put(key, factors, {})
            return
        for reader in reversed(READERS):
            fold_block(block, reader, entry[0][reader])

    def _embedding(self, ids: Int[Tensor, "window seqlen"] | None) -> None:
        quantize, model = self.step.quantize, self.done.model
        if quantize is None or quantize.embedding_bits is None:
            return
        options = {"bits": quantize.embedding_bits, "group_size": quantize.embedding_group_size}
        for name in ("head",) if model.config.tied else ("head", "embed"):
            own = "embed" if model.config.tied else name
            key = f"{self.number}.{own}"
            entry = self.journal.get(key)
            if entry is None:
                w = model.get_submodule(own).weight.detach()
                if quantize.embedding_method == "gptq" and name == "head":
                    h = measure(head_reads(model, ids)).h
                    # Where its rows are looked up as well, all columns count the same: the
                    # identity is added at the size of what the head reads.
                    damping = 1.0 if model.config.tied else quantize.damping
                    weight = gptq(w, h, symmetric=True, damping=damping, **options)[0]
                else:
                    weight = rtn(w, symmetric=True, **options)
                packed = pack(weight)
                self.journal.put(key, packed.tensors, {"meta": packed.meta})
            else:
                packed = Packed(entry[0], entry[1]["meta"])
            self.done.layers[own] = packed
            install(model, own, unpack(*packed))


@dataclass
class _Read:
    """What some layers read; its Hessian is computed when it is asked for."""

    windows: list[Tensor]

    @cached_property
    def inputs(self) -> Inputs:
        return measure(self.windows)
