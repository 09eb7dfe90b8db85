// What a person does with the page: each step writes what it shows then.
{
  const lines = [];
  const say = (what, found) => lines.push(`${what}: ${found}`);
  const press = (key, at = document.body) => at.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const heading = () => document.querySelector("#inspector h2")?.textContent.replace(/^%/, "");
  const click = (element) => element.dispatchEvent(new MouseEvent("click", { bubbles: true }));
  const stage = () => [...document.querySelectorAll(".pass")].findIndex((p) => p.getAttribute("aria-current") === "true");
  const find = (text) => {
    press("/");
    const field = document.getElementById("search");
    field.value = text;
    field.dispatchEvent(new Event("input"));
    press("Enter", field);
  };
  try {
    say("ready after ms", Math.round(performance.now()));
    press("e");
    const nodes = [...document.querySelectorAll(".node:not(.group)")];
    const node = nodes.find((n) => n.querySelector(".what").textContent.startsWith("int.q")) || nodes.find((n) => n.querySelector(".what").textContent.startsWith("nn."));
    say("clicked", node.dataset.name);
    click(node);
    say("inspected", heading());
    const stages = [stage()];
    for (const key of ["k", "k", "j"]) {
      press(key);
      stages.push(stage());
    }
    say("passes stepped", stages.join(" "));
    press("Escape");
    say("escaped", heading() === undefined || !document.querySelector(".node.selected") ? "nothing selected" : heading());
    find("/layers/layers.1/conv1/Conv");
    say("searched", heading());
    say("at import", document.getElementById("onnx")?.textContent);
    const became = [...document.querySelectorAll("#inspector dd .link.mono")].filter((b) => b.textContent.startsWith("%")).at(-1);
    const rows = [...document.querySelectorAll("#inspector dt")];
    const heir = rows.find((d) => d.textContent === "becomes")?.nextSibling.querySelector("button");
    say("does its work", heir?.textContent.replace(/^%/, ""));
    const symbol = [...document.querySelectorAll("#inspector dt")].find((d) => d.textContent === "symbol")?.nextSibling.querySelector("button");
    say("symbol", symbol?.textContent);
    say("multiplier", document.getElementById("multiplier")?.textContent);
    const channel = document.querySelector("#inspector input[type=number]");
    if (channel) {
      channel.value = "3";
      channel.dispatchEvent(new Event("input"));
      say("multiplier of channel 3", document.getElementById("multiplier")?.textContent);
    }
    if (symbol) {
      click(symbol);
      say("instructions", document.getElementById("disassembly").textContent.trim().split("\n").length);
    }
    press("t");
    for (let i = 0; i < 40 && stage() > 1; i++) press("k");
    for (let i = 0; i < 40 && !document.querySelector(".rows .old"); i++) press("j");
    const old = document.querySelector(".rows .old");
    say("changed lines stand beside each other", old && (old.nextSibling.className === "new" || old.nextSibling.className === "blank") ? "yes" : "no");
    press("l");
    say("layers", document.querySelectorAll("tr.row").length);
    press("m");
    say("buffers", document.querySelectorAll(".chart rect").length);
    press("g");
    const colour = () => getComputedStyle(document.body).backgroundColor;
    const before = colour();
    press("d");
    say("themes differ", before !== colour() ? "yes" : "no");
    for (let i = 0; i < 4; i++) press("x");
    press("c");
    press("f");
  } catch (error) {
    window.faults.push(error.stack);
  }
  say("faults", window.faults.length ? window.faults.join("; ") : "none");
  const out = document.createElement("pre");
  out.id = "found-by-test";
  out.textContent = lines.join("\n");
  document.body.append(out);
}
