// SPDX-License-Identifier: Apache-2.0
// A server with records in memory. Texts come on standard input, a line each, up to an empty one; then it says "ready", and
// for each line with a number it serves so many requests, pages made of records, and says "done".
"use strict";

const COUNT = 120_000;
const SKEW = 7; // half of the requests are for a 128th of the records

let state = 7;
function random() {
  state = (state + 0x6d2b79f5) | 0;
  let x = Math.imul(state ^ (state >>> 15), 1 | state);
  x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
  return ((x ^ (x >>> 14)) >>> 0) / 4294967296;
}

const pick = (list) => list[Math.floor(random() * list.length)];

function record(id, words) {
  const lines = Array.from({ length: 3 }, () => ({ sku: `${pick(words)}-${Math.floor(random() * 1000)}`, cents: Math.floor(random() * 9999) }));
  return { id, name: pick(words), at: new Date(1.7e12 + id * 37e3), lines, note: `${pick(words)} ${pick(words)} ${pick(words)}` };
}

function page(made) {
  const rows = made.lines.map((line) => `<tr><td>${line.sku}</td><td>${(line.cents / 100).toFixed(2)}</td></tr>`);
  return `<h1>${made.name}</h1><p>${made.note}, ${made.at.toISOString()}</p><table>${rows.join("")}</table>`;
}

const texts = [];
const records = new Map();
let words;

function serve(requests) {
  let length = 0;
  for (let i = 0; i < requests; i++) {
    const id = Math.floor(COUNT * random() ** SKEW);
    length += page(records.get(id)).length;
    if (i % 10 === 0) records.set(id, record(id, words));
  }
  return length;
}

require("readline")
  .createInterface({ input: process.stdin })
  .on("line", (line) => {
    if (!words && line) texts.push(line);
    else if (!words) {
      words = [...new Set(texts.join(" ").split(/\W+/))];
      for (let id = 0; id < COUNT; id++) records.set(id, record(id, words));
      console.log("ready");
    } else if (line) {
      serve(Number(line));
      console.log("done");
    }
  });
