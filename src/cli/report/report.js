// Tables sort by the heading that is clicked: numbers from the largest, text from A.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  for (const heading of headings) {
    heading.querySelector("button").addEventListener("click", () => {
      const column = heading.cellIndex;
      const numeric = heading.classList.contains("number");
      const first = numeric ? "descending" : "ascending";
      const other = numeric ? "ascending" : "descending";
      const order = heading.getAttribute("aria-sort") === first ? other : first;
      headings.forEach((each) => each.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const value = (row) => {
        const cell = row.cells[column];
        if (!numeric) return cell.textContent.trim();
        return "v" in cell.dataset ? Number(cell.dataset.v) : null;
      };
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        // What is not known comes last either way.
        if (x === null || y === null) return (x === null) - (y === null);
        return sign * (numeric ? x - y : x.localeCompare(y));
      };
      body.append(...[...body.rows].sort(compare));
    });
  }
}

// A graph begins in the middle of its width.
for (const box of document.querySelectorAll("#plan .picture, #graphs .picture")) {
  box.scrollLeft = (box.scrollWidth - box.clientWidth) / 2;
}
