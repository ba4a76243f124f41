"use strict";
// Columns over time: unpacked, searched, and drawn by the least and the most of each pixel. Nothing here knows the page.

const KINDS = { f4: Float32Array, f8: Float64Array, i4: Int32Array, u1: Uint8Array };

function bytesOf(base64) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

function unpack(column) { return new KINDS[column.type](bytesOf(column.data).buffer); }

// The first index whose value is at least x; values ascend.
function lowerBound(values, x) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < x) low = middle + 1; else high = middle;
  }
  return low;
}

// The last index whose value is at most x, -1 where there is none.
function indexAt(values, x) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= x) low = middle + 1; else high = middle;
  }
  return low - 1;
}

// Rows [first, last) that touch the span, with one neighbour on either side.
function rowsIn(t, from, to) { return [Math.max(0, lowerBound(t, from) - 1), Math.min(t.length, indexAt(t, to) + 2)]; }

// Least and most of several series in a span, NaN left out.
function extent(t, series, from, to) {
  const [first, last] = rowsIn(t, from, to);
  let least = Infinity, most = -Infinity;
  for (const values of series) for (let i = first; i < last; i++) {
    if (values[i] < least) least = values[i];
    if (values[i] > most) most = values[i];
  }
  return [least, most];
}

// Calls move(x, y) and line(x, y): each sample where they are few, else the least and the most of each pixel.
function trace(t, values, from, to, x, y, pixels, move, line) {
  const [first, last] = rowsIn(t, from, to);
  let drawing = false;
  const point = (px, py) => { if (drawing) line(px, py); else move(px, py); drawing = true; };
  if (last - first <= 2 * pixels) {
    for (let i = first; i < last; i++) {
      if (Number.isNaN(values[i])) drawing = false; else point(x(t[i]), y(values[i]));
    }
    return;
  }
  let i = first;
  while (i < last) {
    const pixel = Math.floor(x(t[i]));
    let least = Infinity, most = -Infinity, end = NaN, begin = NaN, gap = false;
    for (; i < last && Math.floor(x(t[i])) === pixel; i++) {
      const value = values[i];
      if (Number.isNaN(value)) { gap = true; continue; }
      if (Number.isNaN(begin)) begin = value;
      end = value;
      if (value < least) least = value;
      if (value > most) most = value;
    }
    if (!Number.isNaN(begin)) { point(pixel, y(begin)); line(pixel, y(least)); line(pixel, y(most)); line(pixel, y(end)); }
    if (gap) drawing = false;
  }
}

// A round step so that about `count` of them fill the span.
function niceStep(span, count) {
  const raw = span / Math.max(1, count), power = Math.pow(10, Math.floor(Math.log10(raw)));
  return [1, 2, 5, 10].find((k) => k * power >= raw) * power;
}

function clockStep(span, count) {
  const raw = span / Math.max(1, count), steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
  return raw < 1 ? niceStep(span, count) : steps.find((s) => s >= raw) || 7200;
}

// Milliseconds since 1970 as a time of day.
function timeOfDay(ms, utc, digits) {
  const date = new Date(ms), two = (n) => String(n).padStart(2, "0");
  const [h, m, s] = utc ? [date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds()]
    : [date.getHours(), date.getMinutes(), date.getSeconds()];
  const part = digits ? "." + String(date.getMilliseconds()).padStart(3, "0").slice(0, digits) : "";
  return `${two(h)}:${two(m)}:${two(s)}${part}`;
}

// "12.5" are seconds of the recording, "14:03" and "14:03:07.2" a time of day; NaN if it is neither.
function parsedTime(text, startMs, utc) {
  const clock = /^(\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d*)?))?$/.exec(text.trim());
  if (!clock) return /^-?\d+(\.\d*)?$/.test(text.trim()) ? parseFloat(text) : NaN;
  if (startMs === null) return NaN;
  const date = new Date(startMs), seconds = Math.floor(clock[3] || 0), ms = Math.round(1000 * ((clock[3] || 0) - seconds));
  if (utc) date.setUTCHours(+clock[1], +clock[2], seconds, ms); else date.setHours(+clock[1], +clock[2], seconds, ms);
  let after = (date.getTime() - startMs) / 1000;
  if (after < -43200) after += 86400; // past midnight
  return after;
}
