// Sorts a table by the column whose header is clicked; without scripts it stays as it is written.
for (const head of document.querySelectorAll("thead th")) {
  const table = head.closest("table"), place = head.cellIndex;
  if (table.tBodies[0].rows.length < 2) continue;
  const button = document.createElement("button");
  button.append(...head.childNodes);
  head.append(button);
  button.onclick = () => {
    const down = head.ariaSort !== "descending";
    const text = (row) => row.cells[place].textContent.trim().replaceAll(",", "");
    const number = (row) => parseFloat(text(row).replace(/^[^\d.+-]+/, ""));
    const value = (row) => (isNaN(number(row)) ? -Infinity : number(row));
    const order = place
      ? (a, b) => value(b) - value(a) || 0
      : (a, b) => text(b).localeCompare(text(a));
    const rows = [...table.tBodies[0].rows].sort(order);
    if (!down) rows.reverse();
    table.tBodies[0].append(...rows);
    for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
    head.ariaSort = down ? "descending" : "ascending";
  };
}
