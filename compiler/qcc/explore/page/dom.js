"use strict";
// Elements. Whatever comes from a model becomes text, never markup.

const byId = (id) => document.getElementById(id);

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style") element.style.cssText = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  for (const child of [children ?? []].flat(Infinity)) {
    if (child !== null && child !== undefined) element.append(child);
  }
  return element;
}

const make = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const show = (element, ...children) => element.replaceChildren(...children.flat(Infinity).filter((c) => c !== null && c !== undefined));

const count = new Intl.NumberFormat("en");
const whole = (n) => count.format(n);

function bytes(n) {
  if (n < 1024) return `${n} B`;
  return n < 1 << 20 ? `${(n / 1024).toFixed(1)} KiB` : `${(n / (1 << 20)).toFixed(1)} MiB`;
}

function short(x) {
  if (x === null || x === undefined) return "?";
  const size = Math.abs(x);
  if (x === 0 || Number.isInteger(x) && size < 1e6) return String(x);
  return size < 1e-3 || size >= 1e6 ? x.toExponential(3) : x.toPrecision(4);
}

const decibels = (x) => (x === null || x === undefined ? "no noise" : `${x.toFixed(1)} dB`);

// A histogram whose bars lie between `min` and `max`.
function bars(histogram) {
  const { min, max, shares } = histogram;
  const top = Math.max(...shares, 1e-9);
  const width = 348 / shares.length;
  // By the square root: what is rare stays visible.
  const boxes = shares.map((s, i) => {
    const height = s > 0 ? Math.max(1, 48 * Math.sqrt(s / top)) : 0;
    const title = `${short(min + ((max - min) * i) / shares.length)} .. : ${(100 * s).toFixed(2)} %`;
    return draw("rect", { x: i * width, y: 50 - height, width: Math.max(0.5, width - 0.6), height }, draw("title", {}, title));
  });
  return draw("svg", { class: "bars", viewBox: "0 0 348 66", role: "img", "aria-label": `histogram from ${short(min)} to ${short(max)}` }, boxes,
    draw("text", { x: 0, y: 63 }, short(min)), draw("text", { x: 348, y: 63, "text-anchor": "end" }, short(max)));
}
