"use strict";

// Light or dark: as the system has it, until the reader chooses.
const system = window.matchMedia("(prefers-color-scheme: dark)");
const setDark = (dark) => {
  document.documentElement.classList.toggle("dark", dark);
  for (const plot of document.querySelectorAll(".plot.js-plotly-plot")) {
    Plotly.relayout(plot, colours(plot.layout));
  }
};
const colours = (layout) => {
  const style = getComputedStyle(document.documentElement);
  const [ink, faint, rule] = ["--ink", "--faint", "--rule"].map((name) => style.getPropertyValue(name).trim());
  const wanted = { "font.color": ink, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" };
  wanted["modebar.bgcolor"] = "rgba(0,0,0,0)";
  wanted["modebar.color"] = faint;
  wanted["modebar.activecolor"] = ink;
  wanted["hoverlabel.bgcolor"] = style.getPropertyValue("--paper").trim();
  for (const axis of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
    wanted[`${axis}.gridcolor`] = wanted[`${axis}.zerolinecolor`] = wanted[`${axis}.linecolor`] = rule;
  }
  return wanted;
};

document.documentElement.classList.toggle("dark", system.matches);
const config = {
  responsive: true,
  displaylogo: false,
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
};
const draw = (data) => {
  const { data: traces, layout } = JSON.parse(data.textContent);
  const plot = document.getElementById(data.dataset.plot);
  layout.uirevision = "the reader's";  // drawn anew, it stays where the reader has zoomed to
  if (document.querySelector(`button[data-log="${data.dataset.plot}"][aria-pressed="true"]`)) {
    layout.yaxis.type = "log";
  }
  return Plotly.react(plot, traces, layout, config).then(() => Plotly.relayout(plot, colours(plot.layout)));
};
document.querySelectorAll("script[data-plot]").forEach(draw);
system.addEventListener("change", () => setDark(system.matches));
document.getElementById("theme").addEventListener("click", () => {
  setDark(!document.documentElement.classList.contains("dark"));
});

document.querySelector("main").addEventListener("click", ({ target: button }) => {
  if (button.matches("button[data-log]")) {
    const log = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", log);
    Plotly.relayout(button.dataset.log, { "yaxis.type": log ? "log" : "linear", "yaxis.autorange": true });
  }
});

// The image of the point below the pointer, cut out of the sheet of all.
const sheet = document.getElementById("sheet");
if (sheet) {
  const tile = document.getElementById("tile");
  const [side, columns, scale] = [Number(sheet.dataset.side), Number(sheet.dataset.columns), 3];
  tile.style.backgroundImage = `url(${sheet.src})`;
  tile.style.backgroundSize = `${side * columns * scale}px auto`;
  const map = document.getElementById("feature-map");
  map.on("plotly_hover", ({ points, event }) => {
    const number = points[0].customdata;
    const [x, y] = [number % columns, Math.floor(number / columns)].map((place) => -place * side * scale);
    tile.style.backgroundPosition = `${x}px ${y}px`;
    tile.style.left = `${Math.min(event.clientX + 16, window.innerWidth - 112)}px`;
    tile.style.top = `${Math.min(event.clientY + 16, window.innerHeight - 112)}px`;
    tile.style.display = "block";
  });
  map.on("plotly_unhover", () => { tile.style.display = "none"; });
}

// Of a page that is served: every few seconds, what has changed. Charts stay, and are drawn anew.
const renew = (section, content) => {
  const fresh = document.createElement("template");
  fresh.innerHTML = content;
  const [old, now] = [[...section.children].slice(1), [...fresh.content.children]];
  if (old.map((part) => part.id).join() !== now.map((part) => part.id).join()) {
    old.forEach((part) => part.remove());
    section.append(...now);
    section.querySelectorAll("script[data-plot]").forEach(draw);
    return;
  }
  old.forEach((part, place) => {
    if (part.matches("script[data-plot]")) {
      if (part.textContent !== now[place].textContent) {
        part.textContent = now[place].textContent;
        draw(part);
      }
    } else if (!part.matches(".plot, button") && part.outerHTML !== now[place].outerHTML) {
      part.replaceWith(now[place]);
    }
  });
};
const follow = async () => {
  try {
    const answer = await fetch("parts", { cache: "no-cache" });
    const unread = { subtitle: "The journal cannot be read: load this page anew to see why.", sections: {} };
    const { subtitle, sections } = answer.ok ? await answer.json() : unread;
    document.getElementById("subtitle").textContent = subtitle;
    for (const [anchor, content] of Object.entries(sections)) {
      renew(document.getElementById(anchor), content);
    }
  } catch {
    document.getElementById("subtitle").textContent = "The server does not answer: is it still there?";
  }
  setTimeout(follow, 2000);
};
if ("live" in document.body.dataset) {
  setTimeout(follow, 2000);
}
