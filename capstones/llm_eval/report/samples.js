/* Samples, ten at a time. Whatever a model or a data set wrote becomes text nodes, never markup. */

const PER_PAGE = 10;
const data = JSON.parse($("data").textContent);
let place = 0;

function make(tag, name, ...children) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...children);
  return element;
}

const shownNumber = (x) => (typeof x === "number" ? String(Number(x.toPrecision(4))) : String(x));

function text(content) {
  const element = make("pre", "text", content === "" ? "(empty)" : content);
  element.dir = "auto";
  return element;
}

function choicesOf(sample) {
  const logs = sample.choices.map(([, logprob]) => (typeof logprob === "number" ? logprob : -Infinity));
  const best = Math.max(...logs);
  const weights = logs.map((x) => (x === -Infinity ? 0 : Math.exp(x - best)));  // "-inf" is text
  const sum = weights.reduce((a, b) => a + b, 0);
  const many = sample.choices.length > 1;
  const list = make("ol", "choices");
  list.start = 0;
  sample.choices.forEach(([choice, logprob, tokens], i) => {
    const item = make("li", "", text(choice));
    const facts = [];
    if (logprob !== null) facts.push(`${shownNumber(logprob)} nats`);
    if (tokens) facts.push(`${tokens} tokens`);
    if (many && sum) {
      const bar = make("span", "share");
      bar.append(make("span", "fill"));
      bar.firstChild.style.width = `${(100 * weights[i]) / sum}%`;
      item.append(bar);
      facts.push(`${Math.round((100 * weights[i]) / sum)} %`);
    }
    item.append(make("span", "fine", facts.join(" · ")));
    if (many && sample.target === i) item.append(make("span", "badge good", "right answer"));
    if (many && sample.prediction === i) item.append(make("span", `badge ${sample.target === i ? "good" : "bad"}`, "chosen"));
    list.append(item);
  });
  return list;
}

function field(name, ...content) {
  return make("div", "field", make("h4", "", name), ...content);
}

function card(sample) {
  const head = make("header", "", make("h3", "", make("bdi", "", sample.id)));
  const state = sample.error ? "no answer" : sample.right === null ? "" : sample.right ? "right" : "wrong";
  if (state) head.append(make("span", `badge ${state === "right" ? "good" : "bad"}`, state));
  for (const part of [sample.group, sample.template && `“${sample.template}”`]) {
    if (part) head.append(make("span", "chip", make("bdi", "", part)));
  }
  const article = make("article", "sample card", head);
  if (sample.error) article.append(field("No answer because", text(sample.error)));
  if (sample.prompt) article.append(field("Prompt", text(sample.prompt)));
  if (sample.choices) {
    article.append(field(sample.choices.length > 1 ? "Choices" : "Text", choicesOf(sample)));
    if (sample.left_out) article.append(make("p", "fine", `${sample.left_out} more choices are in samples.jsonl.`));
  }
  (sample.answers || []).forEach((answer, i) => {
    const cut = `${answer.ended === "length" ? " · cut off at the most tokens" : ""}${answer.truncated ? " · the prompt lost its beginning" : ""}`;
    article.append(field(`Answer${sample.answers.length > 1 ? ` ${i + 1}` : ""}${cut}`, text(answer.text)));
  });
  const index = sample.choices && sample.choices.length > 1;
  if (sample.target !== null && !(index && typeof sample.target === "number")) article.append(field("Right answer", text(String(sample.target))));
  if (sample.prediction !== null && !index && typeof sample.prediction === "string") article.append(field("Taken as", text(sample.prediction)));
  const values = Object.entries(sample.values).map(([name, value]) => `${name} ${shownNumber(value)}`);
  if (values.length) article.append(make("p", "fine values", values.join(" · ")));
  return article;
}

const kindOf = (sample) => (sample.error ? "error" : sample.right === null ? "" : sample.right ? "right" : "wrong");

function showSamples() {
  const of = data[$("sample-task").value];
  if (!of) {
    $("sample-count").textContent = "No samples.";
    return;
  }
  const [kind, words] = [$("sample-kind").value, $("sample-search").value.toLowerCase().split(/\s+/).filter(Boolean)];
  const chosen = of.samples.filter((sample) => {
    if (kind && kindOf(sample) !== kind) return false;
    const all = words.length ? JSON.stringify(sample).toLowerCase() : "";
    return words.every((word) => all.includes(word));
  });
  place = Math.max(0, Math.min(place, Math.ceil(chosen.length / PER_PAGE) - 1));
  const first = place * PER_PAGE;
  const shown = chosen.slice(first, first + PER_PAGE);
  $("sample-list").replaceChildren(...shown.map(card));
  const { total, wrong, errors } = of.counts;
  const missing = total - of.samples.length;
  const left = missing ? ` ${of.samples.length} of them are here, the worst first; ${missing} more are in samples.jsonl.` : "";
  $("sample-count").textContent = `${total} samples, ${wrong} wrong, ${errors} without an answer.${left}`;
  $("sample-place").textContent = chosen.length ? `${first + 1} to ${first + shown.length} of ${chosen.length}` : "none";
  $("sample-back").disabled = place === 0;
  $("sample-next").disabled = first + PER_PAGE >= chosen.length;
}

function turn(by) {
  place += by;
  showSamples();
  $("picker").scrollIntoView({ block: "start" });
}

$("picker").addEventListener("input", () => { place = 0; showSamples(); });
$("picker").addEventListener("submit", (event) => event.preventDefault());
$("sample-back").addEventListener("click", () => turn(-1));
$("sample-next").addEventListener("click", () => turn(1));
showSamples();
