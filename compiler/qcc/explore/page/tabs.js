// The other views: layers by damage, the arena over the steps, and machine code.

function layersView(state, go) {
  const layers = Object.values(data.values.layers);
  const list = (layers.length ? layers : (data.program ? [...new Set(data.program.tasks.map((t) => t.value))].map((name) => ({ name }))  : []));
  if (!list.length) return make("p", { class: "heading" }, "There is nothing to show: the passes did not come to an integer graph.");
  const worth = (l) => (l.damage ? l.damage.share : -1);
  const sorted = [...list].sort((a, b) => worth(b) - worth(a) || (b.loss_db ?? 0) - (a.loss_db ?? 0) || (a.name < b.name ? -1 : 1));
  const row = (l) => {
    const tasks = tasksOf.get(l.name) || [];
    const ms = tasks.reduce((sum, t) => sum + (t.measured ? t.measured.ms : 0), 0);
    const d = l.damage;
    return make("tr", { class: `row${l.name === state.selected ? " selected" : ""}`, "data-name": l.name, onclick: () => go({ stage: last, name: l.name }) },
      make("td", {}, make("div", { class: "mono" }, "%" + l.name), make("div", { class: "faint" }, l.op || ""), d ? make("div", {}, d.cause.text, d.remedy ? [": ", make("code", {}, d.remedy.flag)] : "") : null),
      make("td", { class: "num" }, d ? [make("i", { class: "share", style: `width:${Math.round(60 * d.share / greatestShare)}px` }), `${(100 * d.share).toFixed(1)} %`] : ""),
      make("td", { class: "num" }, l.sqnr_db !== undefined ? decibels(l.sqnr_db) : ""),
      make("td", { class: "num" }, l.loss_db !== undefined ? `${l.loss_db.toFixed(1)} dB` : ""),
      make("td", { class: "num" }, ms ? ms.toFixed(4) : ""));
  };
  const head = ["value, likely cause, remedy", "damage", "SQNR", "lost here", "ms"].map((h, i) => make("th", { class: i > 0 ? "num" : "" }, h));
  const about = data.values.samples ? `Layers of the integer model beside the float one, on ${data.values.samples}; the most damaging first.` : "Steps of the program. Values were not evaluated.";
  return make("div", {}, make("div", { class: "heading" }, about), make("table", {}, make("thead", {}, make("tr", {}, head)), make("tbody", {}, sorted.map(row))));
}

function memoryView(state, go) {
  if (!data.program) return make("p", { class: "heading" }, "There is no memory plan: the passes did not come to an integer graph.");
  const { arena } = data.program;
  const [width, height, left, top] = [Math.max(640, arena.steps.length * 9), 520, 60, 16];
  const x = (step) => left + (step * (width - left)) / Math.max(1, arena.steps.length);
  const y = (at) => top + (at * height) / Math.max(1, arena.bytes);
  const shades = [30, 45, 60];
  const finalNames = state.selected === null ? [] : finals(state.selected, state.stage);
  const boxes = arena.buffers.map((b, i) => draw("rect", {
    class: finalNames.includes(b.name) ? "selected" : "", x: x(b.life[0]), width: Math.max(2, x(b.life[1] + 1) - x(b.life[0])), y: y(b.offset), height: Math.max(1.5, y(b.offset + b.bytes) - y(b.offset)),
    style: `fill:color-mix(in oklab, var(--accent) ${shades[i % shades.length]}%, var(--raised))`, "data-name": b.name, onclick: () => { const name = b.name.replace(/\.scratch$/, ""); if (has(last, name)) go({ stage: last, name, tab: "memory" }); },
  }, draw("title", {}, `%${b.name}: ${bytes(b.bytes)} at ${whole(b.offset)}, steps ${b.life[0]} to ${b.life[1]}`)));
  const marks = [0, 0.25, 0.5, 0.75, 1].map((f) => draw("text", { x: left - 6, y: y(arena.bytes * f) + 4, "text-anchor": "end" }, bytes(arena.bytes * f)));
  const every = Math.max(1, Math.ceil(arena.steps.length / 20));
  const steps = arena.steps.map((s, i) => (i % every === 0 ? draw("text", { x: x(i), y: top + height + 14 }, String(i)) : null));
  return make("div", {}, make("div", { class: "heading" }, `Arena of ${bytes(arena.bytes)} over ${arena.steps.length} steps; ${bytes(arena.unshared_bytes)} without sharing, ${bytes(arena.peak_bytes)} alive at once at most. A box is a buffer: from the first to the last step that touches it.`),
    draw("svg", { class: "chart", width: width + 20, height: height + 44 }, boxes, marks, steps));
}

function codeView(state, go) {
  if (!data.program) return make("p", { class: "heading" }, "There is no machine code: the passes did not come to an integer graph.");
  const { functions, tasks } = data.program;
  const own = state.selected === null ? [] : tasksFor(state.selected, state.stage);
  const symbol = state.symbol && functions[state.symbol] !== undefined ? state.symbol : own.at(-1)?.symbol ?? tasks[0]?.symbol ?? Object.keys(functions)[0];
  const pick = make("select", { "aria-label": "Function", style: "max-width:100%", onchange: (e) => go({ symbol: e.target.value }) }, Object.keys(functions).map((name) => make("option", { value: name, selected: name === symbol }, name)));
  const task = tasks.find((t) => t.symbol === symbol);
  const callers = tasks.filter((t) => t.calls.includes(symbol));
  const jump = (s) => make("button", { class: "link mono", onclick: () => go({ symbol: s }) }, s);
  const facts = make("dl", {}, task ? entry("step of", make("button", { class: "link mono", onclick: () => go({ stage: last, name: task.value }) }, "%" + task.value)) : null, task ? entry("kernel", task.kernel) : null,
    task && task.calls.length ? entry("calls", task.calls.map((c) => [jump(c), " "])) : null, callers.length ? entry("called by", callers.map((c) => [jump(c.symbol), " "])) : null);
  return make("div", {}, make("div", { class: "heading" }, pick, facts), make("pre", { class: "code", id: "disassembly" }, functions[symbol] || ""));
}
