// SPDX-License-Identifier: Apache-2.0
"use strict";

/* The same numbers every time, 0 ≤ x < 1. */
let state = 7;
function random() {
  state = (state + 0x6d2b79f5) | 0;
  let x = Math.imul(state ^ (state >>> 15), 1 | state);
  x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
  return ((x ^ (x >>> 14)) >>> 0) / 4294967296;
}

function below(limit) {
  return Math.floor(random() * limit);
}

function pick(list) {
  return list[below(list.length)];
}

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/* [{title, paragraphs}] */
async function articles() {
  return (await fetch("/articles.json")).json();
}

/* The page is painted: tells the server. */
function done() {
  requestAnimationFrame(() => setTimeout(() => fetch("/done" + location.pathname, { method: "POST" }), 0));
}
