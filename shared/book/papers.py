"""A paper's front matter as a card: what it is, what it claims, and the rules set for it."""

from __future__ import annotations

import html

import yaml

from shared.book.words import escape


def split(text: str) -> tuple[dict, str]:
    """Front matter and the rest of a Markdown text."""
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        return {}, text
    return yaml.safe_load(parts[1]) or {}, parts[2]


def card(matter: dict) -> str:
    """Front matter as HTML; settings that rules name stand below it, folded."""
    rows = []
    for label, field in (("Title", "title"), ("Authors", "authors"), ("Published", "venue")):
        if matter.get(field):
            text = escape(matter[field])
            year = str(matter.get("year", ""))
            if field == "venue" and year not in text:
                text = f"{year}, {text}"
            rows.append((label, text))
    if matter.get("arxiv"):
        number = html.escape(str(matter["arxiv"]), quote=True)
        link = f'<a href="https://arxiv.org/abs/{number}">{number}</a>'
        rows.append(("arXiv", link if number[0].isdigit() or "/" in number else number))
    for label, field in (("Claim", "claim"), ("Where", "where"), ("Falsifier", "falsifier")):
        if matter.get(field):
            rows.append((label, escape(matter[field])))
    body = "".join(f"<dt>{label}</dt><dd>{text}</dd>\n" for label, text in rows)
    rules = "".join(f"<li>{_rule(rule)}</li>\n" for rule in matter.get("rules", []))
    count = len(matter.get("rules", []))
    folded = f"<details><summary>The rules ({count})</summary>\n<ul>{rules}</ul></details>\n"
    folded = folded if rules else ""
    return f'<div class="paper">\n<dl>\n{body}</dl>\n{folded}</div>\n'


def _rule(rule: dict) -> str:
    bounds = [f"{k.replace('_', ' ')} {rule[k]:g}" for k in ("at_least", "at_most") if k in rule]
    text = f"<strong>{escape(rule['name'])}</strong>"
    if rule.get("statistic"):
        text += f": {escape(rule['statistic'])}"
    text += f"; {' and '.join(bounds)}" + (" for each" if rule.get("each") else "")
    unit = f" {escape(rule['unit'])}" if rule.get("unit") else ""
    seen = rule.get("seen_before")
    return text + unit + "." + (f" Set after seeing: {escape(seen)}." if seen else "")
