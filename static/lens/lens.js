"use strict";
// The admin's own behaviour: copy buttons, the live audit list, and the chart of the overview.
(() => {
  async function copy(button) {
    await navigator.clipboard.writeText(button.dataset.copy);
    const icon = button.querySelector(".material-symbols-outlined");
    icon.textContent = "check";
    setTimeout(() => { icon.textContent = "content_copy"; }, 1500);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
  });

  // Replaces the list by a fresh one while the switch is on. Only the same page of the same filter is
  // asked for, and nothing is asked for while nobody looks.
  function live(box) {
    const toggle = box.querySelector("input");
    const state = box.querySelector(".lens-live-state");
    const remember = "lens-live";
    let busy = false;
    toggle.checked = sessionStorage.getItem(remember) === "1";
    toggle.addEventListener("change", () => {
      sessionStorage.setItem(remember, toggle.checked ? "1" : "0");
      state.textContent = "";
    });
    setInterval(async () => {
      if (!toggle.checked || busy || document.hidden) return;
      busy = true;
      try {
        const response = await fetch(location.href, { redirect: "error", credentials: "same-origin" });
        if (!response.ok) throw new Error(`status ${response.status}`);
        const page = new DOMParser().parseFromString(await response.text(), "text/html");
        const fresh = page.querySelector(box.dataset.liveTarget);
        document.querySelector(box.dataset.liveTarget).replaceWith(fresh);
        state.textContent = `as of ${new Date().toISOString().slice(11, 19)} UTC`;
      } catch {
        state.textContent = "not reachable, trying again";
      } finally {
        busy = false;
      }
    }, Number(box.dataset.liveEvery));
  }

  // The theme draws the chart on load and redraws it when the page turns dark or light; its text follows.
  function colourChart() {
    if (!window.Chart) return;
    const style = getComputedStyle(document.documentElement);
    Chart.defaults.color = style.getPropertyValue("--lens-soft").trim();
  }

  // The theme numbers dragged rules from 0; people count from 1.
  document.addEventListener("end", (event) => {
    const table = event.target.closest("table[data-ordering-field='position']");
    if (!table) return;
    setTimeout(() => {
      table.querySelectorAll("input[name$=-position]").forEach((input, index) => { input.value = index + 1; });
    });
  });

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll("[data-live-target]").forEach(live);
    new MutationObserver(colourChart).observe(document.documentElement, { attributeFilter: ["class"] });
  });
  window.addEventListener("load", colourChart);
})();
