// What the colour of a node says.

const STATES = { real: "var(--real)", calibrated: "var(--calibrated)", quantized: "var(--quantized)", integer: "var(--integer)" };
const PLAIN = "var(--raised)";

// From the colour of paper to red, by a share from 0 to 1.
const heat = (share) => `color-mix(in oklab, var(--raised), light-dark(#d6402b, #e8604c) ${Math.round(100 * Math.min(1, Math.max(0, share)))}%)`;
const cool = (bits) => ({ 4: "light-dark(#c9b6f2, #5d4a94)", 8: "var(--integer)", 16: "light-dark(#7fd0c3, #23695e)", 32: "var(--real)" })[bits] || "var(--calibrated)";

const COLOURS = {
  state: {
    label: "numeric state",
    of: (node) => STATES[node.value.state],
    legend: () => Object.entries(STATES).map(([name, colour]) => [colour, name]),
  },
  bits: {
    label: "bits",
    of: (node) => cool(node.value.bits),
    legend: () => [4, 8, 16, 32].map((b) => [cool(b), `${b} bits`]),
  },
  damage: {
    label: "damage",
    of: (node, stage) => {
      const damage = damageOf(node.name, stage);
      if (!damage) return PLAIN;
      return heat(damage.share !== undefined ? Math.sqrt(damage.share / greatestShare) : damage.loss / 12);
    },
    legend: () => (hasDamage ? [[heat(0), "none"], [heat(0.5), `${(25 * greatestShare).toFixed(1)} % of the noise`], [heat(1), `${(100 * greatestShare).toFixed(1)} %`]] : [[heat(0), "0 dB lost here"], [heat(1), "12 dB and more"]]),
    missing: () => (Object.keys(data.values.layers).length ? null : "no samples were evaluated"),
  },
  time: {
    label: "time",
    of: (node, stage) => {
      const ms = timeOf(node.name, stage);
      return ms === null ? PLAIN : heat(Math.sqrt(ms / longest()));
    },
    legend: () => [[heat(0), "0 ms"], [heat(1), `${longest().toFixed(3)} ms`]],
    missing: () => (measured ? null : "not measured: qcc explore --bench"),
  },
};

let longestTime = 0;
function longest() {
  if (!longestTime) {
    for (const tasks of tasksOf.values()) longestTime = Math.max(longestTime, tasks.reduce((sum, t) => sum + (t.measured ? t.measured.ms : 0), 0));
  }
  return longestTime || 1;
}
