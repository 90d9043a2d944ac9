// The page: its views, search, documents, keys.

import { $, api, button, confirmed, counted, el, get, path, place, stagesTable, state, table, told } from "./basics.js";
import { ask, openSession } from "./chat.js";
import { closeSource, openSource, sourceButton } from "./source.js";

// ---- search

const search = told(async () => {
  const options = new URLSearchParams({ q: $("query").value, k: $("k").value, mode: $("mode").value });
  for (const [name, id] of [["where", "filter"], ["rerank", "rerank"]]) if ($(id).value) options.set(name, $(id).value);
  const found = await get(`/api/search?${options}`);
  const names = [...new Set(found.hits.flatMap((hit) => Object.keys(hit.stages)))];
  const hits = found.hits.map(({ chunk }, i) => el("article", { className: "hit" },
    el("h2", {}, `${i + 1}. ${chunk.heading || chunk.document}`), el("p", {}, chunk.text.trim()),
    sourceButton(chunk, [place(chunk)], { className: "quiet place" })));
  const number = (value) => el("td", { className: "number" }, value === undefined ? "–" : value.toFixed(3));
  const rows = found.hits.map((hit, i) => el("tr", {}, el("td", { className: "number" }, String(i + 1)), number(hit.score), ...names.map((n) => number(hit.stages[n]))));
  const explained = el("details", { open: true }, el("summary", {}, "Why these, in this order"), table(["#", "Score", ...names], rows), stagesTable(found.stages));
  $("found").replaceChildren(...(hits.length ? [el("p", { className: "fine" }, counted(hits.length, "passage")), ...hits, explained] : [el("p", {}, "No passage matches.")]));
});

// ---- documents

const listDocuments = told(async () => {
  state.documents = await get("/api/documents");
  showDocuments();
});

function showDocuments() {
  const wanted = $("narrow").value.toLowerCase();
  const shown = state.documents.filter((d) => `${d.id} ${d.title}`.toLowerCase().includes(wanted)).slice(0, 500);
  $("library").tBodies[0].replaceChildren(...shown.map((d) => {
    const open = button(d.title || d.id, () => openSource({ document: d.id }, open), { className: "link", title: d.id });
    const remove = button("Remove", () => removeDocument(d.id), { className: "quiet", ariaLabel: `Remove ${d.id}` });
    const number = (n) => el("td", { className: "number" }, n.toLocaleString());
    return el("tr", {}, el("td", {}, open), number(d.chars), number(d.chunks), el("td", {}, remove));
  }));
}

const removeDocument = told(async (id) => {
  if (!await confirmed(`Remove “${id}” from the store? The file itself is not touched.`)) return;
  await api(path("documents", id), { method: "DELETE" });
  await Promise.all([listDocuments(), health()]);
});

function upload(files) {
  if (!files.length) return;
  const form = new FormData();
  for (const file of files) form.append("files", file);
  const request = new XMLHttpRequest(); // fetch does not tell how much was sent
  $("progress").hidden = false;
  $("report").textContent = "Sending …";
  request.upload.onprogress = (event) => {
    if (event.loaded < event.total) $("progress").value = event.loaded / event.total;
    else { $("progress").removeAttribute("value"); $("report").textContent = "Reading and indexing …"; }
  };
  request.onloadend = () => {
    $("progress").hidden = true;
    $("files").value = "";
    const said = JSON.parse(request.responseText || '{"detail": "The server does not answer."}');
    if (request.status !== 200) return $("report").replaceChildren(el("p", { className: "warning" }, said.detail));
    const { added, updated, unchanged, skipped } = said;
    $("report").replaceChildren(el("p", {}, `${added} added, ${updated} updated, ${unchanged} unchanged, ${skipped.length} skipped.`),
      el("ul", {}, ...skipped.map((s) => el("li", { className: "warning" }, `${s.source}: ${s.reason}`))));
    listDocuments();
    health();
  };
  request.open("POST", "/api/upload");
  request.send(form);
}

// ---- views

const health = told(async () => {
  const facts = await get("/api/health");
  $("store").textContent = `${counted(facts.documents, "document")}, ${counted(facts.chunks, "passage")}`;
  $("model").textContent = `Answers by ${facts.model}, on this machine.`;
  state.examples = facts.examples;
});

function route() {
  const [view, name = ""] = location.hash.slice(1).split(/\/(.*)/s);
  const shown = ["search", "documents"].includes(view) ? view : "chat";
  for (const id of ["chat", "search", "documents"]) $(id).hidden = id !== shown;
  for (const link of document.querySelectorAll("nav a")) link.ariaCurrent = link.dataset.view === shown ? "page" : null;
  $("where").textContent = { chat: "Ask", search: "Search", documents: "Documents" }[shown];
  menu(false);
  if (shown === "chat") openSession(decodeURIComponent(name));
  if (shown === "documents") listDocuments();
}

function menu(open) {
  $("side").classList.toggle("open", open);
  $("menu").ariaExpanded = String(open);
}

const submit = (id, work) => $(id).addEventListener("submit", (event) => { event.preventDefault(); work(); });

submit("finder", search);
submit("composer", () => {
  const question = $("question").value;
  if (state.running || !question.trim()) return;
  $("question").value = "";
  $("question").style.height = "";
  ask(question);
});
$("question").addEventListener("input", ({ target }) => { target.style.height = "auto"; target.style.height = `${target.scrollHeight}px`; });
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});
$("stop").onclick = () => state.running?.abort();
$("new").onclick = () => { if (location.hash === "#chat") openSession(""); else location.hash = "#chat"; };
$("close").onclick = closeSource;
$("menu").onclick = () => menu(!$("side").classList.contains("open"));
$("narrow").oninput = showDocuments;
$("files").onchange = ({ target }) => upload(target.files);
for (const kind of ["dragover", "dragleave", "drop"]) $("uploader").addEventListener(kind, (event) => {
  event.preventDefault();
  $("uploader").classList.toggle("over", kind === "dragover");
  if (kind === "drop") upload(event.dataTransfer.files);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || $("confirm").open) return;
  if ($("side").classList.contains("open")) { menu(false); $("menu").focus(); } else closeSource();
});
window.addEventListener("hashchange", route);
await health();
route();
