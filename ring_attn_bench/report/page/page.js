(() => {
  "use strict";
  const make = (tag, props, ...children) => {
    const made = Object.assign(document.createElement(tag), props);
    made.append(...children);
    return made;
  };

  // sort: numbers by what they are (as in model.py), words as people do; empty cells stay below
  const begins = /^[<>]?\s*(-?[\d,]*\.?\d+(?:e[+-]\d+)?)([KM]?)x?(?![\w.])/;
  const sizes = { "": 1, K: 2 ** 10, M: 2 ** 20 };
  const order = (row, at) => {
    const cell = row.cells[at];
    const text = cell.textContent.trim();
    if (cell.dataset.o !== undefined) return Number(cell.dataset.o);
    const found = cell.classList.contains("number") ? begins.exec(text) : null;
    return found ? Number(found[1].replaceAll(",", "")) * sizes[found[2]] : text;
  };
  const compare = (one, other) => {
    if (one === "" || other === "") return (one === "") - (other === "");
    if (typeof one !== typeof other) return typeof one === "number" ? -1 : 1;
    return typeof one === "number" ? one - other : one.localeCompare(other, "en", { numeric: true });
  };
  const sortable = (table) => {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, at) => {
      // beside the words, not around them: a button is not repeated on the next sheet of paper
      const button = make("button", { type: "button" });
      button.setAttribute("aria-label", `Sort by ${head.textContent}`);
      head.append(button);
      head.addEventListener("click", () => {
        const first = head.classList.contains("number") ? "descending" : "ascending";
        const next = { ascending: "descending", descending: "ascending" };
        const way = next[head.getAttribute("aria-sort")] ?? first;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", way);
        const rows = [...body.rows].map((row) => [order(row, at), row]);
        const turn = way === "ascending" ? 1 : -1;
        rows.sort(([a], [b]) => (a === "" || b === "" ? compare(a, b) : turn * compare(a, b)));
        body.append(...rows.map(([, row]) => row));
      });
    });
  };

  // filter: rows that have every word
  const filterable = (box) => {
    const rows = [...box.querySelectorAll("tbody tr")];
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const count = make("span", { textContent: `${rows.length} rows` });
    const input = make("input", { type: "search", placeholder: "Filter rows, by words" });
    input.setAttribute("aria-label", `Filter ${box.getAttribute("aria-label")}`);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/);
      let shown = 0;
      rows.forEach((row, at) => {
        row.hidden = !words.every((word) => texts[at].includes(word));
        shown += !row.hidden;
      });
      count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
    });
    box.before(make("div", { className: "tools" }, input, count));
  };

  const copyable = (figure) => {
    const button = make("button", { type: "button", className: "copy", textContent: "copy" });
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(figure.querySelector("code").textContent);
      button.textContent = "copied";
    });
    figure.querySelector("figcaption").append(button);
  };

  document.querySelectorAll("table").forEach(sortable);
  document.querySelectorAll(".table[data-long]").forEach(filterable);
  if (navigator.clipboard) document.querySelectorAll(".command").forEach(copyable);
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((fold) => { fold.open = true; });
  });
})();
