"use strict";
// Finding and sorting in the table of nodes. Without it the page shows them all.
(() => {
  const table = document.getElementById("node-table");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => ({ row, text: row.textContent.toLowerCase(), status: row.dataset.status }));
  const find = document.getElementById("find"), status = document.getElementById("status");
  const shown = document.getElementById("shown"), none = document.getElementById("none");
  const filter = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let n = 0;
    for (const r of rows) {
      const fits = (!status.value || r.status === status.value) && words.every((w) => r.text.includes(w));
      r.row.hidden = !fits;
      if (fits) n++;
    }
    shown.textContent = n === rows.length ? "" : n + " of " + rows.length;
    none.hidden = n > 0;
  };
  find.addEventListener("input", filter);
  status.addEventListener("input", filter);
  const form = find.closest("form");
  form.addEventListener("submit", (e) => e.preventDefault());
  form.hidden = false;

  const order = new Intl.Collator("en", { numeric: true });
  const headings = Array.from(table.tHead.rows[0].cells);
  headings.forEach((th, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = th.textContent;
    th.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = th.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      th.setAttribute("aria-sort", down ? "descending" : "ascending");
      rows.sort((a, b) => (down ? -1 : 1) * order.compare(a.row.cells[i].textContent, b.row.cells[i].textContent));
      body.append(...rows.map((r) => r.row));
    });
  });
})();
