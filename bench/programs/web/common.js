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

/* The page is painted: tells the server. With ?turns it is then used whenever the server says so. */
async function done() {
  await painted();
  await fetch("/done" + location.pathname, { method: "POST" });
  while (location.search === "?turns") {
    const turns = Number(await (await fetch(location.pathname + "?next")).text());
    for (let i = 0; i < turns; i++) await turn();
    await fetch("/done" + location.pathname, { method: "POST" });
  }
}

function painted() {
  return new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, 0)));
}

/* A reader's: a screen further, where he marks something and clicks it. */
async function turn() {
  const rest = document.documentElement.scrollHeight - innerHeight;
  scrollTo(0, scrollY + 1 < rest ? scrollY + innerHeight : 0);
  const found = document.elementFromPoint(innerWidth / 2, innerHeight / 2);
  found?.classList.toggle("read");
  found?.dispatchEvent(new MouseEvent("click", { bubbles: true }));
  await painted();
}
