r"""An assistant for Verilog and ROS 2: it looks up, it was adapted, and a compiler grades it.

A small general model, SmolLM2-135M-Instruct, knows little of hardware. Two things are done about
it, and they are measured apart and together. **Retrieval** puts before a question what manuals say
about it, and before a task the solved circuit that is nearest to it. **Adaptation** trains a
correction of low rank (week 20) on other circuits, and on questions about other pages.

What it writes is graded by what it does, and not by how it looks. Of $n$ circuits drawn for a
problem $c$ pass its test bench; the chance that one of $k$ does is estimated without bias by

$$\mathrm{pass@}k = 1 - \binom{n - c}{k} \Big/ \binom{n}{k}.$$

>>> talk = [{"role": "user", "content": "What does colcon build do?"}]
>>> talk += [{"role": "assistant", "content": "It builds a workspace."}]
>>> looked_up([*talk, {"role": "user", "content": "And where does it put the results?"}])
'What does colcon build do? And where does it put the results?'
>>> looked_up([*talk, {"role": "user", "content": "Hello"}])  # a greeting is not rewritten
'Hello'
>>> [asks_for_circuit(x) for x in ("Write a 4-bit counter.", "How is a package written?")]
[True, False]

    uv run weeks/28/verilog_assistant.py
    uv run weeks/28/verilog_assistant.py --chat

Sources: Lewis et al., "Retrieval-augmented generation" (2020); Chen et al., "Evaluating large
language models trained on code" (2021), equation 1; Liu et al., "VerilogEval" (2023).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch

from shared import datasets
from shared.datasets import HardwareProblem
from shared.errors import UserError
from shared.records import ROOT
from week18.gguf_tokenizer import GGUFTokenizer
from week18.llama3 import Llama
from week18.smollm2 import smollm2
from week19.fused_llama import FusedLlama
from week19.sampling import Sampler
from week20.adapter_folder import hugging_face_layer, load_adapter
from week20.domain_lora import Row, question
from week20.domain_lora import row as circuit_row
from week20.lora import merge, unload
from week28.chatting import Messages, question_of
from week28.manual_search import Search, sentence_encoder, terms
from week28.manuals import Passage, Question, passages, plain
from week28.one_prompt import draw_answers, nats_of
from week28.verilog_bench import Verdict, first_module, refusal, simulate, simulator

LEARNED = ROOT / "runs" / "weeks" / "28" / "verilog_assistant" / "adapter"
SAMPLER = Sampler(temperature=0.6, top_p=0.95)
LONGEST_PASSAGE = 320  # characters of one that is put before a question

# ---- what is asked for


def asks_for_circuit(said: str) -> bool:
    """Whether a circuit is to be written, and not a question answered."""
    verbs = r"\b(?:write|design|implement|create|build|make|give)\b"
    things = r"\b(?:verilog|module|circuit|counter|register|adder|mux|multiplexer|gate|flip-?flop"
    things += r"|decoder|encoder|latch|comparator|detector|shifter)\b"
    task = re.search(f"{verbs}.*{things}", said, re.IGNORECASE | re.DOTALL)
    return bool(task) and not re.match(r"\s*(?:how|what|why|when|where|which|who)\b", said, re.I)


def looked_up(messages: Messages) -> str:
    """What to search for: the last question, after the one before if it points back to it."""
    asked = question_of(messages)
    earlier = [turn["content"] for turn in messages[:-1] if turn["role"] == "user"]
    points_back = re.match(r"(?:and|but|so|then)\b|(?:what|how) about\b", asked, re.IGNORECASE)
    points_back = points_back or re.search(
        r"\b(?:it|its|that|this|those|these|they|them|there)\b", asked, re.IGNORECASE
    )
    return f"{earlier[-1]} {asked}" if earlier and points_back else asked


# ---- prompts


def passage_text(passage: Passage) -> str:
    """A passage as a model reads it: its headings, and what it says without markup."""
    return f"{passage.heading}: {plain(passage.text)}"[:LONGEST_PASSAGE]


def with_manual(asked: str, found: Sequence[str]) -> str:
    """A question after what manuals say about it."""
    return "\n\n".join(["From the manual:", *found, asked]) if found else asked


def gap_prompt(asked: Question, found: Sequence[str]) -> str:
    """What a model is asked about a gap."""
    return with_manual(f"What belongs in the gap? {asked.asked}", found)


def gap_row(tokenizer: GGUFTokenizer, asked: Question, found: Sequence[str]) -> Row:
    """A question about a gap and its answer, to learn from."""
    given = tokenizer.chat([{"role": "user", "content": gap_prompt(asked, found)}])
    word = tokenizer.encode(asked.options[asked.answer])
    return Row([*given, *word, tokenizer.end], len(given))


def choose_word(
    model: Llama, tokenizer: GGUFTokenizer, asked: Question, found: Sequence[str]
) -> int:
    """The option that a model finds likeliest per token, its end included."""
    prompt = tokenizer.chat([{"role": "user", "content": gap_prompt(asked, found)}])
    options = [[*tokenizer.encode(word), tokenizer.end] for word in asked.options]
    return int(nats_of(model, prompt, options).argmin())


def circuit_search(problems: Sequence[HardwareProblem]) -> Search:
    """Solved circuits by the words of their description and their ports; `and` is a gate here."""
    texts = [f"{p.description} {p.header}" for p in problems]
    return Search([p.name for p in problems], texts, stop=frozenset())


def nearest_circuits(
    search: Search,
    solved: Mapping[str, HardwareProblem],
    problem: HardwareProblem,
    k: int = 1,
) -> list[HardwareProblem]:
    """The k solved circuits nearest to a problem, the nearest last: next to the question.

    The problem itself is never among them, nor one with the same body.
    """
    same = re.sub(r"\s", "", problem.body)
    found = search(f"{problem.description} {problem.header}", k + 5)
    others = [solved[name] for name in found if name != problem.name]
    others = [p for p in others if re.sub(r"\s", "", p.body) != same]
    return others[:k][::-1]


def write_bodies(
    model: Llama,
    tokenizer: GGUFTokenizer,
    problem: HardwareProblem,
    shots: Sequence[HardwareProblem],
    n: int,
    *,
    most: int,
    generator: torch.Generator,
) -> list[str]:
    """Draw n circuits for a problem whose ports are given, up to `endmodule`."""
    given = circuit_row(tokenizer, problem, shots)
    found = draw_answers(
        model,
        given.ids[: given.start],
        n,
        most=most,
        end=tokenizer.end,
        sampler=SAMPLER,
        generator=generator,
        enough=lambda ids: "endmodule" in tokenizer.decode(ids[-16:]),
    )
    return [first_module(f"{problem.header}\n{tokenizer.decode(ids)}") for ids in found]


# ---- the assistant


@dataclass
class VerilogAssistant:
    """A model, what it may look up, and a compiler that reads its circuits first.

    Attributes
    ----------
    tries
        Circuits that are drawn; the first that compiles is answered.
    """

    model: Llama
    tokenizer: GGUFTokenizer
    manual: Mapping[str, Passage] = field(default_factory=dict)
    search: Search | None = None
    solved: Mapping[str, HardwareProblem] = field(default_factory=dict)
    tries: int = 4
    most: int = 160

    def __post_init__(self):
        self._circuits = circuit_search(list(self.solved.values())) if self.solved else None

    def reply(self, messages: Messages) -> str:
        """A circuit with what a compiler says of it, or an answer with where it is from."""
        asked = question_of(messages)
        return self._circuit(asked) if asks_for_circuit(asked) else self._answer(messages)

    def _draw(self, messages: Messages, n: int, sampler: Sampler, most: int) -> list[str]:
        prompt = self.tokenizer.chat(messages)
        room = self.model.config.context - len(prompt)
        if room < 1:
            raise UserError(f"the conversation has {len(prompt)} tokens, too many for this model")
        options = {"most": min(most, room), "end": self.tokenizer.end, "sampler": sampler}
        found = draw_answers(self.model, prompt, n, generator=torch.Generator(), **options)
        return [self.tokenizer.decode(ids).strip() for ids in found]

    def _circuit(self, asked: str) -> str:
        task, shots = HardwareProblem("", asked, "", ""), []
        if self._circuits:
            shots = nearest_circuits(self._circuits, self.solved, task)
        messages = []
        for p in shots:
            messages += [{"role": "user", "content": question(p)}]
            messages += [{"role": "assistant", "content": f"{p.header}\n{p.body}"}]
        messages += [{"role": "user", "content": asked}]
        drawn = self._draw(messages, self.tries, SAMPLER, self.most)
        written = [first_module(text) for text in drawn]
        verdicts = [_compiled(text) for text in written]
        best = next((i for i, verdict in enumerate(verdicts) if verdict.compiled), 0)
        said = f"```verilog\n{written[best]}\n```\n\n{_told(verdicts[best])}"
        return said + (f" Example shown to the model: {shots[-1].name}." if shots else "")

    def _answer(self, messages: Messages) -> str:
        query = looked_up(messages)
        names = self.search(query, 2) if self.search and terms(query) else []
        found = [self.manual[name] for name in names]
        asked = with_manual(question_of(messages), [passage_text(p) for p in found])
        turns = [*messages[-5:-1], {"role": "user", "content": asked}]
        said = self._draw(turns, 1, Sampler(temperature=0), min(self.most, 96))[0]
        where = "; ".join(f"{p.heading} ({p.page})" for p in found)
        return f"{said}\n\nFrom: {where}" if where else f"{said}\n\n(Not from the manuals.)"


def _compiled(circuit: str) -> Verdict:
    """What a compiler says, where there is one; what is refused is not shown to it."""
    if reason := refusal(circuit):
        return Verdict("is refused", reason)
    return simulate(circuit, None) if simulator() else Verdict("was not compiled", "no iverilog")


def _told(verdict: Verdict) -> str:
    if verdict.compiled:
        return "It compiles; whether it does what you want, no bench has shown."
    return f"Beware: it {verdict.outcome} ({verdict.why})."


@cache
def opened(learned: Path = LEARNED) -> VerilogAssistant:
    """SmolLM2 with the correction that the experiment saved, if it was run, and both manuals.

    Raises
    ------
    UserError
        If a package or a data set is missing, or the saved correction is torn.
    """
    model, tokenizer = smollm2()
    model = model.bfloat16()
    if learned.exists():
        model = unload(merge(load_adapter(model, learned, rename=hugging_face_layer)[0]))
    pages = [*datasets.verilog_docs(), *datasets.ros2_docs()]
    manual = {p.name: p for page in pages for p in passages(page)}
    texts = [f"{p.heading}. {plain(p.text)}" for p in manual.values()]
    search = Search(list(manual), texts, sentence_encoder())
    solved = {p.name: p for p in datasets.verilog_eval() if p.description and len(p.body) < 400}
    return VerilogAssistant(FusedLlama(model, batch=4), tokenizer, manual, search, solved)


def reply(messages: Messages) -> str:
    """What the assistant says next; the first call reads weights and manuals, for a minute."""
    return opened().reply(messages)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
