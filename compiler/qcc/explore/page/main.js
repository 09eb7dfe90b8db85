// The page: what is selected, which view is shown, and keys.

const TABS = { graph: ["Graph", "g"], text: ["Changes", "t"], layers: ["Layers", "l"], memory: ["Memory", "m"], code: ["Code", "o"] };
const KEYS = [["j  k", "next and previous pass"], ["↑  ↓", "operand and reader of what is selected"], ["g t l m o", "graph, changes, layers, memory, code"], ["/", "search"], ["Esc", "close, or select nothing"], ["e  c", "open and close all blocks"], ["Backspace", "close the block of what is selected"], ["f  +  -", "whole graph, nearer, farther"], ["x", "next colouring"], ["d", "light or dark"], ["?", "these keys"]];

// `anchor` is what was chosen, at the stage where it was: what is selected elsewhere follows from it.
const state = { stage: 0, tab: "graph", anchor: null, selected: null, symbol: null, channel: 0 };
const graphView = new GraphView(byId("view"), (name) => go({ name }));
let shownStage = null;

function go(to) {
  if (to.pass !== undefined) to = { stage: to.pass };
  if (to.symbol) {
    state.symbol = to.symbol;
    state.tab = "code";
  }
  if (to.tab) state.tab = to.tab;
  if (to.channel !== undefined) state.channel = to.channel;
  if (to.close) return closeBlock(to.close);
  const stage = to.stage !== undefined ? Math.min(last, Math.max(0, to.stage)) : state.stage;
  state.stage = stage;
  if (to.name === null) state.anchor = null;
  else if (to.name !== undefined) {
    state.selected = to.name;
    if (to.anchor !== false || !state.anchor) state.anchor = { stage: to.symbol ? last : stage, name: to.name };
    if (!to.symbol) state.symbol = null;
    if (state.tab === "code" && !to.symbol) state.symbol = null;
  }
  if (!state.anchor) state.selected = null;
  else if (to.name === undefined || to.symbol) state.selected = across(state.anchor.name, state.anchor.stage, stage)[0] ?? null;
  render(to);
}

function closeBlock(id) {
  graphView.toggle(id, false);
  state.anchor = null;
  state.selected = null;
  render({});
}

function render(to) {
  const view = byId("view");
  document.querySelectorAll("#tabs button").forEach((b) => b.setAttribute("aria-selected", String(b.dataset.tab === state.tab)));
  document.querySelectorAll(".pass").forEach((p, i) => p.setAttribute("aria-current", String(i === state.stage)));
  if (state.tab === "graph") {
    if (view.firstChild !== graphView.element) show(view, graphView.element);
    if (shownStage !== state.stage) {
      graphView.display(state.stage);
      shownStage = state.stage;
    }
    graphView.select(state.selected);
  } else if (to.channel === undefined) {
    const views = { text: () => differenceView(state.stage, state, (name) => go({ name })), layers: () => layersView(state, go), memory: () => memoryView(state, go), code: () => codeView(state, go) };
    const top = view.scrollTop;
    show(view, views[state.tab]());
    view.scrollTop = to.name !== undefined && !to.symbol ? top : 0;
  }
  show(byId("inspector"), inspect(state, go));
  if (to.channel !== undefined) byId("inspector").querySelector("input")?.focus();
}

const edits = (n) => `${n} ${n === 1 ? "edit" : "edits"}`;

function timeline() {
  const longestPass = Math.max(...data.stages.map((s) => s.ms), 1e-9);
  show(byId("passes"), data.stages.map((s, i) => {
    const spent = i > 0 && s.effect && s.effect[1] !== null && s.edits.length;
    const title = [s.title, `${s.ms.toFixed(1)} ms`, edits(s.edits.length), s.effect ? `outputs: ${decibels(s.effect[0])} against the model` : ""].filter(Boolean).join("\n");
    return make("button", { class: `pass${s.edits.length || i === 0 ? "" : " idle"}`, title, onclick: () => go({ stage: i }) },
      make("span", { class: "number" }, String(i).padStart(2, "0")), make("span", { class: "title" }, s.title), make("span", { class: "edits" }, s.edits.length ? edits(s.edits.length) : ""),
      make("span", { class: "time", style: `width:${Math.max(1, (100 * s.ms) / longestPass)}%` }),
      make("span", { class: `cost${spent ? " spent" : ""}` }, spent ? `${s.effect[1].toFixed(0)} dB` : `${s.ms.toFixed(1)} ms`));
  }));
}

// Search: what contains all words, names before symbols.
let hits = [];
let chosen = 0;
function search() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  hits = words.length ? entries().filter((e) => words.every((w) => (e.text + " " + e.kind).toLowerCase().includes(w))).slice(0, 60) : [];
  chosen = 0;
  listHits();
}

function listHits() {
  const list = byId("found");
  list.hidden = !hits.length;
  show(list, hits.map((h, i) => make("li", { "aria-selected": String(i === chosen), onclick: () => take(i) }, make("span", { class: "mono" }, h.text), " ", make("small", {}, h.kind))));
  list.children[chosen]?.scrollIntoView({ block: "nearest" });
}

function take(i) {
  if (!hits[i]) return;
  const to = hits[i].go;
  byId("search").value = "";
  hits = [];
  listHits();
  byId("view").focus();
  if (to.name !== undefined && to.stage !== undefined && has(state.stage, to.name)) go({ name: to.name });
  else go(to);
}

function theme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
}

function step(direction) {
  const graph = graphAt(state.stage);
  const node = graph.nodes.get(state.selected);
  if (!node) return;
  const next = direction < 0 ? node.operands.find((o) => !o.constant)?.name : (graph.readers.get(state.selected) || [])[0];
  if (next !== undefined) go({ name: next });
}

function colour(name) {
  graphView.colour = name;
  byId("colour").value = name;
  if (state.tab === "graph") graphView.paint();
}

const ACTIONS = {
  j: () => go({ stage: state.stage + 1 }), k: () => go({ stage: state.stage - 1 }), ArrowUp: () => step(-1), ArrowDown: () => step(1),
  e: () => state.tab === "graph" && graphView.openAll(true), c: () => state.tab === "graph" && graphView.openAll(false),
  f: () => state.tab === "graph" && graphView.fit(), "+": () => graphView.zoom(1.3), "-": () => graphView.zoom(1 / 1.3),
  x: () => { const names = Object.keys(COLOURS); colour(names[(names.indexOf(byId("colour").value) + 1) % names.length]); },
  d: theme, "/": () => byId("search").focus(), "?": () => byId("keys").showModal(),
  Backspace: () => { const block = state.selected !== null && treeAt(state.stage).home.get(state.selected); if (block && block.id) closeBlock(block.id); },
};
for (const [tab, [, key]] of Object.entries(TABS)) ACTIONS[key] = () => go({ tab });

function start() {
  byId("name").textContent = data.file;
  byId("name").title = `${data.file}, qcc ${data.qcc}`;
  show(byId("tabs"), Object.entries(TABS).map(([tab, [label, key]]) => make("button", { role: "tab", "data-tab": tab, title: `${label} (${key})`, onclick: () => go({ tab }) }, label)));
  show(byId("colour"), Object.entries(COLOURS).map(([name, c]) => make("option", { value: name }, c.label)));
  byId("colour").addEventListener("change", (e) => colour(e.target.value));
  byId("theme").addEventListener("click", theme);
  byId("help").addEventListener("click", () => byId("keys").showModal());
  show(byId("keys"), make("h3", {}, "Keys"), make("dl", { style: "grid-template-columns:auto 1fr;gap:6px 16px" }, KEYS.map(([keys, what]) => entry("", make("span", {}, what)).map((e, i) => (i === 0 ? make("dt", {}, keys.split(/\s+/).map((k) => [make("kbd", {}, k), " "])) : e)))), make("form", { method: "dialog", style: "margin-top:14px;text-align:right" }, make("button", {}, "Close")));
  byId("search").addEventListener("input", search);
  byId("search").addEventListener("keydown", (e) => {
    if (e.key === "ArrowDown" || e.key === "ArrowUp") {
      chosen = Math.min(hits.length - 1, Math.max(0, chosen + (e.key === "ArrowDown" ? 1 : -1)));
      listHits();
    } else if (e.key === "Enter") take(chosen);
    else if (e.key === "Escape") {
      byId("search").value = "";
      search();
      byId("view").focus();
    } else return;
    e.preventDefault();
    e.stopPropagation();
  });
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || byId("keys").open || ["INPUT", "SELECT"].includes(e.target.tagName)) return;
    if (e.key === "Escape") go({ name: null });
    else if (ACTIONS[e.key] && !(e.key === "Backspace" && state.tab !== "graph")) ACTIONS[e.key]();
    else return;
    e.preventDefault();
  });
  timeline();
  go({ stage: last });
  document.documentElement.dataset.ready = "yes";
}

start();
