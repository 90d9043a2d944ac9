// The page: chat, search and documents. What the server says enters as text, never as HTML.

const $ = (id) => document.getElementById(id);
const state = { session: "", flagged: new Set(), examples: [], opener: null, running: null };

function el(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const button = (text, onclick, properties = {}) => el("button", { type: "button", onclick, ...properties }, text);
const unseen = (text) => el("span", { className: "unseen" }, text);
const place = (c) => `${c.document}:${c.start}-${c.end}${c.page ? `, page ${c.page}` : ""}`;
const path = (kind, name) => `/api/${kind}/${name.split("/").map(encodeURIComponent).join("/")}`;
const counted = (n, thing) => `${n.toLocaleString()} ${thing}${n === 1 ? "" : "s"}`;

async function api(url, options = {}) {
  const response = await fetch(url, options).catch(() => { throw new Error("The server does not answer."); });
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).detail ?? response.statusText);
  return response;
}

const get = async (url) => (await api(url)).json();
const post = (url, body, signal) =>
  api(url, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

function notice(text) {
  $("notice").textContent = text;
  clearTimeout(notice.timer);
  notice.timer = setTimeout(() => $("notice").replaceChildren(), 8000);
}

const told = (work) => async (...given) => {
  try { return await work(...given); } catch (error) { notice(error.message); }
};

function confirmed(text) {
  $("confirm-text").textContent = text;
  $("confirm").showModal();
  $("no").focus();
  return new Promise((resolve) => {
    $("confirm").onclose = () => resolve($("confirm").returnValue === "yes");
    for (const id of ["yes", "no"]) $(id).onclick = () => $("confirm").close(id);
    $("confirm").oncancel = () => { $("confirm").returnValue = "no"; };
  });
}

// ---- the source beside the conversation

const openSource = told(async (span, opener, around = 20000) => {
  const range = new URLSearchParams({ start: span.start ?? 0, end: span.end ?? 0, around });
  const found = await get(`${path("documents", span.document)}?${range}`);
  closeSource();
  state.opener = opener;
  if (opener) opener.ariaExpanded = "true";
  $("source-title").textContent = found.title || found.id;
  $("source-place").textContent = span.end ? place(span) : found.id;
  $("source-warning").hidden = !state.flagged.has(found.id);
  const mark = found.span ? el("mark", { tabIndex: -1 }, found.span) : "";
  const whole = found.clipped ? [button("Show the whole document", () => openSource(span, opener, 1e9), { className: "quiet" })] : [];
  $("source-text").replaceChildren(...whole, found.before, mark, found.after);
  $("source").hidden = false;
  document.body.classList.add("reading");
  $("source-text").scrollTop = 0;
  if (mark) mark.scrollIntoView({ block: "center" });
  $("source-title").focus({ preventScroll: true });
});

function closeSource() {
  if ($("source").hidden) return;
  $("source").hidden = true;
  document.body.classList.remove("reading");
  if (state.opener) state.opener.ariaExpanded = "false";
  state.opener?.focus();
}

// ---- an answer, with its citations as buttons and what is not supported marked

function sourceButton(citation, label, properties) {
  const node = el("button", { type: "button", ariaExpanded: "false", title: place(citation), ...properties }, ...label);
  node.onclick = () => openSource(citation, node);
  return node;
}

function sentence(said, citations) {
  const marks = said.citations.map((n) => `[${n}]`).join(""); // at its end, where verification put them
  const body = said.text.trimEnd();
  const text = body.endsWith(marks) ? body.slice(0, body.length - marks.length) : body;
  const [, space, words] = text.match(/^(\s*)(.*)$/s);
  const buttons = said.citations.map((n) => sourceButton(citations.get(n), [unseen("Source "), String(n)], { className: "cite" }));
  const parts = [words, ...buttons];
  if (said.supported) return [space, ...parts];
  const tip = el("span", { className: "tip" }, "Not found in the documents. Check it before you rely on it.");
  const doubt = button("", () => {}, { className: "doubt" });
  doubt.append(el("span", { ariaHidden: "true" }, "?"), tip);
  return [space, el("span", { className: "unsupported" }, ...parts), doubt];
}

const sources = (citations) => el("ol", { className: "sources", ariaLabel: "Sources" }, ...citations.map((c) => el("li", {},
  sourceButton(c, [el("b", {}, String(c.number)), el("q", {}, c.quote), el("span", { className: "place" }, place(c))], {}))));

function stagesTable(stages) {
  const rows = stages.map((s) => el("tr", {}, el("td", {}, s.name), el("td", { className: "number" }, s.milliseconds.toFixed(1)),
    el("td", { className: "number" }, String(s.n)), el("td", {}, s.note)));
  return table(["Stage", "Milliseconds", "Passages", "Note"], rows);
}

function table(heads, rows) {
  const number = (head) => (/^(Milliseconds|Passages|Score|#)$/.test(head) ? "number" : "");
  const head = el("tr", {}, ...heads.map((h) => el("th", { scope: "col", className: number(h) }, h)));
  return el("div", { className: "scroll" }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)));
}

function showAnswer(turn, answer) {
  const shown = turn.querySelector(".answer");
  const citations = new Map(answer.citations.map((c) => [c.number, c]));
  shown.replaceChildren(...answer.sentences.flatMap((said) => sentence(said, citations)));
  if (answer.abstained) {
    shown.classList.add("unknown");
    shown.prepend(el("strong", {}, "The documents do not say enough"));
  }
  if (answer.flagged.length) {
    answer.flagged.forEach((id) => state.flagged.add(id));
    turn.append(el("p", { className: "warning" }, `Text that reads like instructions to a model stands in ${answer.flagged.join(", ")}. It was used as text only.`));
  }
  if (answer.note) turn.append(el("p", { className: "fine note" }, answer.note));
  if (answer.citations.length) turn.append(sources(answer.citations));
  const how = el("details", {}, el("summary", {}, `How this was found (confidence ${answer.confidence.toFixed(2)})`));
  if (answer.query && answer.query !== answer.question) how.append(el("p", {}, `Searched for: ${answer.query}`));
  if (answer.stages?.length) how.append(stagesTable(answer.stages)); // not kept in sessions
  turn.append(how);
}

function addTurn(question) {
  const answer = el("div", { className: "answer" });
  const turn = el("article", { className: "turn" }, el("h2", {}, unseen("You asked: "), question), answer);
  $("thread").querySelector(".welcome")?.remove();
  $("thread").append(turn);
  return [turn, answer];
}

async function ask(question) {
  if (state.running || !question.trim()) return;
  state.running = new AbortController();
  const [turn, answer] = addTurn(question);
  answer.ariaBusy = "true";
  answer.append(el("span", { className: "waiting" }, "Reading the documents …"));
  working(true);
  turn.scrollIntoView({ block: "start" });
  try {
    state.session ||= (await (await post("/api/sessions", { title: question })).json()).name;
    const response = await post("/api/ask", { question, session: state.session }, state.running.signal);
    let text = "";
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error);
      if (event.piece) answer.textContent = text += event.piece;
      if (event.answer) showAnswer(turn, event.answer);
    }
  } catch (error) {
    turn.append(el("p", { className: "warning" }, error.name === "AbortError" ? "Stopped; this answer is not kept." : error.message));
    answer.querySelector(".waiting")?.remove();
  }
  answer.ariaBusy = "false";
  working(false);
  history.replaceState(null, "", `#chat/${encodeURIComponent(state.session)}`);
  await listSessions();
}

function working(busy) {
  if (!busy) state.running = null;
  $("send").hidden = busy;
  $("stop").hidden = !busy;
  $("question").focus();
}

// ---- sessions

const listSessions = told(async () => {
  const sessions = await get("/api/sessions");
  $("sessions").replaceChildren(...sessions.map(({ name }) => {
    const link = el("a", { href: `#chat/${encodeURIComponent(name)}`, title: name }, name);
    if (name === state.session) link.ariaCurrent = "page";
    const save = el("a", { href: `${path("sessions", name)}?download=true`, className: "quiet", ariaLabel: `Export ${name}` }, "Export");
    const tools = el("span", { className: "tools" }, save, button("Forget", () => forget(name), { className: "quiet", ariaLabel: `Forget ${name}` }));
    return el("li", {}, link, tools);
  }));
});

const forget = told(async (name) => {
  if (!await confirmed(`Forget “${name}”? Its questions and answers are deleted for good.`)) return;
  await api(path("sessions", name), { method: "DELETE" });
  if (name === state.session) location.hash = "#chat";
  await listSessions();
});

const openSession = told(async (name) => {
  state.running?.abort();
  state.session = name;
  closeSource();
  $("thread").replaceChildren(...(name ? [] : [welcome()]));
  for (const answer of name ? await get(path("sessions", name)) : []) showAnswer(addTurn(answer.question)[0], answer);
  $("thread").lastElementChild?.scrollIntoView({ block: "start" });
  await listSessions();
});

const welcome = () => el("div", { className: "welcome" }, el("h1", {}, "What would you like to know?"),
  el("p", {}, "Answers come from your documents alone. Each names the sentences it rests on; select a number to read them in place. What the documents do not say is answered with “I don't know”."),
  el("ul", {}, ...state.examples.map((text) => el("li", {}, button(text, () => ask(text))))));

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
