"use strict";
// Put into a page by test_view.py: the playhead moves, then the film is sought by its own controls.
// The browser's clock is virtual there, its decoder is not: while it seeks, real time has to pass.

function pass() { let sum = 0; for (let i = 0; i < 3e6; i++) sum += Math.sqrt(i); return sum; }

function until(done, then, tries = 0) {
  if (done() || tries > 120) then(); else { pass(); setTimeout(() => until(done, then, tries + 1), 8); }
}

until(() => film.readyState >= 2, () => {
  moveTo(1.5);
  until(() => !film.seeking && sought === null, () => {
    const led = film.currentTime, before = v.at;
    film.currentTime = 0.5;
    until(() => !film.seeking && v.at !== before, () => { document.title = JSON.stringify([led, v.at]); });
  });
});
