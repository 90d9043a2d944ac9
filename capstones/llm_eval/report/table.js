"use strict";
/* Tables that sort by a click on a heading, and the table of numbers, which filters. */

document.documentElement.classList.add("js");
const $ = (id) => document.getElementById(id);

function keyOf(row, column, kind) {
  const value = row.cells[column].dataset.v;
  if (kind === "text") return value.toLowerCase();
  return value === "" ? NaN : Number(value);
}

function sortBy(table, column, kind, direction) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row, i) => [keyOf(row, column, kind), i, row]);
  rows.sort(([a, i], [b, j]) => {
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b) || i - j;
    return (a < b ? -direction : a > b ? direction : 0) || i - j;  // what has no value stays last
  });
  body.append(...rows.map(([, , row]) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      sortBy(table, column, heading.dataset.kind, down ? -1 : 1);
    });
  });
}

function filterRows() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const [tag, task, metric, group] = ["tag", "task", "metric", "group"].map((n) => $(`by-${n}`).value);
  const rows = [...$("table").tBodies[0].rows];
  for (const row of rows) {
    const of = row.dataset;
    const inGroup = !group || (group === "whole" ? !of.group && !of.template : of.group === group.slice(1));
    row.hidden = !(
      (!tag || of.tag === tag) && (!task || of.task === task) && (!metric || of.metric === metric) &&
      inGroup && words.every((word) => of.words.includes(word))
    );
  }
  const shown = rows.filter((row) => !row.hidden).length;
  $("row-count").textContent = shown === rows.length ? `${shown} numbers` : `${shown} of ${rows.length} numbers`;
}

if ($("filters")) {
  $("filters").addEventListener("input", filterRows);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("protocols").addEventListener("change", () => $("table").classList.toggle("protocols", $("protocols").checked));
  filterRows();
}
