/* Lists: choosing rows, moving by keys. See panel.js for the attributes. */
(() => {
  const { $, $$, on, storage, onFresh } = window.panel;

  const chosen = new Set(); // survives refreshes
  let lastBox = null;
  const showChosen = () => {
    const boxes = $$("[data-select]");
    boxes.forEach((box) => { box.checked = chosen.has(box.value); });
    const here = boxes.filter((box) => box.checked).length;
    $$("[data-select-all]").forEach((all) => {
      all.checked = here > 0 && here === boxes.length;
      all.indeterminate = here > 0 && here < boxes.length;
    });
    $$("[data-selection-bar]").forEach((bar) => { bar.hidden = !chosen.size; });
    $$("[data-selection-count]").forEach((place) => { place.textContent = `${chosen.size} selected`; });
  };
  const choose = (box, wish) => (wish ? chosen.add(box.value) : chosen.delete(box.value));
  on("click", "[data-select]", (box, e) => {
    const boxes = $$("[data-select]");
    const range = e.shiftKey && lastBox ? [boxes.indexOf(lastBox), boxes.indexOf(box)].sort((a, b) => a - b) : null;
    (range ? boxes.slice(range[0], range[1] + 1) : [box]).forEach((each) => choose(each, box.checked));
    lastBox = box;
    showChosen();
  });
  on("change", "[data-select-all]", (all) => { $$("[data-select]").forEach((box) => choose(box, all.checked)); showChosen(); });
  on("click", "[data-select-clear]", () => { chosen.clear(); showChosen(); });
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
      x: () => { const box = row && $("[data-select]", row); box?.click(); return box; },
      Enter: () => { const link = row === document.activeElement && $("[data-row-link]", row); if (link) link.click(); return link; },
    };
    if (keys[e.key]?.()) e.preventDefault();
  });

  onFresh(showChosen);
})();
