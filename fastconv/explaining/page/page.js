// Lights the cells that the one under the pointer is summed from, and writes the sum.
"use strict";
for (const page of document.querySelectorAll("main.fastconv-explain")) {
  const data = JSON.parse(page.querySelector("script.data").textContent);
  const MOST = 24; // products that a sum writes out

  // A number in few characters; null stands for one that is not finite.
  const number = (value) => {
    const rounded = Number.isInteger(value) && Math.abs(value) < 1e5 ? String(value) : value === null ? "nan"
      : String(Number(value.toPrecision(4)));
    return rounded.replace("-", "−");
  };
  const factor = (value) => (value < 0 ? `(${number(value)})` : number(value));

  // The terms [output, input, weight] of a section that a cell has part in.
  const having = (section, key) => {
    if (key[0] === "c") {
      const [q, p] = key.slice(1).split("_").map(Number);
      return section.terms.filter(
        (t) => t[2] < data.firstWeights && t[0] < data.firstOutputs
          && t[2] % data.taps === q && t[0] % data.pixels === p);
    }
    const place = "oiw".indexOf(key[0]), count = Number(key.slice(1));
    return section.terms.filter((t) => t[place] === count);
  };

  const column = (t) => t[2] >= 0 && t[2] < data.firstWeights && t[0] < data.firstOutputs
    ? `c${t[2] % data.taps}_${t[0] % data.pixels}` : "";

  const name = (section, letter, count) => `${section.names[letter]}[${data.labels[letter][count]}]`;

  const sum = (section, key, terms) => {
    const letter = key[0];
    if (letter === "c") {
      const input = terms.length ? terms[0][1] : -1;
      return input < 0 ? "" : `a copy of ${name({ names: { i: "X" } }, "i", input)}, in the sum of ${
        terms.map((t) => name({ names: { o: "Y" } }, "o", t[0])).join(", ")}`;
    }
    const count = Number(key.slice(1));
    const here = name(section, letter, count), value = section.values[letter][count];
    if (letter !== section.target) {
      const cells = new Set(terms.map((t) => t["oiw".indexOf(section.target)]));
      const word = cells.size === 1 ? "cell" : "cells";
      return `${here} = ${number(value)} is part of ${cells.size} ${word} of ${section.result}`;
    }
    const factors = section.factors;
    const parts = terms.map((t) => factors.map((l) => {
      const each = section.values[l][t["oiw".indexOf(l)]];
      return factors.length > 1 ? factor(each) : number(each);
    }).join("·"));
    const shown = parts.slice(0, MOST);
    if (parts.length > MOST) shown.push(`… ${parts.length - MOST} more`);
    const all = terms.reduce((total, t) => total + factors.reduce(
      (product, l) => product * section.values[l][t["oiw".indexOf(l)]], 1), 0);
    const rest = value - all;
    if (section.join === "max") return `${here} = max(${shown.join(", ")}) = ${number(value)}`;
    const finite = value !== null && Math.abs(all) < Infinity;
    if (!data.whole && finite && Math.abs(rest) > 1e-5 * (1 + Math.abs(value))) {
      shown.push(`${factor(rest)} of cells that are not drawn`);
    }
    return `${here} = ${shown.join(" + ") || "0, for nothing is added to it"}${
      shown.length ? ` = ${number(value)}` : ""}`;
  };

  // Notebooks show the page in a frame, where a link to a part of it would lead to the page around.
  for (const link of page.querySelectorAll("nav a")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      page.querySelector(link.getAttribute("href")).scrollIntoView({ behavior: "smooth" });
    });
  }

  for (const element of page.querySelectorAll("section[data-section]")) {
    const section = data.sections[element.dataset.section];
    section.terms = data.terms[section.of];
    const text = element.querySelector(".sum");
    let held = false;
    const cells = new Map();
    for (const cell of element.querySelectorAll(".cell[data-k]")) {
      const key = cell.dataset.k;
      cells.has(key) ? cells.get(key).push(cell) : cells.set(key, [cell]);
    }
    let marked = [];
    const show = (key) => {
      for (const cell of marked) cell.classList.remove("lit", "on", "tie");
      marked = [];
      const terms = having(section, key), keys = new Set();
      for (const t of terms) {
        keys.add(`o${t[0]}`).add(`i${t[1]}`);
        if (section.pool) continue;
        keys.add(`w${t[2]}`).add(column(t));
      }
      const mark = (each, kind) => {
        for (const cell of cells.get(each) || []) {
          cell.classList.add(kind);
          marked.push(cell);
        }
      };
      for (const each of keys) mark(each, "lit");
      if (section.pool) for (const t of terms) if (t[2]) mark(`i${t[1]}`, t[2] === 2 ? "on" : "tie");
      mark(key, "on");
      element.dataset.at = key;
      text.textContent = sum(section, key, terms);
    };
    const keyOf = (event) => event.target.closest?.(".cell[data-k]")?.dataset.k;
    element.addEventListener("pointerover", (event) => {
      const key = keyOf(event);
      if (key && !held) show(key);
    });
    element.addEventListener("click", (event) => {
      const key = keyOf(event);
      if (!key) return;
      held = !(held && element.dataset.at === key);
      show(key);
    });
    element.addEventListener("keydown", (event) => {
      const grid = event.target.closest?.(".grid");
      if (!grid) return;
      if (event.key === "Escape") held = false;
      if (event.key === "Enter") held = !held;
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      held = true;
      move(grid, step);
    });
    const place = (cell) => {
      const { e, f } = cell.transform.baseVal.consolidate().matrix;
      return [e, f];
    };
    const move = (grid, [dx, dy]) => {
      const some = [...grid.querySelectorAll(".cell[data-k]")];
      const now = some.find((cell) => cell.dataset.k === element.dataset.at);
      if (!some.length) return;
      if (!now) { show(some[0].dataset.k); return; }
      const [x, y] = place(now);
      // The nearest one in that direction, on the same line.
      const ahead = some.map((cell) => [cell, ...place(cell)])
        .filter(([, e, f]) => (dx ? f === y && (e - x) * dx > 0 : e === x && (f - y) * dy > 0))
        .sort((a, b) => Math.abs(a[1] - x) + Math.abs(a[2] - y) - Math.abs(b[1] - x) - Math.abs(b[2] - y));
      if (ahead.length) show(ahead[0][0].dataset.k);
    };
    for (const grid of element.querySelectorAll(".grid")) {
      grid.addEventListener("focus", () => { if (!grid.querySelector(".on")) move(grid, [0, 0]); });
    }
    for (const button of element.querySelectorAll("button[data-save]")) {
      button.addEventListener("click", () => {
        const picture = button.closest("figure").querySelector("svg").cloneNode(true);
        const style = document.createElementNS(picture.namespaceURI, "style");
        style.textContent = data.style;
        picture.prepend(style);
        const link = document.createElement("a");
        link.href = URL.createObjectURL(new Blob([picture.outerHTML], { type: "image/svg+xml" }));
        link.download = `${button.dataset.save}.svg`;
        link.click();
        URL.revokeObjectURL(link.href);
      });
    }
    show(section.start);
  }
}
