"use strict";
// Run by test_view.py with the path of series.js: what its functions say, as JSON.
