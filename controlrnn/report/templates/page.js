"use strict";
// Zoom of charts: a drag chooses a stretch of the horizontal axis for all panels of its chart, and of the vertical one
// of its own panel where it is tall; a double click shows everything again. Only the viewBox of a plot changes.
(() => {
  const NS = "http://www.w3.org/2000/svg", SIZE = 1000, MOST = 6;
  const make = (parent, name, attributes, text) => {
    const made = document.createElementNS(NS, name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    if (text !== undefined) made.textContent = text;
    parent.appendChild(made);
    return made;
  };
  const ends = (node, key) => node.getAttribute(key).split(" ").map(Number);
  const written = (value, step) => {
    if (Math.max(Math.abs(value), step) < 1e7 && step > 1e-6) {
      return (value + 0).toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
    }
    const digits = Math.max(1, Math.ceil(Math.log10(Math.max(Math.abs(value), step) / step)) + 1);
    return String(Number(value.toPrecision(Math.min(digits, 15))));
  };
  const ticks = (low, high, logarithmic) => {
    const rough = (high - low) / MOST, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough * (1 - 1e-12));
    const found = [];
    for (let n = Math.ceil(low / step - 1e-9); n <= Math.floor(high / step + 1e-9); n++) {
      const text = logarithmic ? String(Number((10 ** (n * step)).toPrecision(3))) : written(n * step, step);
      found.push([(n * step - low) / (high - low), text]);
    }
    return found;
  };
  for (const chart of document.querySelectorAll("svg.chart")) {
    const panels = [...chart.querySelectorAll(".panel")].map((group) => {
      const plot = group.querySelector(".plot");
      return {
        group, plot, y: ends(plot, "data-y"), log: plot.getAttribute("data-log") === "1", box: [0, 0, SIZE, SIZE],
        wide: Number(plot.getAttribute("width")), high: Number(plot.getAttribute("height")),
        texts: group.querySelector(".across text") !== null, as_drawn: new Map(),
      };
    });
    const x = ends(chart, "data-x");
    const at = (range, share) => range[0] + share * (range[1] - range[0]);
    const axis = (panel, kind, range, logarithmic) => {
      const box = panel.group.querySelector("." + kind), upright = kind === "up";
      if (!panel.as_drawn.has(kind)) panel.as_drawn.set(kind, [...box.childNodes]);
      box.replaceChildren();
      for (const [place, text] of ticks(range[0], range[1], logarithmic)) {
        const there = upright ? (1 - place) * panel.high : place * panel.wide;
        make(box, "line", upright ? { class: "grid", x1: 0, x2: panel.wide, y1: there, y2: there }
          : { class: "grid", x1: there, x2: there, y1: 0, y2: panel.high });
        if (upright) make(box, "text", { x: -6, y: there + 4 }, text);
        else if (panel.texts) make(box, "text", { x: there, y: panel.high + 14 }, text);
      }
    };
    const show = (panel) => {
      const [left, top, wide, high] = panel.box;
      panel.plot.setAttribute("viewBox", panel.box.join(" "));
      axis(panel, "across", [at(x, left / SIZE), at(x, (left + wide) / SIZE)], false);
      axis(panel, "up", [at(panel.y, 1 - (top + high) / SIZE), at(panel.y, 1 - top / SIZE)], panel.log);
    };
    const all = () => {
      for (const panel of panels) {
        panel.box = [0, 0, SIZE, SIZE];
        panel.plot.setAttribute("viewBox", panel.box.join(" "));
        for (const [kind, nodes] of panel.as_drawn) panel.group.querySelector("." + kind).replaceChildren(...nodes);
      }
    };
    for (const panel of panels) {
      let start = null, chosen = null;
      const read = make(panel.group, "text", { class: "read", x: panel.wide - 4, y: 13 }, "");
      const place = (event) => {
        const frame = panel.group.querySelector(".frame").getBoundingClientRect();
        return [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height]
          .map((share) => Math.min(Math.max(share, 0), 1));
      };
      const inside = ([across, down]) => [panel.box[0] + across * panel.box[2], panel.box[1] + down * panel.box[3]];
      const stretch = (from, to) => {
        const tall = Math.abs(to[1] - from[1]) * panel.high > 30;
        return { left: Math.min(from[0], to[0]), wide: Math.abs(to[0] - from[0]),
          top: tall ? Math.min(from[1], to[1]) : 0, high: tall ? Math.abs(to[1] - from[1]) : 1 };
      };
      const mark = (event) => {
        const s = stretch(start, place(event));
        for (const [key, number] of [["x", s.left * panel.wide], ["y", s.top * panel.high],
          ["width", s.wide * panel.wide], ["height", s.high * panel.high]]) chosen.setAttribute(key, number);
      };
      const end = (event) => {
        for (const kind of ["pointermove", "pointerup", "pointercancel"]) window.removeEventListener(kind, during[kind]);
        const s = stretch(start, place(event));
        chosen.remove();
        if (event.type === "pointercancel" || s.wide * panel.wide < 5) return;
        const left = panel.box[0] + s.left * panel.box[2], wide = s.wide * panel.box[2];
        panel.box = [left, panel.box[1] + s.top * panel.box[3], wide, s.high * panel.box[3]];
        for (const other of panels) {
          other.box = [left, other.box[1], wide, other.box[3]];
          show(other);
        }
      };
      const during = { pointermove: mark, pointerup: end, pointercancel: end };
      panel.plot.addEventListener("pointerdown", (event) => {
        if (event.button !== 0 || event.pointerType === "touch") return;
        start = place(event);
        chosen = make(panel.group, "rect", { class: "chosen", x: 0, y: 0, width: 0, height: 0 });
        for (const kind in during) window.addEventListener(kind, during[kind]);
        event.preventDefault();
      });
      panel.plot.addEventListener("pointermove", (event) => {
        const [across, down] = inside(place(event)), value = at(panel.y, 1 - down / SIZE);
        read.textContent = Number(at(x, across / SIZE).toPrecision(4)) + ", " +
          Number((panel.log ? 10 ** value : value).toPrecision(4));
      });
      panel.plot.addEventListener("pointerleave", () => { read.textContent = ""; });
      panel.plot.addEventListener("dblclick", all);
    }
  }
})();
