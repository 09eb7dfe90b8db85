// Texts of graphs: made again from what passes changed, and read.

// All texts, each a list of lines, by the differences between them.
function texts(stages) {
  let before = [];
  return stages.map((stage) => {
    const lines = [];
    const origin = [];
    let at = 0;
    for (const change of stage.text) {
      if (typeof change === "string") {
        lines.push(change);
        origin.push(-1);
      } else if (typeof change === "number") {
        if (change > 0) {
          for (let i = 0; i < change; i++) {
            lines.push(before[at + i]);
            origin.push(at + i);
          }
        }
        at += Math.abs(change);
      } else {
        lines.push(change[0]);
        origin.push(at);
        at += 1;
      }
    }
    const text = { lines, origin, before };
    before = lines;
    return text;
  });
}

const NAME = /[%@](?:"(?:[^"\\]|\\.)*"|[A-Za-z0-9_.$-]+)/y;

// A name without sigil and quotes.
function plain(name) {
  const bare = name.slice(1);
  if (!bare.startsWith('"')) return bare;
  return bare.slice(1, -1).replace(/\\u\{([0-9a-f]+)\}|\\(.)/g, (_, code, c) => (code ? String.fromCodePoint(parseInt(code, 16)) : c));
}

function nameAt(line, at) {
  NAME.lastIndex = at;
  const found = NAME.exec(line);
  return found && found[0];
}

// The end of what is in brackets that open at `at`.
function closing(line, at) {
  let depth = 0;
  for (let i = at; i < line.length; i++) {
    const c = line[i];
    if (c === '"') {
      for (i++; i < line.length && line[i] !== '"'; i++) if (line[i] === "\\") i++;
    } else if ("({[".includes(c)) depth++;
    else if (")}]".includes(c) && --depth === 0) return i;
  }
  return line.length;
}

// An operation by its line, or null.
function operation(line) {
  const name = nameAt(line, 2);
  if (!line.startsWith("  %") || !name) return null;
  let at = 2 + name.length;
  if (!line.startsWith(" = ", at)) return null;
  at += 3;
  const open = line.indexOf("(", at);
  const op = line.slice(at, open);
  const end = closing(line, open);
  const operands = [];
  for (at = open + 1; at < end; ) {
    const operand = nameAt(line, at);
    if (!operand) break;
    operands.push({ name: plain(operand), constant: operand[0] === "@" });
    at += operand.length + 2;
  }
  at = end + 1;
  let attributes = "";
  if (line.startsWith(" {", at)) {
    const close = closing(line, at + 1);
    attributes = line.slice(at + 2, close);
    at = close + 1;
  }
  let type = line.slice(at + 3);
  let origin = null;
  const loc = type.match(/ loc\(("(?:[^"\\]|\\.)*") (\S+) (-?\d+)\)$/);
  if (loc) {
    type = type.slice(0, loc.index);
    origin = { name: plain("%" + loc[1]), op: loc[2], opset: loc[3] };
  }
  return { name: plain(name), op, operands, attributes, type, origin };
}

// What an attribute's text says, as a number, a list of numbers, or text.
function attribute(node, key, otherwise) {
  const found = node.attributes.match(new RegExp(`(?:^|, )${key} = (\\[[^\\]]*\\]|[^,]*)`));
  if (!found) return otherwise;
  return found[1].startsWith("[") ? JSON.parse(found[1]) : Number(found[1]);
}

// Shape, element and numeric state of a type.
function readType(type, aliases) {
  const found = type.match(/^tensor<((?:\d+x)*)(.*)>$/);
  if (!found) return { shape: "", element: type, state: "real", bits: 0 };
  const shape = found[1].slice(0, -1).replaceAll("x", " × ") || "scalar";
  let element = found[2];
  const alias = element.match(/^!("(?:[^"\\]|\\.)*"|[A-Za-z0-9_.$-]+)$/);
  if (alias && aliases.has(alias[1])) element = aliases.get(alias[1]);
  const state = element.startsWith("!quant.uniform") ? "quantized" : element.startsWith("!quant.calibrated") ? "calibrated" : element === "f32" ? "real" : "integer";
  const stored = element.match(/^!quant\.uniform<([iu]\d+)/) || element.match(/^([iu]\d+)/);
  const bits = stored ? Number(stored[1].slice(1)) : state === "integer" ? 8 : 32;
  const one = element.match(/^!quant\.uniform<([^:>]*(?:<[^>]*>)?):f32, ([^:>]+)(?::(-?\d+))?>$/);
  const range = element.match(/^!quant\.calibrated<f32<(.*):(.*)>>$/);
  return {
    shape, element, state, bits,
    scale: one ? Number(one[2]) : null, zero: one ? Number(one[3] || 0) : null,
    range: range ? [Number(range[1]), Number(range[2])] : null,
  };
}

// A graph by its text.
function readGraph(lines) {
  const nodes = new Map();
  const aliases = new Map();
  const constants = new Map();
  const inputs = [];
  const outputs = [];
  lines.forEach((line, number) => {
    if (line.startsWith("!")) {
      const end = line.indexOf(" = ");
      aliases.set(line.slice(1, end), line.slice(end + 3));
    } else if (line.startsWith("graph ")) {
      const open = line.indexOf("(");
      const end = closing(line, open);
      for (let at = open + 1; at < end; ) {
        const name = nameAt(line, at);
        if (!name) break;
        let stop = at + name.length + 2;
        let depth = 0;
        while (stop < end && (depth > 0 || !line.startsWith(", ", stop) || line[stop + 2] !== "%")) {
          depth += line[stop] === "<" ? 1 : line[stop] === ">" ? -1 : 0;
          stop++;
        }
        const type = line.slice(at + name.length + 2, stop);
        inputs.push(plain(name));
        nodes.set(plain(name), { name: plain(name), op: "input", operands: [], attributes: "", type, origin: null, line: number });
        at = stop + 2;
      }
    } else if (line.startsWith("  const ")) {
      const name = nameAt(line, 8);
      if (name) constants.set(plain(name), { line: number, text: line.slice(8 + name.length + 3) });
    } else if (line.startsWith("  return")) {
      for (let at = 9; at < line.length; ) {
        const name = nameAt(line, at);
        if (!name) break;
        outputs.push(plain(name));
        at += name.length + 2;
      }
    } else {
      const node = operation(line);
      if (node) nodes.set(node.name, Object.assign(node, { line: number }));
    }
  });
  const isInteger = [...nodes.values()].some((n) => n.op.startsWith("int."));
  const readers = new Map();
  for (const node of nodes.values()) {
    node.value = readType(node.type, aliases);
    if (isInteger && node.value.state === "quantized") node.value.state = "integer";
    for (const operand of node.operands) {
      if (!readers.has(operand.name)) readers.set(operand.name, []);
      readers.get(operand.name).push(node.name);
    }
  }
  return { nodes, constants, inputs, outputs, readers };
}
