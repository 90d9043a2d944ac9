"""A run as one file of HTML: no server, nothing fetched, every text a text.

Texts reach the page in two ways only: through the template, which escapes them, and as JSON in a
script element that is not run, from which `samples.js` makes text nodes. The page's policy lets
nothing run but the scripts whose digests it names.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llm_eval.report import labels
from llm_eval.report.embedding import Embedded, embed, safe_json
from llm_eval.report.pictures import Plot, Row, plot, reliability
from llm_eval.report.reading import Results
from llm_eval.types import Number, Sample

HERE = Path(__file__).parent
FACTS = dict.fromkeys(("title", "license", "source", "version", "documents"), "")
FACTS |= {"size": 0, "failed": 0, "tags": ()}
CURVE = "accuracy_of_confidence"  # by bin of confidence, what was said in the note


def page(
    results: Results, samples: Iterable[Sample], *, per_task: int = 200, budget: int = 2_000_000
) -> str:
    """The page of a run.

    Parameters
    ----------
    samples
        Gone through once.
    per_task, budget
        At most so many samples of a task, and so many bytes of all, are in the page; the worst are.

    Raises
    ------
    ValueError
        A number has no signature.
    """
    numbers = results.numbers
    labels.require_signatures(numbers)
    directions = {(x.task, x.metric): x.higher_is_better for x in numbers}
    embedded = embed(samples, directions, per_task=per_task, budget=budget)
    return render(
        "page.html",
        scripts=("table.js", "samples.js"),
        results=results,
        title=f"{results.model.get('name', 'model')} · evaluation",
        rows=rows_of(results),
        tags=list(labels.sections(results.tasks, numbers)),
        tasks=_tasks(results, embedded),
        scores=_scores(results),
        gaps=_gaps(numbers),
        prompts=_prompts(numbers),
        parts=_parts(numbers),
        curves=_curves(numbers),
        failed=sum(int(task.get("failed") or 0) for task in results.tasks.values()),
        data=_data(embedded),
    )


def render(template: str, *, scripts: Sequence[str], **values: Any) -> str:
    """A template with the house's style and scripts, and the policy that allows only them."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {name: getattr(labels, name) for name in ("arrow", "digits", "interval")}
    environment.globals["directions"] = labels.DIRECTIONS
    style = (HERE / "page.css").read_text(encoding="utf-8")
    script = "\n".join((HERE / name).read_text(encoding="utf-8") for name in scripts)
    policy = (
        f"default-src 'none'; style-src '{_allowed(style)}'; script-src '{_allowed(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    html = environment.get_template(template).render(
        policy=policy, style=Markup(style), script=Markup(script), **values
    )
    return html.encode("utf-8", "replace").decode()  # half characters cannot be written


def rows_of(results: Results) -> list[dict[str, Any]]:
    """The table's rows: each number with what it is filtered by."""
    rows = []
    for tag, numbers in labels.sections(results.tasks, results.numbers).items():
        for number in numbers:
            title = results.tasks.get(number.task, {}).get("title") or ""
            words = [tag, number.task, title, number.group, number.template, number.metric]
            words += [number.note, number.signature]
            row = {"number": number, "tag": tag, "words": " ".join(map(str, words)).casefold()}
            row["neutral"] = labels.neutral(number)
            rows.append(row)
    return rows


def _allowed(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _data(embedded: Mapping[str, Embedded]) -> Markup:
    """The samples as JSON; each entry is made safe already."""
    parts = []
    for name, task in embedded.items():
        counts = {"total": task.total, "wrong": task.wrong, "errors": task.errors}
        entries = ",".join(task.entries)
        parts.append(f'{safe_json(name)}:{{"counts":{safe_json(counts)},"samples":[{entries}]}}')
    return Markup(f"{{{','.join(parts)}}}")


def _tasks(results: Results, embedded: Mapping[str, Embedded]) -> list[dict[str, Any]]:
    names = list(dict.fromkeys([*results.tasks, *(x.task for x in results.numbers), *embedded]))
    return [
        {"name": name, "facts": FACTS | results.tasks.get(name, {}), "samples": embedded.get(name)}
        for name in names
    ]


def _row(number: Number, label: str, part: str = "", **more: Any) -> Row:
    text = f"{labels.digits(number.value)} {labels.interval(number)}".strip()
    ends = (number.value, number.low, number.high)
    return Row(label, part, *ends, text, **more)


def _whole(numbers: Iterable[Number]) -> list[Number]:
    """Numbers of whole tasks with their standard prompt."""
    return [x for x in numbers if not labels.is_detail(x) and x.value is not None]


def _scores(results: Results) -> list[Plot]:
    """Per tag: shares, of which the higher and of which the lower are better; others alone."""
    plots = []
    for tag, numbers in labels.sections(results.tasks, results.numbers).items():
        by_scale: dict[tuple[str, bool], list[Number]] = {}
        for number in _whole(numbers):
            over_prompts = "|prompts:" in number.signature
            if number.higher_is_better is not None and not over_prompts:
                metric = "" if _within(number, 0, 1) else number.metric
                by_scale.setdefault((metric, number.higher_is_better), []).append(number)
        for (metric, better), chosen in by_scale.items():
            note = f"{labels.arrow(better)} {labels.DIRECTIONS[better]}"
            rows = [_row(x, x.task, "" if metric else x.metric) for x in chosen]
            title = f"{tag} · {metric}" if metric else tag
            plots.append(plot(title, note, rows, unit=not metric and better))
    return plots


def _within(number: Number, low: float, high: float) -> bool:
    ends = (number.value, number.low, number.high)
    return all(end is None or low <= end <= high for end in ends)


def _gaps(numbers: Iterable[Number]) -> list[Plot]:
    """Per neutral value: gaps, with what the documents are too few to show; wide ones alone."""
    by_scale: dict[tuple[float, str], list[Row]] = {}
    for number in _whole(numbers):
        middle = labels.neutral(number)
        if middle is not None:
            bounds = {"neutral": middle, "detectable": number.detectable}
            row = _row(number, number.task, number.metric, **bounds)
            metric = "" if _within(number, -1, 1) else f" · {number.metric}"
            by_scale.setdefault((middle, metric), []).append(row)
    return [plot(f"Neutral at {middle:g}{x}", "", rows) for (middle, x), rows in by_scale.items()]


def _prompts(numbers: Sequence[Number]) -> list[Plot]:
    """Tasks that were asked with several prompts: the standard one, and the others beside it."""
    others: dict[tuple[str, str], list[float]] = {}
    for x in numbers:
        if x.template and not x.group and x.value is not None:
            others.setdefault((x.task, x.metric), []).append(x.value)
    spreads = {(x.task, x.metric): x for x in _whole(numbers) if "|prompts:" in x.signature}
    by_metric: dict[str, list[Row]] = {}
    for x in _whole(numbers):
        if (x.task, x.metric) in others:
            found = others[x.task, x.metric]
            part = f"{len(found) + 1} prompts"
            if spread := spreads.get((x.task, f"{x.metric}_spread_prompt")):
                part += f", spread {labels.digits(spread.value)}"
            row = _row(x, x.task, part, others=tuple(found))
            by_metric.setdefault(x.metric, []).append(row)
    return [plot(metric, "", rows) for metric, rows in by_metric.items()]


def _parts(numbers: Iterable[Number]) -> list[Plot]:
    """Per task and metric: its groups, the lowest value first."""
    found: dict[tuple[str, str], list[Number]] = {}
    for x in numbers:
        if x.group and not x.template and x.value is not None and x.metric != CURVE:
            found.setdefault((x.task, x.metric), []).append(x)
    plots = []
    for (task, metric), of_task in found.items():
        of_task.sort(key=lambda x: (x.value, x.group))
        rows = [
            _row(x, x.group, f"n {x.n}", neutral=labels.neutral(x), detectable=x.detectable)
            for x in of_task
        ]
        note = f"{labels.arrow(of_task[0].higher_is_better)} {len(rows)} groups"
        plots.append(plot(f"{task} · {metric}", note, rows))
    return plots


def _curves(numbers: Sequence[Number]) -> list[tuple[str, Markup, str]]:
    """Reliability where a task's calibration was measured."""
    bins: dict[str, list[tuple[float, float, int]]] = {}
    for x in numbers:
        said = re.search(r"said (\d\.\d+)", x.note)
        if x.metric == CURVE and x.value is not None and not x.template and said:
            bins.setdefault(x.task, []).append((float(said[1]), x.value, x.n))
    errors = {x.task: x for x in _whole(numbers) if x.metric == "ece"}
    texts = {
        task: f"calibration error {labels.digits(x.value)} {labels.interval(x)}"
        for task, x in errors.items()
    }
    return [(task, reliability(curve), texts.get(task, "")) for task, curve in bins.items()]
