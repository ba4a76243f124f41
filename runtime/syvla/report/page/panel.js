"use strict";
// What stands beside the timeline: the instant of the playhead in words, the joints' table, what to look at first.

function clear(node) { node.textContent = ""; return node; }

function made(tag, text, name) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (name) node.className = name;
  return node;
}

function clockAt(t, digits) { return v.data.wall_ms === null ? "" : timeOfDay(v.data.wall_ms + 1000 * t, v.utc, digits); }

function stamp(t, digits) { return `${(t + v.data.at_s).toFixed(digits)} s`; }

function mrad(jump) { return jump === null ? "-" : `${(1000 * jump).toFixed(1)} mrad`; }

// The command in force at an instant, field by field; null where there is none.
function commandAt(t) {
  const all = v.column("command.t"), i = indexAt(all, t);
  if (i < 0 || t - all[i] > STALE_S) return null;
  const of = (name) => v.column(`command.${name}`)[i];
  return { i, t: all[i], source: v.data.sources[of("source")], chunk: of("chunk"), row: of("row"), splice: of("splice"), intent: of("intent"),
    thoughtAt: of("thought_at"), chunkAt: of("chunk_at"), spliceAt: of("splice_at"),
    override: of("override"), seen: of("seen"), age: of("age"), limited: of("limited") };
}

// Where a command came from, as pairs of name and words.
function provenance(c) {
  if (!c) return [["", "no command at this instant"]];
  const chunk = v.data.chunks[c.chunkAt], splice = v.data.splices[c.spliceAt], pairs = [["by", c.source]];
  if (!Number.isNaN(c.seen)) pairs.push(["observation", `${stamp(c.seen, 3)} (${((c.t - c.seen) * 1000).toFixed(0)} ms before)`]);
  if (c.intent >= 0) pairs.push(["intent", Number.isNaN(c.age) ? `${c.intent}` : `${c.intent}, ${c.age.toFixed(3)} s old`]);
  if (c.chunk >= 0) pairs.push(["chunk", `${c.chunk}, row ${c.row}${chunk ? ` of ${chunk[5]}` : ""}`]);
  if (splice) pairs.push(["splice", `${c.splice} at ${stamp(splice[0], 3)}, ${splice[6]} rows late, jump ${mrad(splice[7])}`]);
  else if (c.splice >= 0) pairs.push(["splice", `${c.splice}`]);
  if (c.override >= 0) pairs.push(["override", `${c.override}`]);
  const limited = v.data.joints.filter((_, j) => c.limited >> j & 1);
  if (limited.length) pairs.push(["limited", limited.join(", ")]);
  return pairs;
}

// Those that were named at an instant of a mode.
function reasonsAt(mode, t) { return mode[3].filter(([, , , spans]) => spans.some(([from, to]) => from <= t && t <= to)); }

function modeAt(t) { return v.data.modes.findLast((m) => m[0] <= t && t <= m[1]); }

// ------------------------------------------------------------------ once

function build() {
  $("name").textContent = v.data.title;
  $("instruction").textContent = v.data.instruction ? `“${v.data.instruction}”` : "no instruction";
  for (const [name, value] of v.data.facts) {
    const fact = made("span", `${name} `);
    fact.append(made("b", value));
    $("facts").append(fact);
  }
  for (const note of v.data.notes) $("notes").append(made("div", note));
  const [bad, all] = [v.data.findings.filter((f) => f[2] === "bad").length, v.data.findings.length];
  $("count").textContent = all ? "" : "nothing stands out";
  $("filter").hidden = !bad || bad === all;
  const filtered = (only) => { $("findings").className = only ? "bad" : ""; $("filter").textContent = only ? `show all ${all}` : `only the ${bad} bad of ${all}`; };
  $("filter").addEventListener("click", () => filtered(!$("findings").className));
  filtered(false);
  v.data.findings.forEach(([from, to, grade, , title, detail]) => {
    const item = made("li", undefined, grade);
    item.append(made("time", stamp(from, 2)), made("span", title));
    if (to - from > 0.005) item.append(made("small", ` ${(to - from).toFixed(2)} s`));
    if (detail) item.append(made("p", detail));
    item.title = clockAt(from, 1);
    item.addEventListener("click", () => showSpan(from, to));
    $("findings").append(item);
  });
  $("keys").textContent = "wheel: zoom, with shift: move\ndrag: move; click: playhead\nspace: play or pause\n← →: a picture, with shift a second\n, . : a tick of 5 ms\n" +
    "+ − 0: nearer, farther, all\na d: move the view\nn p: next, previous thing to look at\ng: go to a time\nu: time of day here or UTC";
  buildJoints();
  said();
}

function said() {
  $("zone").hidden = v.data.wall_ms === null;
  $("zone").textContent = v.utc ? "UTC" : "local time";
  [...$("findings").children].forEach((item, i) => { item.title = clockAt(v.data.findings[i][0], 1); });
}

function buildJoints() {
  const table = clear($("joints")), head = made("tr");
  for (const word of ["", "command", "measured", "difference"]) head.append(made("th", word));
  table.append(head);
  v.data.joints.forEach((name, j) => {
    const row = made("tr"), first = made("td"), box = made("i");
    row.dataset.joint = j;
    box.style.borderColor = v.jointColour(j);
    first.append(box, name);
    row.append(first, made("td"), made("td"), made("td"));
    const dressed = () => { row.className = v.chosen.has(j) ? "" : "off"; box.style.background = v.chosen.has(j) ? v.jointColour(j) : "transparent"; };
    row.title = "click: this line; with alt: this one alone of its arm";
    row.addEventListener("click", (event) => {
      const group = v.data.joints.map((_, k) => k).filter((k) => (k < 12 ? Math.floor(k / 6) : 2) === (j < 12 ? Math.floor(j / 6) : 2));
      if (event.altKey) { group.forEach((k) => v.chosen.delete(k)); v.chosen.add(j); v.told = null; buildJoints(); }
      else { if (v.chosen.has(j)) v.chosen.delete(j); else v.chosen.add(j); dressed(); }
      redraw();
    });
    dressed();
    table.append(row);
  });
}

// ------------------------------------------------------------------ at the playhead

function tell() {
  const c = commandAt(v.at), mode = modeAt(v.at);
  $("second").textContent = stamp(v.at, 3);
  $("wall").textContent = clockAt(v.at, 3) && `${clockAt(v.at, 3)} ${v.utc ? "UTC" : ""}`;
  $("mode").textContent = mode ? mode[2].toUpperCase().replace("_", " ") : "";
  $("mode").style.background = mode ? v.colour[MODE_COLOUR[mode[2]]] : "none";
  const reasons = clear($("reasons"));
  for (const [code, detail, next] of mode && STOPPED.has(mode[2]) ? reasonsAt(mode, v.at) : []) {
    const line = made("div");
    line.append(made("b", code), ` ${detail}. Next: ${next}`);
    reasons.append(line);
  }
  for (const [, , , , code, detail] of v.data.findings.filter((f) => f[3] === "mode" && f[2] === "warn" && f[0] <= v.at && f[1] >= v.at)) {
    const line = made("div");
    line.append(made("b", code, "warned"), ` ${detail}`);
    reasons.append(line);
  }
  tellThoughts(c);
  const list = clear($("provenance"));
  for (const [name, words] of provenance(c)) {
    const pair = made("div");
    pair.append(made("dt", name), made("dd", words));
    list.append(pair);
  }
  tellJoints(c);
  v.data.findings.forEach(([from, to], i) => $("findings").children[i].classList.toggle("here", v.at >= from - 0.003 && v.at <= to + 0.003));
}

function tellThoughts(c) {
  const newest = v.arrived.findLast((x) => x[2] <= v.at);
  const inForce = c && c.intent >= 0 ? v.data.thoughts[c.thoughtAt] || [c.intent, NaN, NaN, true, "", "", []] : null;
  const shown = inForce || newest, head = clear($("intent")), limits = v.data.limits;
  if (shown) {
    const age = inForce ? c.age : v.at - shown[1];
    head.append(`intent ${shown[0]}`);
    if (!Number.isNaN(age)) head.append(", ", made("span", `${age.toFixed(2)} s old`, age > limits.live_s ? "late" : age > limits.warn_s ? "old" : ""));
    head.append(Number.isNaN(shown[1]) ? "; it came before what is shown" : `; saw ${stamp(shown[1], 2)}, came ${stamp(shown[2], 2)}${shown[5] ? `; ${shown[5]}` : ""}`);
    if (!inForce) head.append("; newest, but no command is of it");
  } else head.append("none yet");
  $("thought").textContent = shown ? shown[4] || (Number.isNaN(shown[1]) ? "" : "(without words)") : "";
  const thinking = v.data.thoughts.filter((x) => x[1] <= v.at && x[2] > v.at).pop(), words = clear($("growing"));
  $("next").textContent = thinking ? `intent ${thinking[0]}, for ${(v.at - thinking[1]).toFixed(2)} s${thinking[3] ? "" : thinking[3] === null ? "; still thinking where this part ends" : "; it never came"}` : "nothing";
  if (!thinking) return;
  const step = thinking[6].filter(([at]) => at <= v.at).pop(), known = step ? step[1] : 0;
  words.append(thinking[4].slice(0, known), made("i", thinking[4].slice(known)));
}

function tellJoints(c) {
  const length = v.column("command.t").length;
  [...$("joints").rows].slice(1).forEach((row, j) => {
    const side = (j < 12 ? j < 6 : j === 12) ? "left" : "right", unit = j < 12 ? 3 : 1;
    const seen = v.column(`${side}.t`), i = indexAt(seen, v.at), fresh = i >= 0 && v.at - seen[i] < STALE_S;
    const command = c ? v.column("command.position")[j * length + c.i] : NaN;
    const measured = fresh ? v.column(`${side}.position`)[(j < 12 ? j % 6 : 6) * seen.length + i] : NaN;
    [command, measured, command - measured].forEach((value, k) => { row.cells[k + 1].textContent = Number.isNaN(value) ? "-" : value.toFixed(unit).replace(/^-(0\.0+)$/, "$1") + (j < 12 ? "" : " mm"); });
    row.cells[3].className = j < 12 && Math.abs(command - measured) > 0.1 ? "late" : "";
    row.cells[0].style.fontWeight = c && c.limited >> j & 1 ? "700" : "";
  });
}

// ------------------------------------------------------------------ under the mouse

function hint(clientX, clientY, y) {
  const tip = $("tip");
  if (v.hover === null) { tip.hidden = true; return; }
  const t = v.hover, box = v.boxes.find((b) => y >= b.top && y <= b.top + b.height), near = 4 * (v.t1 - v.t0) / (v.right - v.left);
  const lines = [`${stamp(t, 3)}   ${clockAt(t, 3)}`, ...provenance(commandAt(t)).map(([name, words]) => `${name} ${words}`.trim())];
  const key = box && box.lane.key, mode = modeAt(t);
  if (key === "mode" && mode) lines.push(mode[2], ...reasonsAt(mode, t).map(([code, detail, next]) => `${code}: ${detail}. Next: ${next}`));
  if (key === "events") lines.push(...v.data.events.filter((e) => Math.abs(e[0] - t) <= 2 * near).map((e) => `${stamp(e[0], 2)} ${e[1]}: ${e[2]}`));
  if (key === "thoughts") { const f = v.inForce.findLast((s) => s[0] <= t && s[1] >= t); if (f) lines.push(f[2]); }
  if (key === "chunks") for (const s of v.data.splices) if (Math.abs(s[0] - t) <= near) lines.push(`splice ${s[1]}: chunk ${s[2]} for ${s[4]}, jump ${mrad(s[7])}`);
  lines.push(...v.data.findings.filter((f) => (f[3] === key || (key === "speed" && f[3] === "speed")) && f[0] - near <= t && f[1] + near >= t).slice(0, 4).map((f) => `! ${f[4]}`));
  tip.textContent = lines.slice(0, 16).join("\n");
  tip.hidden = false;
  const room = tip.getBoundingClientRect();
  tip.style.left = `${clientX + 16 + room.width > innerWidth ? clientX - room.width - 12 : clientX + 16}px`;
  tip.style.top = `${Math.min(clientY + 14, innerHeight - room.height - 6)}px`;
}
