// The text of a stage beside that of the one before.

// Unchanged lines around a change.
const AROUND = 2;
// Rows that are written at a time.
const PORTION = 300;

const WORDS = /(\/\/.*)|("(?:[^"\\]|\\.)*")|([%@](?:"(?:[^"\\]|\\.)*"|[A-Za-z0-9_.$-]+))|(![A-Za-z0-9_.$-]+|(?:nn|int|tensor|quant)(?:\.\w+)*|\b(?:graph|const|return|meta|loc|dense|file)\b)|(-?\b\d[\d.]*(?:e[+-]?\d+)?\b)/g;

// A line with colours; a name selects its value. What lies between `from` and `to` is marked.
function coloured(line, from, to, state) {
  const out = [];
  const put = (start, end, style, name) => {
    for (const [a, b, marked] of [[start, Math.min(end, from), false], [Math.max(start, from), Math.min(end, to), true], [Math.max(start, to), end, false]]) {
      if (a >= b) continue;
      const piece = line.slice(a, b);
      const text = marked ? make("mark", {}, piece) : piece;
      out.push(style || name ? make("span", { class: `${style || ""}${name ? " v" : ""}${name && name === state.selected ? " selected" : ""}`, "data-value": name }, text) : text);
    }
  };
  let at = 0;
  for (const found of line.matchAll(WORDS)) {
    put(at, found.index, null);
    const end = found.index + found[0].length;
    const [, comment, string, name, keyword, number] = found;
    put(found.index, end, comment ? "faint" : string ? "s" : keyword ? "k" : number ? "n" : "", name ? plain(name) : null);
    at = end;
  }
  put(at, line.length, null);
  return out;
}

// Where two lines begin and end to differ.
function middle(a, b) {
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head++;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  return [head, tail];
}

// Rows of two texts: pairs of lines, one of which may be absent.
function pairs(stage) {
  const { lines, origin, before } = stageTexts[stage];
  const rows = [];
  let at = 0;
  lines.forEach((line, i) => {
    if (origin[i] >= 0) {
      for (; at < origin[i]; at++) rows.push([before[at], null]);
      rows.push([before[at], line]);
      at++;
    } else rows.push([null, line]);
  });
  for (; at < before.length; at++) rows.push([before[at], null]);
  return rows;
}

function differenceView(stage, state, onSelect) {
  const pass = data.stages[stage];
  const rows = stage === 0 ? stageTexts[0].lines.map((l) => [l, l]) : pairs(stage);
  const isChange = (row) => row[0] !== row[1];
  const wanted = (row) => state.selected !== null && row.some((l) => l && l.startsWith("  %") && plain(nameAt(l, 2)) === state.selected);
  const keep = new Uint8Array(rows.length);
  rows.forEach((row, i) => {
    if (isChange(row) || wanted(row)) keep.fill(1, Math.max(0, i - AROUND), i + AROUND + 1);
  });
  const grid = make("div", { class: "rows", onclick: (e) => { const v = e.target.closest("[data-value]"); if (v) onSelect(v.dataset.value); } });
  const cell = (line, other, side) => {
    if (line === null) return make("div", { class: "blank" });
    if (line === other) return make("div", {}, coloured(line, 0, 0, state));
    const [head, tail] = other === null ? [0, 0] : middle(line, other);
    return make("div", { class: side }, coloured(line, other === null ? 0 : head, other === null ? 0 : line.length - tail, state));
  };
  const row = ([old, now]) => [cell(old, now, "old"), cell(now, old, "new")];
  const write = (from, until, place) => {
    let written = 0;
    let i = from;
    while (i < until && written < PORTION) {
      if (keep[i]) {
        place.append(...row(rows[i++]));
        written++;
        continue;
      }
      const start = i;
      while (i < until && !keep[i]) i++;
      const fold = make("button", { class: "fold" }, `${i - start} unchanged lines`);
      const end = i;
      fold.addEventListener("click", () => {
        keep.fill(1, start, end);
        const part = document.createDocumentFragment();
        write(start, end, part);
        fold.replaceWith(part);
      });
      place.append(fold);
    }
    if (i < until) {
      const more = make("button", { class: "fold" }, `${until - i} more rows`);
      more.addEventListener("click", () => {
        const part = document.createDocumentFragment();
        write(i, until, part);
        more.replaceWith(part);
      });
      place.append(more);
    }
  };
  if (stage === 0) keep.fill(1);
  write(0, rows.length, grid);
  const edits = pass.edits.length ? make("details", {}, make("summary", {}, `${pass.edits.length} edits`), make("ul", {}, pass.edits.map((e, i) => make("li", { class: "mono" }, `#${pass.first + i} ${e}`)))) : null;
  const remarks = pass.remarks.map((r) => make("p", { class: "faint" }, r));
  const title = stage === 0 ? "as it was read" : rows.some(isChange) ? `before and after ${pass.title}` : `${pass.title} changed nothing`;
  return make("div", {}, make("div", { class: "heading" }, make("strong", {}, title), remarks, edits), grid);
}
