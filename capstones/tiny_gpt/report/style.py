"""How the report looks: its page and its style sheet."""

STYLE = """
:root { color-scheme: light dark; --paper: #fdfcfa; --ink: #22252a; --soft: #6d727a;
  --line: #e4e1db; --blue: #0072b2; --orange: #d55e00; --green: #00805d; --red: #c2255c; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #e2e0dc; --soft: #969aa1;
  --line: #2e3237; --blue: #63b7ec; --orange: #f39b57; --green: #4cc7a0; --red: #f57ba3; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { max-width: 46rem; margin: 0 auto; padding: 2.5rem 1.1rem 5rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", sans-serif;
  font-variant-numeric: tabular-nums; }
h1 { font: 600 1.9rem/1.2 Charter, "Iowan Old Style", Georgia, serif; margin: 0 0 1.2rem;
  overflow-wrap: anywhere; }
h2 { font-size: 1rem; font-weight: 600; margin: 0; }
dl { display: flex; flex-wrap: wrap; gap: 1rem 2rem; margin: 0; }
dl div { display: flex; flex-direction: column-reverse; justify-content: flex-end; }
dd { margin: 0; font-size: 1.45rem; line-height: 1.3; }
dt, figcaption, .step, .none, .signature { color: var(--soft); font-size: .82rem; }
.signature { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .74rem;
  overflow-wrap: anywhere; margin: 1rem 0 0; }
figure { margin: 2.6rem 0 0; }
figcaption h2 { color: var(--ink); margin-bottom: .1rem; }
.plot { position: relative; height: 220px; margin: 1rem 5.4rem 1.9rem 2.7rem; }
svg { position: absolute; width: 100%; height: 100%; overflow: visible; }
path { fill: none; stroke-width: 1.6; stroke-linejoin: round; stroke-linecap: round;
  vector-effect: non-scaling-stroke; }
.plot i, .plot b { position: absolute; font: normal .75rem/1 inherit; font-size: .75rem;
  line-height: 1; white-space: nowrap; }
.plot i { color: var(--soft); font-style: normal; }
.plot b { left: 100%; padding-left: .6rem; font-weight: 600; transform: translateY(-50%); }
.y { right: 100%; padding-right: .55rem; transform: translateY(-50%); }
.x { top: 100%; padding-top: .6rem; transform: translateX(-50%); }
.grid { stroke: var(--line); stroke-width: 1; }
.train { stroke: var(--blue); } b.train { color: var(--blue); }
.val { stroke: var(--orange); } b.val { color: var(--orange); }
.other { stroke: var(--green); stroke-width: 1.3; } b.other { color: var(--green); }
.limit { stroke: var(--soft); stroke-width: 1; } b.limit { color: var(--soft); }
path.limit:not(.rug) { stroke-dasharray: 4 4; }
.bad { stroke: var(--red); }
.rug { stroke-width: 1; stroke-linecap: butt; } .bad.rug { stroke-width: 2; }
.faint { stroke-width: 1; opacity: .32; }
.dots { stroke-width: 6; }
.best { stroke: var(--orange); } .best.dots { stroke-width: 12; opacity: .45; }
section, details { margin-top: 2.6rem; }
details details, section details { margin-top: 1.2rem; }
summary { cursor: pointer; font-weight: 600; }
blockquote { margin: .3rem 0 1.6rem; padding-left: 1rem; border-left: 2px solid var(--line);
  font: 1.08rem/1.6 Charter, "Iowan Old Style", Georgia, serif; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.step { margin: 1rem 0 0; }
table { border-collapse: collapse; margin-top: .8rem; font-size: .88rem; width: 100%; }
th, td { text-align: left; font-weight: 400; padding: .3rem 0; overflow-wrap: anywhere;
  border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); padding-right: 1.5rem; width: 45%; }
"""

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
<body>
{body}
</body>
</html>
"""
