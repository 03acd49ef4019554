// Sort a table by the column whose header is pressed: up, then down.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const th = button.parentElement;
    const column = th.cellIndex;
    const down = th.getAttribute("aria-sort") === "ascending";
    for (const other of th.parentElement.cells) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = th.closest("table").tBodies[0];
    const key = (row) => row.cells[column].dataset.number;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x !== undefined && y !== undefined) return x - y;
      if (x !== undefined || y !== undefined) return x === undefined ? 1 : -1;
      return a.cells[column].textContent.localeCompare(b.cells[column].textContent);
    };
    const rows = [...body.rows].sort((a, b) => (down ? -1 : 1) * compare(a, b));
    body.append(...rows);
  });
}

// Copy a command.
for (const pre of document.querySelectorAll("pre")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(pre.textContent);
    button.textContent = "copied";
    setTimeout(() => (button.textContent = "copy"), 1500);
  });
  pre.after(button);
}

// A cell of a matrix opens its images beside it; counts or shares.
for (const matrix of document.querySelectorAll(".matrix")) {
  const cells = [...matrix.querySelectorAll("a")];
  const open = (cell) => {
    const gallery = document.querySelector(cell.getAttribute("href"));
    for (const other of gallery.parentElement.children) other.classList.toggle("open", other === gallery);
    for (const other of cells) other.removeAttribute("aria-current");
    cell.setAttribute("aria-current", "true");
    return gallery;
  };
  for (const cell of cells) {
    cell.addEventListener("click", (event) => {
      event.preventDefault();
      open(cell).scrollIntoView({ block: "nearest" });
    });
  }
  const first = cells.find((cell) => document.querySelector(`${cell.getAttribute("href")}.open`));
  if (first) open(first);
  const button = document.createElement("button");
  button.type = "button";
  button.className = "scale";
  button.textContent = "% of each true class";
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () =>
    button.setAttribute("aria-pressed", matrix.classList.toggle("shares")));
  const bar = document.createElement("div");
  bar.className = "bar";
  bar.append(button);
  matrix.parentElement.before(bar);
}

// Contents: where one is.
const links = [...document.querySelectorAll("nav a")];
const here = new IntersectionObserver((entries) => {
  for (const entry of entries) entry.target.seen = entry.isIntersecting;
  const now = links.find((link) => document.querySelector(link.getAttribute("href")).parentElement.seen
    || document.querySelector(link.getAttribute("href")).seen);
  for (const link of links) link === now ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
}, { rootMargin: "-10% 0px -70% 0px" });
for (const part of document.querySelectorAll("header, main > section")) here.observe(part);

// On paper everything is unfolded.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
