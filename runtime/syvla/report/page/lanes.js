"use strict";
// The lanes of the timeline. Each draws itself into the box that it is given; `v` is the view: data, columns, scale, colours.

const MODE_COLOUR = { disabled: "muted", enabled: "green", override: "person", hold: "red", soft_stop: "red", fault: "red" };
const SOURCE_COLOUR = { none: "muted", policy: "blue", teleop: "person", hold: "amber", unknown: "wait" };
const STOPPED = new Set(["hold", "soft_stop", "fault"]);

function bar(v, from, to, top, height, colour) {
  const left = Math.max(v.left, v.x(from)), right = Math.min(v.right, v.x(to));
  if (right < v.left || left > v.right) return 0;
  v.ctx.fillStyle = v.colour[colour] || colour;
  v.ctx.fillRect(left, top, Math.max(1, right - left), height);
  return right - left;
}

function tick(v, at, top, height, colour, width) {
  const x = v.x(at);
  if (x < v.left - 1 || x > v.right + 1) return;
  v.ctx.fillStyle = v.colour[colour];
  v.ctx.fillRect(Math.round(x) - (width || 1) / 2, top, width || 1, height);
}

// Text between two instants, cut to the room there is.
function label(v, text, from, to, middle, colour, bold) {
  const left = Math.max(v.left, v.x(from)) + 4, room = Math.min(v.right, v.x(to)) - left - 3;
  if (room < 14) return;
  v.ctx.font = `${bold ? "600 " : ""}11px ${v.font}`;
  v.ctx.fillStyle = v.colour[colour] || colour;
  let shown = text.slice(0, Math.ceil(room / 3));
  if (v.ctx.measureText(shown).width > room) {
    let low = 0, high = shown.length;
    while (low < high) {
      const half = (low + high + 1) >> 1;
      if (v.ctx.measureText(shown.slice(0, half) + "…").width <= room) low = half; else high = half - 1;
    }
    if (low < 2) return;
    shown = shown.slice(0, low) + "…";
  }
  v.ctx.textBaseline = "middle";
  v.ctx.textAlign = "left";
  v.ctx.fillText(shown, left, middle);
}

// A scale for values in a box, with its numbers in the gutter.
function scaled(v, box, least, most, unit) {
  if (!(most > least)) { const middle = Number.isFinite(least) ? least : 0; least = middle - 0.5; most = middle + 0.5; }
  const room = 0.06 * (most - least), low = least - room, high = most + room;
  const y = (value) => box.top + box.height - 3 - (value - low) / (high - low) * (box.height - 6);
  const step = niceStep(high - low, Math.max(3, box.height / 24));
  v.ctx.font = `10px ${v.font}`;
  v.ctx.textAlign = "right";
  v.ctx.textBaseline = "middle";
  for (let k = Math.ceil(low / step), n = 0; k * step <= high && n < 40; k++, n++) {
    const value = k * step, at = Math.round(y(value)) + 0.5;
    v.ctx.strokeStyle = v.colour.rule;
    v.ctx.beginPath(); v.ctx.moveTo(v.left, at); v.ctx.lineTo(v.right, at); v.ctx.stroke();
    v.ctx.fillStyle = v.colour.muted;
    if (at > box.top + 6 && at < box.top + box.height - 4) {
      v.ctx.fillText(`${+value.toPrecision(6)}${unit || ""}`, v.left - 5, at);
    }
  }
  return y;
}

function curve(v, t, values, y, colour, width, alpha) {
  const ctx = v.ctx;
  ctx.globalAlpha = alpha || 1;
  ctx.strokeStyle = v.colour[colour] || colour;
  ctx.lineWidth = width;
  ctx.lineJoin = "round";
  ctx.beginPath();
  trace(t, values, v.t0, v.t1, v.x, y, v.right - v.left, (a, b) => ctx.moveTo(a, b), (a, b) => ctx.lineTo(a, b));
  ctx.stroke();
  ctx.globalAlpha = 1;
  ctx.lineWidth = 1;
}

function level(v, y, value, colour, dashed) {
  const at = Math.round(y(value)) + 0.5;
  v.ctx.strokeStyle = v.colour[colour];
  v.ctx.setLineDash(dashed ? [5, 4] : []);
  v.ctx.beginPath(); v.ctx.moveTo(v.left, at); v.ctx.lineTo(v.right, at); v.ctx.stroke();
  v.ctx.setLineDash([]);
}

function series(v, name, j, length) { return v.column(name).subarray(j * length, (j + 1) * length); }

function visible(v, from, to) { return to >= v.t0 && from <= v.t1; }

const drawMode = (v, box) => {
  const strip = 6, height = box.height - strip - 4;
  for (const [from, to, mode, reasons] of v.data.modes) {
    if (!visible(v, from, to)) continue;
    bar(v, from, to, box.top + 1, height, MODE_COLOUR[mode] || "muted");
    const why = reasons.map(([code, detail, next]) => `${code}: ${detail}. Next: ${next}`).join("; ");
    label(v, mode.toUpperCase().replace("_", " ") + (STOPPED.has(mode) && why ? "   " + why : ""), from, to,
      box.top + 1 + height / 2, "#fff", true);
  }
  for (const [from, to, source] of v.sourceSpans) {
    if (visible(v, from, to)) bar(v, from, to, box.top + box.height - strip - 1, strip, SOURCE_COLOUR[source] || "muted");
  }
};

const drawEvents = (v, box) => {
  v.data.events.forEach(([at, topic, words], i) => {
    tick(v, at, box.top + 1, box.height - 2, topic === "task" ? "blue" : "violet", 2);
    const later = v.data.events[i + 1];
    label(v, words, at, later ? later[0] : v.data.duration_s, box.top + box.height / 2, "ink");
  });
  for (const [from, to, grade, kind] of v.data.findings) {
    if (kind === "events" && visible(v, from, to)) bar(v, from, to, box.top + box.height - 4, 3, grade === "note" ? "muted" : "amber");
  }
};

const drawThoughts = (v, box) => {
  const half = Math.max(8, Math.floor(box.height * 0.36)), words = box.height - half - 2;
  let lane = 0;
  for (const [id, seen, came, arrived] of v.data.thoughts) {
    lane = 1 - lane;
    if (!visible(v, seen, came)) continue;
    const height = half / 2 - 1, top = box.top + 1 + lane * (height + 1);
    bar(v, seen, came, top, height, arrived ? "thinking" : arrived === null ? "rest" : "red");
  }
  for (const [from, to, text, id] of v.inForce) {
    if (!visible(v, from, to)) continue;
    bar(v, from, to, box.top + half + 1, words, "soft");
    tick(v, from, box.top + half + 1, words, "amber", 1);
    label(v, text || `intent ${id}`, from, to, box.top + half + 1 + words / 2, "ink");
  }
};

const drawAge = (v, box) => {
  const t = v.column("command.t"), age = v.column("command.age"), live = v.data.limits.live_s;
  const [, most] = extent(t, [age], v.t0, v.t1);
  const y = scaled(v, box, 0, Math.max(1.08 * live, Number.isFinite(most) ? Math.min(most, 4 * live) : 0), " s");
  level(v, y, live, "red");
  level(v, y, v.data.limits.warn_s, "amber", true);
  v.clip(box, () => {
    const came = v.arrived, ctx = v.ctx;  // pale: of the newest intent, whether or not a command is of it
    ctx.strokeStyle = v.colour.muted;
    ctx.beginPath();
    came.forEach(([, seen, at], i) => {
      const until = i + 1 < came.length ? came[i + 1][2] : v.data.duration_s;
      if (visible(v, at, until)) { ctx.moveTo(v.x(at), y(at - seen)); ctx.lineTo(v.x(until), y(until - seen)); }
    });
    ctx.globalAlpha = 0.55; ctx.stroke(); ctx.globalAlpha = 1;
    curve(v, t, age, y, "blue", 1.5);
  });
};

const drawSpeed = (v, box) => {
  const t = v.column("command.t"), values = v.column("speed.joint");
  for (const [from, to, , kind] of v.data.findings) {
    if (kind === "speed" && visible(v, from, to)) { v.ctx.globalAlpha = 0.16; bar(v, from, to, box.top, box.height, "amber"); v.ctx.globalAlpha = 1; }
  }
  const y = scaled(v, box, 0, Math.max(0.05, extent(t, [values], v.t0, v.t1)[1]), "");
  curve(v, t, values, y, "ink", 1.1);
};

const drawChunks = (v, box) => {
  const seams = 10, lanes = Math.max(3, Math.floor((box.height - seams) / 8)), each = (box.height - seams) / lanes;
  v.data.chunks.forEach(([, , seen, came, period, rows, first, last], i) => {
    if (!visible(v, seen, seen + rows * period)) return;
    const top = box.top + seams + (i % lanes) * each, middle = top + each / 2;
    bar(v, came, seen + rows * period, middle - 0.5, 1, "rest");
    bar(v, seen, came, middle - each * 0.2, Math.max(1.5, each * 0.4), "wait");
    if (first >= 0) bar(v, Math.max(came, seen + first * period), seen + (last + 1) * period, top + 1, Math.max(2, each - 2), "violet");
  });
  for (const [at, , , , , , , jump] of v.data.splices) {
    const large = jump > v.data.limits.jump_rad;
    tick(v, at, box.top + (large ? 0 : 3), large ? seams : seams - 4, large ? "red" : "violet", large ? 2.5 : 1);
  }
};

// Commands (thin) on what was measured (broad, pale) of the chosen joints; wanted: indices of the 14.
const drawJoints = (arm, wanted, unit) => (v, box) => {
  const t = v.column("command.t"), k = arm === "left" ? 0 : 1;
  const pairs = [];
  for (const j of wanted) {
    if (!v.chosen.has(j)) continue;
    const side = j < 12 ? (j < 6 ? "left" : "right") : (j === 12 ? "left" : "right");
    const seen = v.column(`${side}.t`), place = j < 12 ? j % 6 : 6;
    pairs.push([j, series(v, "command.position", j, t.length), seen, series(v, `${side}.position`, place, seen.length)]);
  }
  let least = Infinity, most = -Infinity;
  for (const [, command, seen, measured] of pairs) {
    for (const [a, b] of [extent(t, [command], v.t0, v.t1), extent(seen, [measured], v.t0, v.t1)]) {
      least = Math.min(least, a); most = Math.max(most, b);
    }
  }
  if (!pairs.length) return label(v, "no joint of it is chosen", v.t0, v.t1, box.top + box.height / 2, "muted");
  const y = scaled(v, box, least, most, unit);
  for (const [j, , seen, measured] of pairs) curve(v, seen, measured, y, v.jointColour(j), 3.4, 0.32);
  for (const [j, command] of pairs) curve(v, t, command, y, v.jointColour(j), 1.1);
};

const drawError = (v, box) => {
  const sides = ["left", "right"].map((arm) => [v.column(`${arm}.t`), v.column(`${arm}.error`)]);
  const y = scaled(v, box, 0, Math.max(0.01, ...sides.map(([t, e]) => extent(t, [e], v.t0, v.t1)[1])), "");
  sides.forEach(([t, error], k) => curve(v, t, error, y, k ? "j2" : "j1", 1.1));
};

const drawGate = (v, box) => {
  const each = box.height / 14;
  for (const [from, to, bits] of v.limitedSpans) {
    if (!visible(v, from, to)) continue;
    for (let j = 0; j < 14; j++) if (bits >> j & 1) bar(v, from, to, box.top + j * each, Math.max(2, each - 0.5), v.jointColour(j));
  }
  for (const [from, to, , kind, title] of v.data.findings) {
    if (kind === "gate" && title.includes("refused")) tick(v, to, box.top, box.height, "red", 3);
  }
  if (!v.limitedSpans.length) label(v, "nothing was limited", v.t0, v.t1, box.top + box.height / 2, "muted");
};

const drawLateness = (v, box) => {
  const t = v.column("lateness.t"), ms = v.column("lateness.ms");
  for (const [from, to, , kind] of v.data.findings) if (kind === "loop" && visible(v, from, to)) bar(v, from, to, box.top, box.height, "hold");
  const y = scaled(v, box, 0, Math.max(0.1, extent(t, [ms], v.t0, v.t1)[1]), "");
  curve(v, t, ms, y, "green", 1);
};

const drawCameras = (v, box) => {
  const names = v.cameras, each = box.height / Math.max(1, names.length);
  names.forEach((name, k) => {
    const t = v.column(name), [first, last] = rowsIn(t, v.t0, v.t1), top = box.top + k * each + 1;
    const apart = (v.right - v.left) / Math.max(1, last - first);
    if (apart > 3) for (let i = first; i < last; i++) tick(v, t[i], top, each - 2, "blue", 1.5);
    else if (last > first) bar(v, t[first], t[last - 1], top + each * 0.2, each * 0.5, "blue");
    for (const [from, to, grade, kind, title] of v.data.findings) {
      if (kind === "cameras" && title.startsWith(name.slice(7)) && visible(v, from, to)) bar(v, from, to, top, each - 2, grade === "bad" ? "red" : "amber");
    }
    const rate = last - first > 2 ? (last - first - 1) / (t[last - 1] - t[first]) : 0;
    v.ctx.font = `10px ${v.font}`;
    v.ctx.textAlign = "right";
    v.ctx.textBaseline = "middle";
    v.ctx.fillStyle = v.colour.muted;
    v.ctx.fillText(`${name.slice(7).replace("cam_", "")}  ${rate.toFixed(1)} Hz`, v.left - 5, top + each / 2);
  });
};

// name, words in the gutter, pixels at least, share of the room that is left, whether there is something to show
const LANES = [
  { key: "mode", words: "mode\ncommands by", least: 34, share: 0, draw: drawMode, there: (v) => v.data.modes.length || v.has("command.t") },
  { key: "events", words: "events", least: 20, share: 0, draw: drawEvents, there: (v) => v.data.events.length },
  { key: "thoughts", words: "thinking\nin force", least: 40, share: 0, draw: drawThoughts, there: (v) => v.data.thoughts.length },
  { key: "age", words: "intent\nage", least: 52, share: 1, draw: drawAge, there: (v) => v.has("command.t") },
  { key: "chunks", words: "splices\nchunks", least: 62, share: 1, draw: drawChunks, there: (v) => v.data.chunks.length },
  { key: "speed", words: "commanded\nspeed\nrad/s", least: 44, share: 1, draw: drawSpeed, there: (v) => v.has("command.t") },
  { key: "left", words: "left arm\nrad", least: 90, share: 3, draw: drawJoints("left", [0, 1, 2, 3, 4, 5]), there: (v) => v.has("command.t") || v.has("left.t") },
  { key: "right", words: "right arm\nrad", least: 90, share: 3, draw: drawJoints("right", [6, 7, 8, 9, 10, 11]), there: (v) => v.has("command.t") || v.has("right.t") },
  { key: "gripper", words: "grippers\nmm", least: 44, share: 1, draw: drawJoints("", [12, 13]), there: (v) => v.has("command.t") || v.has("left.t") },
  { key: "error", words: "tracking\nerror\nrad", least: 44, share: 1, draw: drawError, there: (v) => v.has("left.t") || v.has("right.t") },
  { key: "gate", words: "limited by\nthe gate", least: 34, share: 0.4, draw: drawGate, there: (v) => v.has("command.t") },
  { key: "loop", words: "lateness\nms", least: 36, share: 0.6, draw: drawLateness, there: (v) => v.has("lateness.t") },
  { key: "cameras", words: "", least: 40, share: 0, draw: drawCameras, there: (v) => v.cameras.length },
];
