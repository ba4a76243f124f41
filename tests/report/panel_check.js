"use strict";
// Run by test_view_instants.py with the page's folder, a file of its data, and instants: what the panel says at each.
const fs = require("fs"), path = require("path"), [, , folder, file, ...instants] = process.argv;

// As much of an element as the panel writes into.
class Node {
  constructor() { this.parts = []; this.style = {}; this.children = []; }
  set textContent(text) { this.parts = text === "" ? [] : [text]; }
  get textContent() { return this.parts.map((part) => (part instanceof Node ? part.textContent : String(part))).join(""); }
  append(...parts) { this.parts.push(...parts); }
  addEventListener() {}
  getContext() { return {}; }
}
const nodes = new Map(), byId = (id) => (nodes.has(id) ? nodes : nodes.set(id, new Node())).get(id);
byId("data").textContent = fs.readFileSync(file, "utf8");
const document = { getElementById: byId, createElement: () => new Node() };
const parts = ["series.js", "lanes.js", "panel.js", "view.js"].map((name) => fs.readFileSync(path.join(folder, name), "utf8"));
const script = parts.join("").replace(/^derive\(\);.*$/m, "derive();"); // without drawing
const names = "v, provenance, commandAt, tellThoughts, reasonsAt, modeAt, SOURCE_COLOUR";
const page = new Function("document", `${script}; return { ${names} };`)(document);
const said = instants.map(Number).map((at) => {
  page.v.at = at;
  const command = page.commandAt(at), mode = page.modeAt(at);
  page.tellThoughts(command);
  return {
    provenance: Object.fromEntries(page.provenance(command)), intent: byId("intent").textContent, thought: byId("thought").textContent,
    next: byId("next").textContent, mode: mode ? mode[2] : null, reasons: mode ? page.reasonsAt(mode, at).map((reason) => reason[0]) : [],
  };
});
console.log(JSON.stringify({ said, inForce: page.v.inForce, colours: page.v.data.sources.map((source) => page.SOURCE_COLOUR[source] || null) }));
