// The graph of a stage: blocks of modules that open and close, laid out from top to bottom by dagre.

// Blocks of at most so many operations are closed at first, unless the whole graph has few.
const SMALL_BLOCK = 24;
const SMALL_GRAPH = 48;
// Blocks of fewer operations are none.
const BLOCK = 3;
// Edges over more ranks than this take no part in the layout, nor do those to the farther ones of many operands.
const FAR = 10;
const OPERANDS = 3;
const NEAREST = 2;
// If there are more of them than this, only those of the selected operation are drawn.
const FAR_EDGES = 40;

class GraphView {
  constructor(place, onSelect) {
    this.onSelect = onSelect;
    this.open = new Map();
    this.at = { x: 0, y: 0, k: 1 };
    this.layer = draw("g");
    this.svg = draw("svg", { class: "graph", role: "img", "aria-label": "graph" }, draw("defs", {},
      draw("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 6, markerHeight: 6, orient: "auto-start-reverse" }, draw("path", { d: "M0 0L8 4L0 8z", fill: "var(--faint)" }))), this.layer);
    this.legend = make("div", { class: "corner" });
    const tool = (text, title, act) => make("button", { title, "aria-label": title, onclick: act }, text);
    this.element = make("div", { style: "height:100%;position:relative;overflow:hidden" }, this.svg, this.legend, make("div", { class: "tools" },
      tool("+", "Nearer (+)", () => this.zoom(1.3)), tool("−", "Farther (-)", () => this.zoom(1 / 1.3)), tool("fit", "Whole graph (f)", () => this.fit()),
      tool("open all", "Open all blocks (e)", () => this.openAll(true)), tool("close all", "Close all blocks (c)", () => this.openAll(false))));
    this.listen();
    this.stage = null;
  }

  listen() {
    let grip = null;
    this.svg.addEventListener("pointerdown", (e) => { grip = { x: e.clientX, y: e.clientY, moved: false }; });
    this.svg.addEventListener("pointermove", (e) => {
      if (!grip || !e.buttons) return;
      const [dx, dy] = [e.clientX - grip.x, e.clientY - grip.y];
      if (Math.abs(dx) + Math.abs(dy) > 3) grip.moved = true;
      if (!grip.moved) return;
      this.at.x += dx;
      this.at.y += dy;
      grip.x = e.clientX;
      grip.y = e.clientY;
      this.move();
    });
    this.svg.addEventListener("click", (e) => { if (grip?.moved) e.stopPropagation(); }, true);
    this.svg.addEventListener("wheel", (e) => {
      e.preventDefault();
      const box = this.svg.getBoundingClientRect();
      this.zoom(Math.exp(-e.deltaY * 0.0015), e.clientX - box.left, e.clientY - box.top);
    }, { passive: false });
  }

  move() {
    this.layer.setAttribute("transform", `translate(${this.at.x} ${this.at.y}) scale(${this.at.k})`);
  }

  zoom(by, x = this.svg.clientWidth / 2, y = this.svg.clientHeight / 2) {
    const k = Math.min(4, Math.max(0.03, this.at.k * by));
    this.at.x = x - ((x - this.at.x) * k) / this.at.k;
    this.at.y = y - ((y - this.at.y) * k) / this.at.k;
    this.at.k = k;
    this.move();
  }

  fit() {
    const { width, height } = this.size;
    const [w, h] = [this.svg.clientWidth || 600, this.svg.clientHeight || 600];
    const k = Math.min(1.15, (w - 40) / width, (h - 90) / height);
    this.at = { k, x: (w - width * k) / 2, y: Math.max(20, (h - 50 - height * k) / 2) };
    this.move();
  }

  // Wide enough to be read, from the top.
  begin() {
    const w = this.svg.clientWidth || 600;
    const k = Math.min(1, (w - 40) / this.size.width);
    if (k < 0.6 || this.size.height * k < this.svg.clientHeight) return this.fit();
    this.at = { k, x: (w - this.size.width * k) / 2, y: 20 };
    this.move();
  }

  isOpen(block) {
    if (this.open.has(block.id)) return this.open.get(block.id);
    return block.size > SMALL_BLOCK || treeAt(this.stage).root.size <= SMALL_GRAPH;
  }

  openAll(open) {
    const visit = (block) => {
      if (block.id) this.open.set(block.id, open);
      block.blocks.forEach(visit);
    };
    visit(treeAt(this.stage).root);
    this.layout();
    this.begin();
  }

  toggle(id, open) {
    this.open.set(id, open);
    this.layout();
  }

  // The closed block that hides an operation, or null.
  hidden(name) {
    const path = [];
    for (let b = treeAt(this.stage).home.get(name); b && b.id; b = b.parent) path.unshift(b);
    return path.find((b) => b.size >= BLOCK && !this.isOpen(b)) || null;
  }

  reveal(name) {
    let changed = false;
    for (let block = this.hidden(name); block; block = this.hidden(name)) {
      this.open.set(block.id, true);
      changed = true;
    }
    return changed;
  }

  display(stage) {
    const first = this.stage === null;
    this.stage = stage;
    this.layout();
    if (first || !this.kept()) this.begin();
  }

  // Whether something of the graph is still to be seen.
  kept() {
    const { x, y, k } = this.at;
    return x + this.size.width * k > 60 && y + this.size.height * k > 60 && x < this.svg.clientWidth - 60 && y < this.svg.clientHeight - 60;
  }

  // Boxes and edges of what is open.
  boxes() {
    const graph = graphAt(this.stage);
    const place = new Map();
    const boxes = new Map();
    for (const node of graph.nodes.values()) {
      const block = this.hidden(node.name);
      const id = block ? `block ${block.id}` : node.name;
      place.set(node.name, id);
      if (!boxes.has(id)) boxes.set(id, { id, block, nodes: [], from: new Set() });
      boxes.get(id).nodes.push(node);
    }
    for (const node of graph.nodes.values()) {
      for (const operand of node.operands) {
        const source = place.get(operand.name);
        if (source && source !== place.get(node.name)) boxes.get(place.get(node.name)).from.add(source);
      }
    }
    graph.outputs.forEach((name, i) => {
      const source = place.get(name);
      boxes.set(`output ${i}`, { id: `output ${i}`, output: name, nodes: [], from: new Set(source ? [source] : []) });
    });
    return { boxes, place };
  }

  layout() {
    const { boxes, place } = this.boxes();
    this.place = place;
    const rank = new Map();
    // Blocks may depend on each other in circles; each box is visited once.
    const rankOf = (id) => {
      const open = [id];
      while (open.length) {
        const top = open[open.length - 1];
        const waiting = [...boxes.get(top).from].filter((s) => !rank.has(s) && !open.includes(s));
        if (waiting.length) open.push(waiting[0]);
        else {
          rank.set(top, 1 + Math.max(-1, ...[...boxes.get(top).from].map((s) => rank.get(s) ?? -1)));
          open.pop();
        }
      }
    };
    for (const id of boxes.keys()) if (!rank.has(id)) rankOf(id);
    const g = new dagre.graphlib.Graph();
    g.setGraph({ rankdir: "TB", nodesep: 22, ranksep: 26, edgesep: 8, ranker: boxes.size > 150 ? "longest-path" : "network-simplex" });
    g.setDefaultEdgeLabel(() => ({}));
    for (const box of boxes.values()) {
      box.lines = this.label(box);
      const width = Math.max(70, ...box.lines.map((l, i) => l.length * (i === 0 ? 7 : i === 1 ? 6.2 : 5.8) + 20));
      g.setNode(box.id, { width, height: 8 + 13 * box.lines.length });
    }
    const far = [];
    for (const box of boxes.values()) {
      const sources = [...box.from].sort((a, b) => rank.get(b) - rank.get(a));
      sources.forEach((source, i) => {
        const isFar = rank.get(box.id) - rank.get(source) > FAR || i >= NEAREST && sources.length > OPERANDS;
        if (i > 0 && isFar) far.push([source, box.id]);
        else g.setEdge(source, box.id);
      });
    }
    dagre.layout(g);
    this.drawn = { boxes, g, far };
    const { width, height } = g.graph();
    this.size = { width: Math.max(1, width || 1), height: Math.max(1, height || 1) };
    this.paint();
  }

  label(box) {
    if (box.output) return ["output", box.output.slice(-26)];
    if (box.block) return [`▸ ${box.block.label}`, `${box.nodes.length} operations`];
    const node = box.nodes[0];
    const parts = node.origin ? node.origin.name.split("/").filter(Boolean) : [];
    const place = parts.length > 1 ? parts[parts.length - 2] : node.name;
    const { shape, element } = node.value;
    const kind = element.startsWith("!quant.uniform<") ? element.slice(15).split(":")[0] : element.startsWith("!quant.cal") ? "f32 in a range" : element;
    return [node.op, place.length > 28 ? `…${place.slice(-27)}` : place, `${kind} ${shape.replaceAll(" × ", "×")}`];
  }

  paint() {
    const { boxes, g, far } = this.drawn;
    const changed = changedAt(this.stage);
    const colour = COLOURS[this.colour || "state"];
    const edges = [];
    const edge = (from, to, points, isFar) => {
      const path = points.map((p, i) => `${i ? "L" : "M"}${p.x.toFixed(1)} ${p.y.toFixed(1)}`).join("");
      const near = this.near && (this.near === from || this.near === to);
      edges.push(draw("path", { class: `edge${isFar ? " far" : ""}${near ? " near" : ""}`, d: path, "marker-end": "url(#arrow)" }));
    };
    for (const e of g.edges()) edge(e.v, e.w, g.edge(e).points);
    const few = far.length <= FAR_EDGES;
    for (const [from, to] of far.filter((e) => few || e.includes(this.near))) {
      const [a, b] = [g.node(from), g.node(to)];
      const side = Math.max(a.x + a.width / 2, b.x + b.width / 2) + 30;
      edge(from, to, [{ x: a.x + a.width / 2, y: a.y }, { x: side, y: a.y + 14 }, { x: side, y: b.y - 14 }, { x: b.x + b.width / 2, y: b.y }], true);
    }
    const nodes = [...boxes.values()].map((box) => this.box(box, g.node(box.id), colour, changed));
    show(this.layer, edges, nodes);
    const missing = colour.missing && colour.missing();
    show(this.legend, missing ? make("span", { class: "faint" }, `${colour.label}: ${missing}`) : colour.legend().map(([c, text]) => make("span", {}, make("i", { style: `background:${c}` }), text)),
      changed.size ? make("span", {}, make("i", { style: "border:2px solid light-dark(#c0392b, #ff8a75)" }), "changed by this pass") : null,
      few ? null : make("span", { class: "faint" }, `${far.length} long edges: drawn for what is selected`));
    this.move();
  }

  box(box, place, colour, changed) {
    const isChanged = box.nodes.some((n) => changed.has(n.name));
    const isSelected = box.nodes.some((n) => n.name === this.selected) || box.output !== undefined && box.output === this.selected && !this.place.has(box.output);
    const strongest = box.nodes.length ? this.strongest(box.nodes, colour) : PLAIN;
    const kind = `node${box.block ? " group" : ""}${isChanged ? " changed" : ""}${isSelected ? " selected" : ""}`;
    const title = box.block ? `${box.block.id}: click to open` : box.nodes[0] ? `%${box.nodes[0].name}` : box.output;
    const text = box.lines.map((line, i) => draw("text", { class: i === 0 ? "what" : i === 2 ? "small" : "", x: 9 - place.width / 2, y: 15 - place.height / 2 + 13 * i }, line));
    const act = () => (box.block ? this.toggle(box.block.id, true) : this.onSelect(box.output || box.nodes[0].name));
    return draw("g", { class: kind, transform: `translate(${place.x} ${place.y})`, "data-name": box.block ? box.block.id : box.output || box.nodes[0].name, onclick: act },
      draw("title", {}, title), draw("rect", { x: -place.width / 2, y: -place.height / 2, width: place.width, height: place.height, style: `fill:${strongest}` }), text);
  }

  // Of a block the colour of the operation that stands out, which is the last one where colours have no order.
  strongest(nodes, colour) {
    const worth = (n) => (colour === COLOURS.damage ? damageOf(n.name, this.stage) : colour === COLOURS.time ? { share: timeOf(n.name, this.stage) } : null);
    const value = (n) => { const w = worth(n); return w ? w.share ?? w.loss ?? 0 : 0; };
    const best = nodes.reduce((a, b) => (value(b) >= value(a) ? b : a));
    return colour.of(best, this.stage);
  }

  select(name) {
    this.selected = name;
    if (name === null || !graphAt(this.stage).nodes.has(name)) {
      this.near = null;
      return this.paint();
    }
    if (this.reveal(name)) this.layout();
    this.near = this.place.get(name);
    this.paint();
    const box = this.drawn.g.node(this.near);
    const [x, y] = [this.at.x + box.x * this.at.k, this.at.y + box.y * this.at.k];
    const [w, h] = [this.svg.clientWidth, this.svg.clientHeight];
    if (x < 40 || y < 40 || x > w - 40 || y > h - 60 || this.at.k < 0.35) {
      this.at.k = Math.max(this.at.k, 0.8);
      this.at.x = w / 2 - box.x * this.at.k;
      this.at.y = h / 2 - box.y * this.at.k;
      this.move();
    }
  }
}
