// Everything that is known of the selected value.

// Operators that end in equations (1) to (4) of docs/math.md, with multipliers as an operand at this place.
const REQUANTIZING = { "int.qconv2d": 3, "int.qlinear": 3, "int.requant": 1, "int.average_pool": 1 };

// An equation whose filled-in numbers stand out: what is between backticks.
const equation = (text) => make("code", { class: "equation" }, text.split("`").map((part, i) => (i % 2 ? make("b", {}, part) : part)));

const entry = (name, ...value) => [make("dt", {}, name), make("dd", {}, value)];

function section(title, ...children) {
  const list = children.flat(Infinity).filter((c) => c !== null && c !== undefined);
  return list.length ? [make("h3", {}, title), list] : [];
}

// Numbers of the constant that is operand `place` of a node, by channel.
const constantOf = (node, place) => data.values.constants[node.operands[place]?.name];

// How the codes of a value follow from its operands, with the numbers of a channel in place of letters.
function arithmetic(node, channel, choose) {
  const number = (key, otherwise) => attribute(node, key, otherwise);
  const [lo, hi] = [number("lo", 0), number("hi", 255)];
  const place = REQUANTIZING[node.op];
  const out = [];
  if (place !== undefined && !node.attributes.includes("f32_fraction_bits") && constantOf(node, place)) {
    const factors = constantOf(node, place);
    const c = Math.min(channel, factors.length - 1);
    const a = number("shl", 0);
    const residual = number("residual_mult", 0);
    const bias = node.op === "int.qconv2d" || node.op === "int.qlinear" ? constantOf(node, 2) : null;
    const sum = node.op === "int.average_pool" ? `sum of (x - \`${number("zero", 0)}\`) over the window` : node.op === "int.requant" ? "acc" : `sum of x · w + \`${bias ? bias[c] : "bias"}\``;
    out.push(equation(`acc  = ${sum}`));
    out.push(equation(`t = floor(acc · 2^\`${a}\` · \`${factors[c]}\` / 2^32)`));
    if (residual) out.push(equation(`u = t + floor(residual · \`${residual}\` / 2^8)`));
    out.push(equation(`code = min(max(floor((${residual ? "u" : "t"} + \`${number("offset", 0)}\`) / 2^6), \`${lo}\`), \`${hi}\`)`));
    const factor = factors[c] * 2 ** (a - 38);
    const facts = [entry("multiplier", make("span", { id: "multiplier" }, String(factors[c]))), entry("shift", `${a} to the left, then ${38} to the right`), entry("together", `× ${factor.toPrecision(7)}`)];
    if (factors.length > 1) {
      const field = make("input", { type: "number", min: 0, max: factors.length - 1, value: c, style: "width:76px", "aria-label": "channel", oninput: (e) => choose(Number(e.target.value) || 0) });
      facts.unshift(entry("channel", field, ` of ${factors.length}`));
    }
    out.push(make("dl", { style: "margin-top:6px" }, facts));
    return out;
  }
  if (node.op === "int.add") {
    const [a, b] = number("mults", [0, 0]);
    out.push(equation(`code = min(max(floor((a · \`${a}\` + b · \`${b}\` + \`${number("offset", 0)}\`) / 2^\`${number("shift", 0)}\`), \`${lo}\`), \`${hi}\`)`));
  } else if (node.op === "int.rescale") {
    out.push(equation(`code = min(max(floor((x · \`${number("mult", 0)}\` + \`${number("offset", 0)}\`) / 2^\`${number("shift", 0)}\`), \`${lo}\`), \`${hi}\`)`));
  } else if (node.op === "int.mul" || node.op === "int.mean" || node.op === "int.qmatmul") {
    const [za, zb] = number("zeros", [0, 0]);
    const sum = node.op === "int.mean" ? `sum of (x - \`${number("zero", 0)}\`)` : `${node.op === "int.qmatmul" ? "sum of " : ""}(a - \`${za}\`) · (b - \`${zb}\`)`;
    out.push(equation(`acc  = ${sum}`), equation(`code = min(max(floor((floor(acc · 2^\`${number("shl", 0)}\` · \`${number("mult", 0)}\` / 2^32) + \`${number("offset", 0)}\`) / 2^6), \`${lo}\`), \`${hi}\`)`));
  } else if (node.op === "int.clamp") {
    out.push(equation(`code = min(max(x, \`${lo}\`), \`${hi}\`)`));
  } else if (node.op === "int.lut") {
    out.push(equation("code = table[x]"));
  }
  return out;
}

// What part of 32 bits accumulators may take.
function room(name) {
  const bounds = data.values.accumulators[name];
  if (!bounds) return [];
  const greatest = Math.max(bounds[1], -bounds[0] - 1, 0);
  const margin = 31 - Math.ceil(Math.log2(greatest + 1));
  const percent = (x) => 50 + (50 * Math.sign(x) * Math.log2(Math.abs(x) + 1)) / 31;
  const bar = make("div", { class: "gauge", title: "by powers of two, from -2^31 to 2^31" }, make("i", { style: `left:${percent(bounds[0])}%;right:${100 - percent(bounds[1])}%` }));
  return [make("dl", {}, entry("possible", `${whole(bounds[0])} to ${whole(bounds[1])}`), entry("margin", `${margin} bits of 32`)), bar];
}

function memory(name, go) {
  const arena = data.program && data.program.arena;
  const buffers = arena ? arena.buffers.filter((b) => b.name === name || b.name === `${name}.scratch`) : [];
  return buffers.map((b) => make("dl", {}, entry(b.name === name ? "arena" : "scratch", `at ${whole(b.offset)}, ${bytes(b.bytes)}`), entry("alive", `step ${b.life[0]} to ${b.life[1]} of ${arena.steps.length} `, make("button", { class: "link", onclick: () => go({ tab: "memory" }) }, "chart"))));
}

function kernels(tasks, go) {
  return tasks.map((t) => make("dl", { style: "margin-bottom:6px" },
    entry("symbol", make("button", { class: "link mono", onclick: () => go({ symbol: t.symbol }) }, t.symbol)),
    entry("kernel", t.kernel),
    t.macs ? entry("work", `${whole(t.macs)} MAC${t.products !== t.macs ? `, ${whole(t.products)} multiplications done` : ""}`) : null,
    t.weight_bytes ? entry("weights", `${bytes(t.weight_bytes)}${t.weight_bits ? ` of ${t.weight_bits} bits` : ""}`) : null,
    entry("activations", `${bytes(t.input_bytes)} in, ${bytes(t.output_bytes)} out`),
    t.measured ? entry("time", `${t.measured.ms.toFixed(4)} ms, ${(100 * t.measured.ms / totalTime).toFixed(1)} % of all`) : null,
    t.measured ? entry("limit", `bound by ${t.measured.bound}, of which ${(100 * t.measured.bound_fraction).toFixed(0)} % is reached${t.macs ? `; ${(100 * t.measured.peak_fraction).toFixed(0)} % of the multipliers` : ""}`) : null,
    t.calls.length ? entry("calls", t.calls.map((c) => [make("button", { class: "link mono", onclick: () => go({ symbol: c }) }, c), " "])) : null));
}

function accuracy(layer) {
  if (!layer) return [];
  const d = layer.damage;
  return [make("dl", {},
    entry("SQNR", `${decibels(layer.sqnr_db)}, ${layer.loss_db.toFixed(1)} dB lost here`),
    d ? entry("damage", `${(100 * d.share).toFixed(1)} % of the noise at the output, ${(100 * d.weights_share).toFixed(0)} % of it by weights`) : null,
    d ? entry("cause", d.cause.text) : null,
    d && d.remedy ? entry("remedy", make("code", {}, d.remedy.flag), d.remedy.sqnr_db !== null ? ` gives ${d.remedy.sqnr_db.toFixed(1)} dB${d.remedy.verified ? "" : ", as expected"}` : "") : null,
    entry("float", `${short(layer.float_range[0])} to ${short(layer.float_range[1])}`),
    entry("codes hold", `${short(layer.int_range[0])} to ${short(layer.int_range[1])}`))];
}

// Where the value, and what did its work before and does it later, was changed.
function life(name, stage, go) {
  const rows = [];
  data.stages.forEach((s, i) => {
    const names = across(name, stage, i);
    const gone = i > 0 ? across(name, stage, i - 1).filter((n) => Object.hasOwn(s.became, n)) : [];
    const touched = names.filter((n) => changedAt(i).has(n));
    const edits = s.edits.filter((e) => [...names, ...gone].some((n) => e.split(/[\s,:]+/).includes("%" + n)));
    if (i > 0 && !gone.length && !touched.length && !edits.length) return;
    const text = i === 0 ? "read" : gone.length ? `into ${names.map((n) => "%" + n).join(", ") || "nothing"}` : edits.length ? edits[0].replace(/^[\w-]+: /, "") : "changed";
    rows.push(make("li", {}, make("button", { class: "link", onclick: () => go({ stage: i, name: names[0] ?? null, anchor: false }) }, `${String(i).padStart(2, "0")} ${s.pass}`), make("span", { class: "faint" }, ` ${text}`)));
  });
  return rows.length ? [make("ul", { class: "life" }, rows)] : [];
}

function inspect(state, go) {
  const { stage, selected } = state;
  const graph = graphAt(stage);
  const node = selected === null ? null : graph.nodes.get(selected);
  if (!node) return overview(state, go);
  const value = node.value;
  const end = finals(selected, stage);
  const codes = end.find((n) => data.values.codes[n]);
  const source = across(selected, stage, 0).find((n) => data.values.floats[n]);
  const link = (name, at = stage) => make("button", { class: "link mono", onclick: () => go({ stage: at, name }) }, "%" + name);
  const final = stage === last ? node : graphAt(last).nodes.get(end[0]);
  const tasks = tasksFor(selected, stage);
  const block = treeAt(stage).home.get(selected);
  const weights = final ? final.operands.filter((o) => o.constant && data.values.weights[o.name]) : [];
  const about = data.operators[node.op]?.replaceAll("`", "");
  const operands = node.operands.map((o) => [o.constant ? make("span", { class: "mono" }, "@" + o.name) : link(o.name), make("br")]);
  const readers = [...new Set(graph.readers.get(selected) || [])].map((r) => [link(r), make("br")]);
  return [
    make("h2", {}, "%" + selected),
    make("dl", {},
      entry("operator", make("b", {}, node.op), about ? make("div", { class: "faint" }, about.length > 220 ? about.slice(0, 220) + " .." : about) : null),
      node.origin ? entry("ONNX", make("button", { class: "link", id: "onnx", onclick: () => go({ stage: 0, name: across(selected, stage, 0)[0] ?? null, anchor: false }) }, node.origin.name), make("span", { class: "faint" }, ` ${node.origin.op}, opset ${node.origin.opset}`)) : null,
      block && block.id ? entry("block", make("button", { class: "link", title: "Close this block (Backspace)", onclick: () => go({ close: block.id }) }, block.id)) : null,
      entry("shape", value.shape),
      entry("element", make("span", { class: "mono" }, value.element.length > 90 ? value.element.slice(0, 90) + " .." : value.element)),
      value.scale ? entry("stands for", `${short(value.scale)} · (code - ${value.zero})`) : null,
      value.range ? entry("range", `${short(value.range[0])} to ${short(value.range[1])}`) : null,
      node.attributes ? entry("attributes", make("span", { class: "mono" }, node.attributes)) : null,
      operands.length ? entry("reads", operands) : null,
      readers.length ? entry("read by", readers) : null,
      stage !== last ? entry("becomes", end.length ? end.slice(0, 4).map((n) => [link(n, last), make("br")]) : "nothing: no output depends on it") : null),
    section("Arithmetic", final ? arithmetic(final, state.channel, (c) => go({ channel: c })) : []),
    section("Accumulator", end.slice(0, 1).map(room)),
    section("Accuracy", accuracy(layerOf(selected, stage))),
    section(`Float values${source && source !== selected ? ` of %${source}` : ""}`, source ? bars(data.values.floats[source]) : []),
    section(`Codes${codes && codes !== selected ? ` of %${codes}` : ""}`, codes ? bars(data.values.codes[codes]) : []),
    weights.map((w) => section(`Weights @${w.name}`, bars(data.values.weights[w.name]))),
    section("Machine code", kernels(tasks, go)),
    section("Memory", end.slice(0, 2).map((n) => memory(n, go))),
    section("Life", life(selected, stage, go)),
  ].flat(Infinity);
}

// The pass, where nothing is selected.
function overview(state, go) {
  const s = data.stages[state.stage];
  const graph = graphAt(state.stage);
  const operators = new Map();
  for (const node of graph.nodes.values()) if (node.op !== "input") operators.set(node.op, (operators.get(node.op) || 0) + 1);
  const sorted = [...operators].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  const worst = Object.values(data.values.layers).filter((l) => l.damage?.share > 0).sort((a, b) => b.damage.share - a.damage.share)[0];
  return [
    make("h2", {}, s.title),
    make("dl", {}, entry("time", `${s.ms.toFixed(1)} ms`), entry("edits", String(s.edits.length)), entry("operations", String([...operators.values()].reduce((a, b) => a + b, 0))),
      s.effect ? entry("outputs", `${decibels(s.effect[0])} against the model`) : null, s.effect && state.stage > 0 ? entry("spent here", s.effect[1] === null ? "nothing" : `${decibels(s.effect[1])} against the pass before`) : null),
    s.remarks.length ? section("Not done", s.remarks.map((r) => make("p", {}, r))) : [],
    section("Operators", make("dl", { style: "grid-template-columns:minmax(0,1fr) auto" }, sorted.map(([op, n]) => [make("dd", { class: "mono" }, op), make("dd", {}, String(n))]))),
    section("Model", make("dl", {}, entry("file", data.file), entry("values", data.values.samples ? `on ${data.values.samples}` : "were not evaluated"),
      data.program ? entry("target", data.program.target) : null, data.program ? entry("arena", `${bytes(data.program.arena.bytes)}, ${bytes(data.program.arena.unshared_bytes)} unshared`) : null,
      measured ? entry("time", `${totalTime.toFixed(3)} ms in ${data.program.tasks.length} steps`) : null,
      worst ? entry("most damage", make("button", { class: "link mono", onclick: () => go({ stage: last, name: worst.name }) }, "%" + worst.name), ` ${(100 * worst.damage.share).toFixed(1)} % of the noise`) : null)),
    make("p", { class: "faint" }, "Click an operation, or press / to search. ? shows all keys."),
  ].flat(Infinity);
}
