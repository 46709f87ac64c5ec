"use strict";
// Sort a table by the column whose heading is clicked; cells carry what they sort by in data-by.
// What moves is a row, or a body of rows where the table has one body per item.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement, table = heading.closest("table");
    const many = table.tBodies.length > 1, items = many ? table.tBodies : table.tBodies[0].rows;
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const cell = item => (many ? item.rows[0] : item).cells[heading.cellIndex];
    const key = item => cell(item).dataset.by ?? cell(item).textContent.trim();
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "");  // missing values last, whichever way
      const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
      return down ? -order : order;
    };
    (many ? table : table.tBodies[0]).append(...[...items].sort((a, b) => compare(key(a), key(b))));
  });
}
// Point at a trial anywhere, or reach its row by keyboard, to see it everywhere and read it under the charts.
const readouts = document.querySelectorAll(".readout");
const show = (mark, on) => {
  for (const other of document.querySelectorAll(`[data-trial="${mark.dataset.trial}"]`)) other.classList.toggle("on", on);
  const title = document.querySelector(`tbody[data-trial="${mark.dataset.trial}"]`)?.dataset.title;
  for (const line of readouts) line.textContent = on && title ? title : line.dataset.empty;
};
for (const line of readouts) line.textContent = line.dataset.empty;
for (const mark of document.querySelectorAll("[data-trial]")) {
  mark.addEventListener("mouseenter", () => show(mark, true));
  mark.addEventListener("mouseleave", () => show(mark, false));
  mark.addEventListener("focusin", () => show(mark, true));
  mark.addEventListener("focusout", () => show(mark, false));
}
for (const button of document.querySelectorAll(".filter button")) {
  button.addEventListener("click", () => {
    document.querySelector(".examples").className = `examples ${button.dataset.only}`;
    for (const other of button.parentElement.children) other.setAttribute("aria-pressed", other === button);
  });
}
