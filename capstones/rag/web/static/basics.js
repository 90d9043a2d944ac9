// What the parts of the page share. What the server says enters as text, never as HTML.

export const $ = (id) => document.getElementById(id);
export const state = { session: "", flagged: new Set(), examples: [], opener: null, running: null };

export function el(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

export const button = (text, onclick, properties = {}) => el("button", { type: "button", onclick, ...properties }, text);
export const unseen = (text) => el("span", { className: "unseen" }, text);
export const place = (c) => `${c.document}:${c.start}-${c.end}${c.page ? `, page ${c.page}` : ""}`;
// The slashes too: else browsers resolve the ".." of a name, and it is another's.
export const path = (kind, name) => `/api/${kind}/${encodeURIComponent(name)}`;
export const counted = (n, thing) => `${n.toLocaleString()} ${thing}${n === 1 ? "" : "s"}`;

export async function api(url, options = {}) {
  const response = await fetch(url, options).catch(() => { throw new Error("The server does not answer."); });
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).detail ?? response.statusText);
  return response;
}

export const get = async (url) => (await api(url)).json();
export const post = (url, body, signal) =>
  api(url, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });

export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

export function notice(text) {
  $("notice").textContent = text;
  clearTimeout(notice.timer);
  notice.timer = setTimeout(() => $("notice").replaceChildren(), 8000);
}

export const told = (work) => async (...given) => {
  try { return await work(...given); } catch (error) { notice(error.message); }
};

export function confirmed(text) {
  $("confirm-text").textContent = text;
  $("confirm").showModal();
  $("no").focus();
  return new Promise((resolve) => {
    $("confirm").onclose = () => resolve($("confirm").returnValue === "yes");
    for (const id of ["yes", "no"]) $(id).onclick = () => $("confirm").close(id);
    $("confirm").oncancel = () => { $("confirm").returnValue = "no"; };
  });
}

export function stagesTable(stages) {
  const rows = stages.map((s) => el("tr", {}, el("td", {}, s.name), el("td", { className: "number" }, s.milliseconds.toFixed(1)),
    el("td", { className: "number" }, String(s.n)), el("td", {}, s.note)));
  return table(["Stage", "Milliseconds", "Passages", "Note"], rows);
}

export function table(heads, rows) {
  const number = (head) => (/^(Milliseconds|Passages|Score|#)$/.test(head) ? "number" : "");
  const head = el("tr", {}, ...heads.map((h) => el("th", { scope: "col", className: number(h) }, h)));
  return el("div", { className: "scroll" }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)));
}
