"use strict";
// Runs before the page is drawn, so that no light page flashes in the dark. "auto" follows the system.
const Theme = (() => {
  const choices = ["auto", "light", "dark"];
  let chosen = "auto";
  try { chosen = localStorage.getItem("theme") ?? "auto"; } catch { /* storage may be forbidden */ }

  function choose(name) {
    chosen = choices.includes(name) ? name : "auto";
    if (chosen === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    try { localStorage.setItem("theme", chosen); } catch { /* lasts for this page then */ }
    const button = document.getElementById("theme");
    if (!button) return;
    button.lastElementChild.textContent = `Theme: ${chosen}`;
    button.setAttribute("aria-label", `Theme: ${chosen}`);  // phones hide the words
  }

  choose(chosen);
  addEventListener("DOMContentLoaded", () => {
    choose(chosen);
    document.getElementById("theme").addEventListener("click", () => {
      choose(choices[(choices.indexOf(chosen) + 1) % choices.length]);
      dispatchEvent(new Event("theme"));
    });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("theme")));
})();
