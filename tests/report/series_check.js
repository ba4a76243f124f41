"use strict";
// Run by test_view.py with the path of series.js: what its functions say, as JSON.
const source = require("fs").readFileSync(process.argv[2], "utf8");
const { unpack, trace, parsedTime, timeOfDay } = new Function(`${source}; return { unpack, trace, parsedTime, timeOfDay };`)();

const n = 100000, t = Float64Array.from({ length: n }, (_, i) => i / n), y = new Float32Array(n);
y[54321] = 7;
y[54322] = -3;
const drawn = (from, to, x) => {
  const seen = [];
  trace(t, y, from, to, x, (value) => value, 100, (_, value) => seen.push(value), (_, value) => seen.push(value));
  return seen;
};
const all = drawn(0, 1, (at) => 100 * at), few = drawn(0.5431, 0.5433, (at) => at);
const day = Date.UTC(2026, 0, 1, 14, 2, 30), evening = Date.UTC(2026, 0, 1, 23, 59);
console.log(JSON.stringify({
  most: Math.max(...all), least: Math.min(...all), drawn: all.length,
  near: [Math.max(...few), Math.min(...few), few.length],
  times: [parsedTime("14:03", day, true), parsedTime("14:03:01.5", day, true), parsedTime("12.5", null, true),
    parsedTime("00:01", evening, true), parsedTime("soon", day, true), parsedTime("14:03", null, true)],
  of: timeOfDay(day + 250, true, 2),
  column: [...unpack({ type: "i4", data: "AQAAAP////8=" })],
}));
