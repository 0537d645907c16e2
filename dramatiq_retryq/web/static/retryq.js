// What the page does beyond what it does without this: it keeps its figures fresh, and selects all at once.
"use strict";

(function () {
  const main = document.getElementById("main");
  const freshness = document.getElementById("freshness");

  // The zone of whoever looks, beside that of the server.
  function tellLocalTimes(root) {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const at = new Date(time.dateTime);
      if (!isNaN(at)) time.title += "\nhere: " + at.toLocaleString(undefined, { timeZoneName: "short" });
    }
  }

  // One box for all of the boxes of a table.
  function offerSelectAll(root) {
    for (const head of root.querySelectorAll("th.pick")) {
      const table = head.closest("table");
      const boxes = () => table.querySelectorAll("td.pick input");
      if (!boxes().length || head.querySelector("input")) continue;
      const all = document.createElement("input");
      all.type = "checkbox";
      all.setAttribute("aria-label", "Select all on this page");
      all.addEventListener("change", () => boxes().forEach((box) => { box.checked = all.checked; }));
      head.append(all);
    }
  }

  // Not while somebody has a hand on it: what is selected, open or in focus stays as it is.
  function isInUse(part) {
    const selection = document.getSelection();
    return part.contains(document.activeElement) || part.querySelector("input:checked") ||
      (selection && !selection.isCollapsed && selection.containsNode(part, true));
  }

  function renew(part, fresh) {
    if (isInUse(part)) return;
    const open = [...part.querySelectorAll("details[open]")].map((one) => one.id);
    const scrolled = [...part.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
    const copy = document.importNode(fresh, true);
    for (const id of open) {
      const one = copy.querySelector("#" + CSS.escape(id));
      if (one) one.open = true;
    }
    tellLocalTimes(copy);
    offerSelectAll(copy);
    part.replaceWith(copy);
    [...copy.querySelectorAll(".scroll")].forEach((one, n) => { one.scrollLeft = scrolled[n] || 0; });
  }

  async function refresh() {
    const response = await fetch(location.href, { credentials: "same-origin", cache: "no-store", redirect: "error" });
    if (!response.ok) throw new Error(String(response.status));
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      const fresh = page.getElementById(part.id);
      if (fresh) renew(part, fresh);
    }
  }

  function keepFresh(seconds) {
    const text = document.createElement("span");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "small";
    freshness.removeAttribute("role"); // a figure every five seconds is nothing to be read aloud
    freshness.append(text, button);
    let isOn = sessionStorage.getItem("retryq-refresh") !== "off";
    let last = new Date();
    let misses = 0;
    let took = 0; // seconds
    let timer = 0;

    function show() {
      const at = last.toLocaleTimeString(undefined, { timeZoneName: "short" });
      text.textContent = misses ? "Not renewed since " + at : isOn ? "Renewed " + at : "As of " + at;
      button.textContent = isOn ? "Stop renewing" : "Renew by itself";
    }
    function plan() {
      clearTimeout(timer);
      // Seldom where looking costs the server much, and where it does not answer; but once in a minute.
      const pause = Math.min(60, Math.max(seconds * 2 ** misses, took * 10));
      if (isOn && !document.hidden) timer = setTimeout(look, pause * 1000);
    }
    async function look() {
      const began = performance.now();
      try {
        await refresh();
        last = new Date();
        misses = 0;
      } catch {
        misses += 1;
      }
      took = (performance.now() - began) / 1000;
      show();
      plan();
    }
    button.addEventListener("click", () => {
      isOn = !isOn;
      sessionStorage.setItem("retryq-refresh", isOn ? "on" : "off");
      show();
      if (isOn) look();
      else clearTimeout(timer);
    });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && isOn) look();
      else plan();
    });
    show();
    plan();
  }

  tellLocalTimes(document);
  offerSelectAll(document);
  if (main.dataset.refresh) keepFresh(Number(main.dataset.refresh));
})();
