// Conversations: answers as they are written, their citations as buttons, what is not supported marked.

import { $, api, button, confirmed, el, events, get, path, place, post, stagesTable, state, told, unseen } from "./basics.js";
import { closeSource, sourceButton } from "./source.js";

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

export async function ask(question) {
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

export const openSession = told(async (name) => {
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
