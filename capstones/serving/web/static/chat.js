// The chat. What the model says enters the page as text, never as HTML.

const $ = (id) => document.getElementById(id);
let turns = [];
let running = null;

function el(tag, className, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

function headers() {
  const key = $("key").value.trim();
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

async function api(path, options = {}) {
  const response = await fetch(path, { headers: headers(), ...options }).catch((error) => {
    throw error.name === "AbortError" ? error : new Error("The server does not answer.");
  });
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  const wait = response.headers.get("Retry-After");
  throw new Error(`${error?.message ?? response.statusText}${wait ? ` (in ${wait} s)` : ""}`);
}

// Events of a stream; a chunk of bytes may end inside of one.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("The server broke the answer off.");
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

const ENDS = {
  length: "Cut: as many tokens as were asked for.",
  content_filter: "Ended by the safety filter",
};

async function answer(node, messages, signal) {
  const start = performance.now();
  const body = {
    model: $("model").value, messages, stream: true, stream_options: { include_usage: true },
    temperature: Number($("temperature").value), max_tokens: Number($("most").value),
  };
  const response = await api("/v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
  const text = node.querySelector(".text");
  let first = 0, usage = null, why = "";
  for await (const event of events(response)) {
    usage = event.usage ?? usage;
    const [choice] = event.choices;
    if (choice?.delta.content) {
      first ||= performance.now();
      const low = $("thread").scrollHeight - $("thread").scrollTop - $("thread").clientHeight < 40;
      text.append(choice.delta.content);
      if (low) $("thread").scrollTop = $("thread").scrollHeight;
    }
    if (choice?.finish_reason in ENDS) why = ENDS[choice.finish_reason];
    if (choice?.delta.content_filter) why += `: ${choice.delta.content_filter}.`;
  }
  if (why) node.append(el("p", "fine ended", why));
  const n = usage?.completion_tokens ?? 0, rate = n > 1 ? (n - 1) / ((performance.now() - first) / 1000) : 0;
  const parts = [`${n} token${n === 1 ? "" : "s"}`];
  if (first) parts.push(`first after ${((first - start) / 1000).toFixed(2)} s`);
  if (rate) parts.push(`${rate.toFixed(1)} per second`);
  node.append(el("p", "fine", parts.join(" · ")));
}

async function ask(question) {
  $("welcome")?.remove();
  $("notice").textContent = "";
  const chat = turns; // a new chat may begin meanwhile, with turns of its own
  chat.push({ role: "user", content: question });
  const said = el("div", "user", question), node = el("div", "answer");
  node.ariaBusy = "true";
  node.append(el("div", "text"));
  $("thread").append(said, node);
  said.scrollIntoView();
  running = new AbortController();
  $("send").hidden = true;
  $("stop").hidden = false;
  try {
    await answer(node, chat, running.signal);
  } catch (error) {
    if (error.name === "AbortError") node.append(el("p", "fine", "Stopped."));
    else $("notice").textContent = error.message;
  }
  const text = node.querySelector(".text").textContent;
  if (text) chat.push({ role: "assistant", content: text });
  else chat.pop(); // nothing was said to it
  if (!node.textContent) {
    node.remove();
    said.remove();
    $("question").value ||= question;
  }
  node.ariaBusy = "false";
  $("stop").hidden = true;
  $("send").hidden = false;
  running = null;
}

$("composer").onsubmit = (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question || running) return;
  $("question").value = "";
  ask(question);
};
$("question").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
};
$("stop").onclick = () => running?.abort();
$("new").onclick = () => {
  running?.abort();
  turns = [];
  $("thread").replaceChildren();
  $("notice").textContent = "";
  $("question").focus();
};

async function models() {
  try {
    const { data } = await (await api("/v1/models")).json();
    $("model").replaceChildren(...data.map((card) => new Option(card.id)));
    $("notice").textContent = "";
  } catch (error) {
    $("notice").textContent = error.message;
  }
}
$("key").onchange = models;
await models();
$("question").focus();
