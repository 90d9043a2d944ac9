// A source, opened beside the conversation at the span that is cited.

import { $, button, el, get, path, place, state, told } from "./basics.js";

export const openSource = told(async (span, opener, around = 20000) => {
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

export function closeSource() {
  if ($("source").hidden) return;
  $("source").hidden = true;
  document.body.classList.remove("reading");
  if (state.opener) state.opener.ariaExpanded = "false";
  state.opener?.focus();
}

export function sourceButton(citation, label, properties) {
  const node = el("button", { type: "button", ariaExpanded: "false", title: place(citation), ...properties }, ...label);
  node.onclick = () => openSource(citation, node);
  return node;
}
