// The model through all passes: what became of a value, where it comes from, and what is known of it.

const data = JSON.parse(byId("data").textContent);
const stageTexts = texts(data.stages);
const last = data.stages.length - 1;
const graphs = new Map();

function graphAt(stage) {
  if (!graphs.has(stage)) graphs.set(stage, readGraph(stageTexts[stage].lines));
  return graphs.get(stage);
}

const tasksOf = new Map();
for (const task of data.program ? data.program.tasks : []) {
  if (!tasksOf.has(task.value)) tasksOf.set(task.value, []);
  tasksOf.get(task.value).push(task);
}
const measured = (data.program ? data.program.tasks : []).some((t) => t.measured);
const totalTime = (data.program ? data.program.tasks : []).reduce((sum, t) => sum + (t.measured ? t.measured.ms : 0), 0);

const has = (stage, name) => graphAt(stage).nodes.has(name);

// What does the work of a value of one stage in a later one.
function forward(name, from, to) {
  let names = [name];
  for (let stage = from + 1; stage <= to; stage++) {
    const became = data.stages[stage].became;
    names = [...new Set(names.flatMap((n) => (Object.hasOwn(became, n) && !has(stage, n) ? became[n] : [n])))];
  }
  return names.filter((n) => has(to, n));
}

// What a value of one stage was in an earlier one: the same name, the name without suffixes, or the same ONNX node.
function backward(name, from, to) {
  const origin = graphAt(from).nodes.get(name)?.origin;
  for (let n = name; n; n = n.includes(".") ? n.slice(0, n.lastIndexOf(".")) : "") {
    if (has(to, n)) return [n];
  }
  if (!origin) return [];
  return [...graphAt(to).nodes.values()].filter((n) => n.origin?.name === origin.name).map((n) => n.name);
}

const across = (name, from, to) => (from === to ? [name] : from < to ? forward(name, from, to) : backward(name, from, to));

const ends = new Map();

// What is known at the end of a value of a stage: of the value of the integer graph that does its work.
function finals(name, stage) {
  const key = stage + " " + name;
  if (!ends.has(key)) ends.set(key, forward(name, stage, last));
  return ends.get(key);
}

const firstOf = (map, names) => names.map((n) => map[n]).find((x) => x !== undefined);
const layerOf = (name, stage) => firstOf(data.values.layers, finals(name, stage));
const tasksFor = (name, stage) => finals(name, stage).flatMap((n) => tasksOf.get(n) || []);

function timeOf(name, stage) {
  const tasks = tasksFor(name, stage).filter((t) => t.measured);
  return tasks.length ? tasks.reduce((sum, t) => sum + t.measured.ms, 0) : null;
}

// Share of the damage to the outputs, or else decibels that are lost at a value.
function damageOf(name, stage) {
  const layer = layerOf(name, stage);
  if (!layer) return null;
  return layer.damage ? { share: layer.damage.share, text: `${(100 * layer.damage.share).toFixed(1)} % of the noise` } : { loss: layer.loss_db, text: `${layer.loss_db.toFixed(1)} dB lost here` };
}
const hasDamage = Object.values(data.values.layers).some((l) => l.damage);
const greatestShare = Math.max(1e-9, ...Object.values(data.values.layers).map((l) => (l.damage ? l.damage.share : 0)));

// Names of lines that a pass added or changed.
const changes = new Map();
function changedAt(stage) {
  if (!changes.has(stage)) {
    const { lines, origin, before } = stageTexts[stage];
    const found = new Set();
    if (stage > 0) {
      lines.forEach((line, i) => {
        if (line.startsWith("  %") && (origin[i] < 0 || before[origin[i]] !== line)) found.add(plain(nameAt(line, 2)));
      });
    }
    changes.set(stage, found);
  }
  return changes.get(stage);
}

// The modules that a node lies in: of `/layer1/layer1.0/conv1/Conv` these are `layer1`, `layer1/layer1.0` and `layer1/layer1.0/conv1`.
function modules(name) {
  const parts = name.split("/").filter(Boolean);
  return parts.slice(0, -1);
}

// Blocks: a tree of modules whose leaves are operations. Operations without an origin lie where their first operand does.
const trees = new Map();
function treeAt(stage) {
  if (trees.has(stage)) return trees.get(stage);
  const graph = graphAt(stage);
  const root = { id: "", label: "", parent: null, blocks: new Map(), own: [], size: 0 };
  const home = new Map();
  for (const node of graph.nodes.values()) {
    let block = root;
    const path = node.origin ? modules(node.origin.name) : null;
    if (path) {
      for (const part of path) {
        const id = block.id ? `${block.id}/${part}` : part;
        if (!block.blocks.has(part)) block.blocks.set(part, { id, label: part, parent: block, blocks: new Map(), own: [], size: 0 });
        block = block.blocks.get(part);
      }
    } else {
      const source = node.operands.find((o) => home.has(o.name) && graph.nodes.get(o.name).op !== "input");
      if (source) block = home.get(source.name);
    }
    block.own.push(node.name);
    home.set(node.name, block);
    for (let b = block; b; b = b.parent) b.size++;
  }
  const tree = { root, home };
  trees.set(stage, tree);
  return tree;
}

// What a search looks through.
let searchable = null;
function entries() {
  if (searchable) return searchable;
  searchable = [];
  const seen = new Set();
  const add = (text, kind, go) => {
    const key = kind + " " + text;
    if (!seen.has(key)) {
      seen.add(key);
      searchable.push({ text, kind, go });
    }
  };
  for (const node of graphAt(0).nodes.values()) {
    if (node.origin) add(node.origin.name, `ONNX ${node.origin.op}`, { stage: 0, name: node.name });
  }
  for (const task of data.program ? data.program.tasks : []) add(task.symbol, "symbol", { symbol: task.symbol, name: task.value });
  for (const symbol of Object.keys(data.program ? data.program.functions : {})) add(symbol, "symbol", { symbol });
  for (const stage of [0, last, ...data.stages.keys()]) {
    for (const node of graphAt(stage).nodes.values()) add(node.name, node.op, { stage, name: node.name });
  }
  data.stages.forEach((stage, i) => add(stage.title, "pass", { pass: i }));
  return searchable;
}
