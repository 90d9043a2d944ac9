// The server as it is: /metrics once per second, differences of its counters as lines.

const SECONDS = 60;
const $ = (id) => document.getElementById(id);
const NS = "http://www.w3.org/2000/svg";
const seconds = (x) => (x < 1 ? `${Math.round(1000 * x)} ms` : `${x.toFixed(1)} s`);
const whole = (x) => String(Math.round(x));
const percent = (x) => `${Math.round(100 * x)} %`;

// Sums over labels, by name; a sample's value stands behind the last blank.
export function read(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    if (!line || line.startsWith("#")) continue;
    const name = line.match(/^[\w:]+/)[0], value = Number(line.slice(line.lastIndexOf(" ") + 1));
    found.set(name, (found.get(name) ?? 0) + value);
  }
  return found;
}

const gauge = (name) => (now) => now.get(name) ?? 0;
const rate = (name) => (now, before, took) => ((now.get(name) ?? 0) - (before.get(name) ?? 0)) / took;
// Of what was seen since the last look; null if nothing was.
const mean = (name) => (now, before) => {
  const [sum, n] = ["sum", "count"].map((part) => rate(`${name}_${part}`)(now, before, 1));
  return n > 0 ? sum / n : null;
};

const CHARTS = [
  ["tokens", whole, [rate("vllm:generation_tokens_total")]],
  ["queue", whole, [gauge("vllm:num_requests_running"), gauge("vllm:num_requests_waiting")]],
  ["first", seconds, [mean("vllm:time_to_first_token_seconds")]],
  ["between", seconds, [mean("vllm:inter_token_latency_seconds")]],
  ["cache", percent, [gauge("vllm:kv_cache_usage_perc")]],
].map(([id, spell, measures]) => {
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", `0 0 ${SECONDS - 1} 10`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const path = (name) => {
    const node = document.createElementNS(NS, "path");
    node.setAttribute("class", name);
    svg.append(node);
    return node;
  };
  path("ground").setAttribute("d", `M0 10H${SECONDS - 1}`);
  const lines = measures.map((_, i) => path(i ? "second" : "line"));
  const [now, peak] = ["now", "peak"].map((name) => Object.assign(document.createElement("div"), { className: name }));
  $(id).append(now, peak, svg);
  return { title: $(id).querySelector("h2").textContent, spell, measures, lines, now, peak, svg, past: measures.map(() => []) };
});

// A line with gaps where there is no value; a value alone is a dot.
export function outline(values, top) {
  let d = "", joined = false;
  values.forEach((value, i) => {
    if (value !== null) {
      const at = `${SECONDS - values.length + i} ${(10 - (10 * value) / (top || 1)).toFixed(2)}`;
      d += joined ? `L${at}` : `M${at}h.01`;
    }
    joined = value !== null;
  });
  return d;
}

function draw(chart, values) {
  chart.past.forEach((past, i) => {
    past.push(values[i]);
    if (past.length > SECONDS) past.shift();
  });
  const top = Math.max(...chart.past.flat(), 0);
  chart.lines.forEach((line, i) => line.setAttribute("d", outline(chart.past[i], top)));
  const latest = chart.past.map((past) => past.findLast((value) => value !== null));
  const spelled = latest.map((value) => (value === undefined ? "–" : chart.spell(value))).join(", ");
  chart.now.textContent = spelled;
  chart.peak.textContent = `peak ${chart.spell(top)}`;
  chart.svg.setAttribute("aria-label", `${chart.title}, last minute: now ${spelled}, peak ${chart.spell(top)}`);
}

function state(name, text) {
  if ($("state").textContent === text) return; // a status that is told again is heard again
  $("state").className = name;
  $("state").textContent = text;
}

let before = null, then = 0;
async function look() {
  try {
    const [metrics, ready] = await Promise.all([fetch("/metrics"), fetch("/ready")]);
    const now = read(await metrics.text()), at = performance.now();
    if (before) {
      for (const chart of CHARTS) {
        draw(chart, chart.measures.map((measure) => measure(now, before, (at - then) / 1000)));
      }
    }
    [before, then] = [now, at];
    state(ready.ok ? "ready" : "", (await ready.json()).status);
  } catch {
    state("gone", "The server does not answer.");
    before = null;
  }
}

// One look after the other: a slow server is not asked more often for being slow.
async function watch() {
  if (!document.hidden) await look();
  else before = null;
  setTimeout(watch, 1000);
}
watch();
