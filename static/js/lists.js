/* Lists: moving by keys. See panel.js for the attributes. */
(() => {
  const { $, $$, storage } = window.panel;

  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || e.defaultPrevented || storage.get("keys") === "off") return;
    if (e.target.closest("input, select, textarea, [contenteditable], dialog, .dropdown-menu.show, [data-own-keys]")) return;
    const rows = $$("table[data-list] > tbody > tr");
    const row = document.activeElement.closest?.("table[data-list] > tbody > tr");
    const go = (step) => {
      const next = rows[row ? rows.indexOf(row) + step : step > 0 ? 0 : rows.length - 1];
      if (next) { next.tabIndex = -1; next.focus(); }
    };
    const keys = {
      "/": () => { const field = $("[data-filter]"); field?.focus(); field?.select(); return field; },
      j: () => { go(1); return rows.length; },
      k: () => { go(-1); return rows.length; },
      Enter: () => { const link = row === document.activeElement && $("[data-row-link]", row); if (link) link.click(); return link; },
    };
    if (keys[e.key]?.()) e.preventDefault();
  });
})();
