"use strict";
// The page: what is looked at (a span, a playhead, chosen joints), the film that goes with it, mouse and keys.
// Words of the recording only ever become text, never markup.

const $ = (id) => document.getElementById(id);
const GUTTER = 104, RULER = 40, GAP = 5, STALE_S = 0.1;

const v = {
  data: JSON.parse($("data").textContent), t0: 0, t1: 1, at: 0, hover: null, utc: false, playing: 0,
  left: GUTTER, right: 100, chosen: new Set([...Array(14).keys()]), columns: {}, colour: {},
  font: '"Segoe UI", "DejaVu Sans", system-ui, sans-serif', boxes: [],
  base: document.createElement("canvas"), ctx: null, stale: true, // the lanes as they were drawn last; the playhead goes above them
  column(name) { return (this.columns[name] ||= this.data.columns[name] ? unpack(this.data.columns[name]) : new Float64Array(0)); },
  has(name) { return this.column(name).length > 0; },
  x(t) { return v.left + (t - v.t0) / (v.t1 - v.t0) * (v.right - v.left); },
  t(x) { return v.t0 + (x - v.left) / (v.right - v.left) * (v.t1 - v.t0); },
  jointColour(j) { return v.colour[j < 12 ? `j${j % 6 + 1}` : j === 12 ? "j1" : "j2"]; },
  clip(box, draw) {
    v.ctx.save(); v.ctx.beginPath(); v.ctx.rect(v.left, box.top, v.right - v.left, box.height); v.ctx.clip(); draw(); v.ctx.restore();
  },
};

// ------------------------------------------------------------------ what is derived once

// Stretches of equal values: [from, to, value].
function runs(t, values, keep) {
  const found = [];
  for (let i = 0; i < t.length; ) {
    let j = i + 1;
    while (j < t.length && values[j] === values[i] && t[j] - t[j - 1] < STALE_S) j++;
    if (keep(values[i])) found.push([t[i], j < t.length && t[j] - t[j - 1] < STALE_S ? t[j] : t[j - 1], values[i]]);
    i = j;
  }
  return found;
}

function derive() {
  const t = v.column("command.t");
  v.arrived = v.data.thoughts.filter((x) => x[3]).sort((a, b) => a[2] - b[2]);
  v.sourceSpans = runs(t, v.column("command.source"), () => true).map(([a, b, k]) => [a, b, v.data.sources[k]]);
  v.limitedSpans = runs(t, v.column("command.limited"), (bits) => bits !== 0);
  // by its place among the thoughts, below -1 by the number of one that is not among them
  const ids = v.column("command.intent"), of = Array.from(v.column("command.thought_at"), (place, i) => place >= 0 || ids[i] < 0 ? place : -2 - ids[i]);
  v.inForce = runs(t, of, (place) => place !== -1).map(([a, b, place]) => (place < 0 ? [a, b, "", -2 - place] : [a, b, v.data.thoughts[place][4], v.data.thoughts[place][0]]));
  const same = [];  // one text over several intents is one stretch
  for (const span of v.inForce) {
    const last = same[same.length - 1];
    if (last && last[2] === span[2] && span[0] - last[1] < 2 * STALE_S) last[1] = span[1]; else same.push([...span]);
  }
  v.inForce = same;
  v.cameras = Object.keys(v.data.columns).filter((name) => name.startsWith("camera/"));
  v.lanes = LANES.filter((lane) => lane.there(v));
  v.t1 = Math.max(v.data.duration_s, 0.01);
}

function dress() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["paper", "lane", "rule", "ink", "muted", "soft", "blue", "amber", "red", "violet", "green", "person", "thinking",
    "wait", "rest", "hold", "taken", "j1", "j2", "j3", "j4", "j5", "j6"]) v.colour[name] = style.getPropertyValue(`--${name}`).trim();
}

// ------------------------------------------------------------------ the timeline

function layout() {
  const host = $("lanes"), ratio = devicePixelRatio || 1, width = host.clientWidth;
  const least = v.lanes.reduce((sum, lane) => sum + lane.least + GAP, RULER), spare = Math.max(0, host.clientHeight - least - 2);
  const shares = v.lanes.reduce((sum, lane) => sum + lane.share, 0) || 1;
  let top = RULER;
  v.boxes = v.lanes.map((lane) => {
    const box = { lane, top, height: lane.least + Math.floor(spare * lane.share / shares) };
    top += box.height + GAP;
    return box;
  });
  v.right = width - 8; v.width = width; v.height = Math.max(top, host.clientHeight - 2);
  const canvas = $("chart");
  for (const each of [canvas, v.base]) { each.width = Math.round(width * ratio); each.height = Math.round(v.height * ratio); }
  canvas.style.width = `${width}px`; canvas.style.height = `${v.height}px`;
  v.ctx = v.base.getContext("2d");
  v.ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
}

function drawRuler() {
  const ctx = v.ctx, whole = v.data.duration_s || 1, span = v.right - v.left;
  ctx.fillStyle = v.colour.rule; ctx.fillRect(v.left, 2, span, 6);
  for (const [from, to, mode] of v.data.modes) {
    if (mode === "enabled") continue;
    ctx.fillStyle = v.colour[MODE_COLOUR[mode]];
    ctx.fillRect(v.left + from / whole * span, 2, Math.max(1, (to - from) / whole * span), 6);
  }
  ctx.strokeStyle = v.colour.ink;
  ctx.strokeRect(v.left + v.t0 / whole * span, 1.5, Math.max(2, (v.t1 - v.t0) / whole * span), 7);
  const step = clockStep(v.t1 - v.t0, span / 96), digits = step < 1 ? Math.min(3, Math.ceil(-Math.log10(step))) : 0;
  ctx.font = `11px ${v.font}`; ctx.textAlign = "center"; ctx.textBaseline = "middle";
  for (let k = Math.ceil(v.t0 / step); k * step <= v.t1; k++) {
    const at = k * step, x = Math.round(v.x(at)) + 0.5;
    ctx.strokeStyle = v.colour.rule;
    ctx.beginPath(); ctx.moveTo(x, RULER - 4); ctx.lineTo(x, v.height); ctx.stroke();
    ctx.fillStyle = v.colour.ink;
    ctx.fillText(`${(at + v.data.at_s).toFixed(digits)} s`, x, 18);
    ctx.fillStyle = v.colour.muted;
    if (v.data.wall_ms !== null) ctx.fillText(timeOfDay(v.data.wall_ms + 1000 * at, v.utc, digits), x, 31);
  }
}

function drawLanes() {
  const ctx = v.ctx;
  ctx.fillStyle = v.colour.lane; ctx.fillRect(0, 0, v.width, v.height);
  drawRuler();
  for (const box of v.boxes) {
    for (const [from, to, mode] of v.data.modes) if (STOPPED.has(mode) && box.lane.key !== "mode") bar(v, from, to, box.top, box.height, "hold");
    for (const [from, to] of v.data.overrides) if (box.lane.key !== "mode") bar(v, from, to, box.top, box.height, "taken");
    ctx.save();
    ctx.beginPath(); ctx.rect(0, box.top - 1, v.right, box.height + 2); ctx.clip();
    box.lane.draw(v, box);
    ctx.restore();
    ctx.fillStyle = v.colour.ink; ctx.font = `600 11px ${v.font}`; ctx.textAlign = "left"; ctx.textBaseline = "top";
    box.lane.words.split("\n").forEach((word, i) => ctx.fillText(word, 6, box.top + 2 + 13 * i));
    ctx.fillStyle = v.colour.rule; ctx.fillRect(0, box.top + box.height + 2, v.width, 1);
  }
}

function draw() {
  if (v.stale) { v.stale = false; drawLanes(); }
  const ctx = $("chart").getContext("2d"), ratio = devicePixelRatio || 1;
  ctx.setTransform(1, 0, 0, 1, 0, 0);
  ctx.drawImage(v.base, 0, 0);
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  const head = (t, colour, width) => { ctx.fillStyle = colour; if (t >= v.t0 && t <= v.t1) ctx.fillRect(v.x(t) - width / 2, 10, width, v.height); };
  if (v.hover !== null) head(v.hover, v.colour.muted, 1);
  head(v.at, v.colour.red, 2);
  if (v.told !== v.at) { v.told = v.at; tell(); }
}

let asked = false;
function show() { if (!asked) { asked = true; requestAnimationFrame(() => { asked = false; draw(); }); } }

function redraw() { v.stale = true; show(); }

// ------------------------------------------------------------------ looking

function look(from, to) {
  const whole = Math.max(v.data.duration_s, 0.01), span = Math.min(Math.max(to - from, 0.02), whole);
  v.t0 = Math.min(Math.max(from, 0), whole - span); v.t1 = v.t0 + span;
  redraw();
}

function zoom(by, about) { look(about - (about - v.t0) * by, about + (v.t1 - about) * by); }

function moveTo(at, fromFilm) {
  v.at = Math.min(Math.max(at, 0), v.data.duration_s);
  if (!fromFilm) seekFilm();
  show();
}

function follow() { if (v.at < v.t0 || v.at > v.t1) look(v.at - (v.t1 - v.t0) * 0.1, v.at + (v.t1 - v.t0) * 0.9); }

function showSpan(from, to) {
  const room = Math.max(0.6, 0.6 * (to - from));
  look(from - room, to + room); moveTo(from);
}

// ------------------------------------------------------------------ the film

const film = $("film");
let sought = null;

function startFilm() {
  if (!v.data.film) { $("top").className = "blind"; return; }
  film.src = URL.createObjectURL(new Blob([bytesOf($("mp4").textContent)], { type: "video/mp4" }));
  film.addEventListener("play", () => { v.playing = 1; requestAnimationFrame(playOn); });
  film.addEventListener("pause", () => { v.playing = 0; if (sought === null) moveTo(v.data.film[0] + film.currentTime, true); });
  for (const name of ["seeked", "timeupdate"]) film.addEventListener(name, () => {
    if (sought === null) moveTo(v.data.film[0] + film.currentTime, true);
    else if (!film.seeking) sought = null;
  });
}

function filmSpan() { return v.data.film && [v.data.film[0], v.data.film[0] + v.data.film[2] / v.data.film[1]]; }

function seekFilm() {
  if (!v.data.film) return;
  const [from, to] = filmSpan(), time = Math.min(Math.max(v.at, from), to) - from + 1e-4;
  sought = time; film.currentTime = time;
  $("missing").textContent = v.at < from - 0.05 || v.at > to + 0.05 ? "no picture of this instant" : "";
}

// While the film plays the playhead goes with it; where there is none, with the clock.
function playOn(now) {
  if (!v.playing) return;
  if (v.data.film) { if (sought === null) moveTo(v.data.film[0] + film.currentTime, true); }
  else { moveTo(v.at + (now - v.playing) / 1000); v.playing = now; if (v.at >= v.data.duration_s) v.playing = 0; }
  follow();
  requestAnimationFrame(playOn);
}

function playOrPause() {
  if (v.data.film) { if (film.paused) film.play(); else film.pause(); return; }
  v.playing = v.playing ? 0 : performance.now();
  if (v.playing) requestAnimationFrame(playOn);
}

// ------------------------------------------------------------------ mouse and keys

function listen() {
  const canvas = $("chart");
  let drag = null;
  const place = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  canvas.addEventListener("wheel", (event) => {
    const [x] = place(event);
    if (x < v.left && !event.ctrlKey) return; // over the names the page scrolls
    event.preventDefault();
    const span = v.t1 - v.t0, sideways = event.shiftKey ? event.deltaY || event.deltaX : event.deltaX;
    if (Math.abs(sideways) > Math.abs(event.deltaY) || event.shiftKey) look(v.t0 + span * sideways / 900, v.t1 + span * sideways / 900);
    else zoom(Math.exp(Math.max(-200, Math.min(200, event.deltaY)) / 400), v.t(x));
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    const [x, y] = place(event);
    if (x < v.left || event.button) return;
    canvas.setPointerCapture(event.pointerId);
    drag = { x, t0: v.t0, t1: v.t1, scrub: y < RULER && y >= 12, over: y < 12, moved: false };
    if (drag.scrub) moveTo(v.t(x));
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    v.hover = x >= v.left && x <= v.right ? v.t(x) : null;
    if (drag) {
      drag.moved ||= Math.abs(x - drag.x) > 3;
      const by = (drag.x - x) / (v.right - v.left) * (drag.t1 - drag.t0);
      if (drag.scrub) moveTo(v.t(x));
      else if (drag.over) { const c = (x - v.left) / (v.right - v.left) * v.data.duration_s, half = (v.t1 - v.t0) / 2; look(c - half, c + half); }
      else if (drag.moved) { canvas.className = "dragging"; look(drag.t0 + by, drag.t1 + by); }
    }
    hint(event.clientX, event.clientY, y);
    show();
  });
  canvas.addEventListener("pointerup", (event) => {
    const [x] = place(event);
    if (drag && !drag.moved && drag.over) { const c = (x - v.left) / (v.right - v.left) * v.data.duration_s, half = (v.t1 - v.t0) / 2; look(c - half, c + half); }
    else if (drag && !drag.moved) moveTo(v.t(x));
    drag = null; canvas.className = "";
  });
  canvas.addEventListener("pointerleave", () => { v.hover = null; $("tip").hidden = true; show(); });
  canvas.addEventListener("dblclick", () => look(0, v.data.duration_s));
  $("go").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("when").value, wanted = parsedTime(text, v.data.wall_ms, v.utc) - (text.includes(":") ? 0 : v.data.at_s);
    const known = wanted >= -60 && wanted <= v.data.duration_s + 60;
    $("when").className = known ? "" : "wrong";
    $("when").title = known ? "" : "not a time in this recording";
    if (known) { moveTo(wanted); const half = Math.min(3, (v.t1 - v.t0) / 2); look(v.at - half, v.at + half); }
  });
  const zone = () => { v.utc = !v.utc; v.told = null; said(); redraw(); };
  $("zone").addEventListener("click", zone);
  $("help").addEventListener("click", () => { $("keys").hidden = !$("keys").hidden; });
  const span = () => v.t1 - v.t0, finding = (by) => {
    const all = v.data.findings.filter((f) => !$("findings").className || f[2] === "bad"), next = by > 0 ? all.findIndex((f) => f[0] > v.at + 1e-6) : all.findLastIndex((f) => f[0] < v.at - 1e-6);
    if (next >= 0) showSpan(all[next][0], all[next][1]);
  };
  const keys = {
    " ": playOrPause, ArrowLeft: (e) => moveTo(v.at - (e.shiftKey ? 1 : 1 / 30)), ArrowRight: (e) => moveTo(v.at + (e.shiftKey ? 1 : 1 / 30)),
    ",": () => moveTo(v.at - 0.005), ".": () => moveTo(v.at + 0.005), "+": () => zoom(0.6, v.at), "=": () => zoom(0.6, v.at), "-": () => zoom(1 / 0.6, v.at),
    a: () => look(v.t0 - span() / 4, v.t1 - span() / 4), d: () => look(v.t0 + span() / 4, v.t1 + span() / 4),
    Home: () => moveTo(0), End: () => moveTo(v.data.duration_s), "0": () => look(0, v.data.duration_s),
    n: () => finding(1), p: () => finding(-1), u: zone, g: () => $("when").focus(), "?": () => $("help").click(),
  };
  addEventListener("keydown", (event) => {
    if (event.target.tagName === "INPUT" || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    if (document.activeElement === film) film.blur();
    keys[event.key](event);
    if (!["a", "d", "0", "+", "=", "-"].includes(event.key)) follow();
  });
  addEventListener("resize", () => { layout(); redraw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { dress(); v.told = null; buildJoints(); redraw(); });
}

derive(); dress(); build(); startFilm(); layout(); listen(); moveTo(0);
