/* Forms that help: rows that repeat, fields that depend on others, changes that are not lost. See panel.js for the attributes. */
(() => {
  const { $, $$, on, announce, onFresh } = window.panel;

  // --- Rows that repeat, fields that depend on others
  on("click", "[data-formset-add]", (button, e) => {
    e.preventDefault();
    const set = button.closest("[data-formset]");
    const total = $(`[name="${set.dataset.formset}-TOTAL_FORMS"]`, set);
    const holder = document.createElement("template");
    holder.innerHTML = $("template[data-formset-empty]", set).innerHTML.replaceAll("__prefix__", total.value);
    const row = holder.content.firstElementChild;
    $("[data-formset-rows]", set).append(row);
    total.value = Number(total.value) + 1;
    number(set);
    showWhen(row);
    $("input:not([type=hidden]), select, textarea", row)?.focus();
    row.dispatchEvent(new Event("input", { bubbles: true }));
  });
  on("click", "[data-formset-remove]", (button, e) => {
    e.preventDefault();
    const row = button.closest("[data-formset-row]");
    const set = row.closest("[data-formset]");
    $('[name$="-DELETE"]', row).checked = true;
    row.hidden = true;
    number(set);
    row.dispatchEvent(new Event("input", { bubbles: true }));
    announce("Row removed");
    ($("[data-formset-row]:not([hidden]) input:not([type=hidden])", set) || $("[data-formset-add]", set)).focus();
  });
  on("click", "[data-formset-move]", (button, e) => {
    e.preventDefault();
    const row = button.closest("[data-formset-row]");
    const rows = $$("[data-formset-row]:not([hidden])", row.parentElement);
    const other = rows[rows.indexOf(row) + (button.dataset.formsetMove === "up" ? -1 : 1)];
    if (!other) return;
    other[button.dataset.formsetMove === "up" ? "before" : "after"](row);
    number(row.closest("[data-formset]"));
    row.dispatchEvent(new Event("input", { bubbles: true }));
    button.focus();
  });
  const number = (set) => $$("[data-formset-row]:not([hidden])", set).forEach((row, place) => {
    const order = $('[name$="-ORDER"]', row);
    if (order) order.value = place + 1;
  });
  const valueOf = (name, near) => {
    const scope = near.closest("[data-formset-row]") || near.closest("form") || document;
    const named = `[name="${name}"], [name$="-${name}"]`;
    const fields = $$(named, scope).length ? $$(named, scope) : $$(named, near.closest("form") || document);
    const field = fields.find((each) => (/^(radio|checkbox)$/.test(each.type) ? each.checked : true));
    return field ? field.value : "";
  };
  const showWhen = (root) => $$("[data-show-when]", root).forEach((part) => {
    const [name, wanted] = part.dataset.showWhen.split("=");
    const value = valueOf(name, part);
    part.hidden = wanted === "*" ? !value : !wanted.split(",").includes(value);
    const controls = part.matches("fieldset") ? [part] : $$("input, select, textarea, fieldset", part);
    controls.forEach((each) => { each.disabled = part.hidden; });
  });

  // --- Unsaved changes: what would be sent now against what would have been sent at first
  const guards = new Map();
  const serialise = (form) => [...new FormData(form)].filter(([name, value]) => value && name !== "csrfmiddlewaretoken" && !name.endsWith("-TOTAL_FORMS"))
    .filter(([name]) => { // a row that was added and removed again is no change
      const [, set, place] = name.match(/^(.+)-(\d+)-/) || [];
      return !set || Number(place) < Number($(`[name="${set}-INITIAL_FORMS"]`, form)?.value) || !$(`[name="${set}-${place}-DELETE"]`, form)?.checked;
    }).map(([name, value]) => `${name}\0${value.name ?? value}`);
  const guard = (form) => {
    const first = guards.get(form);
    const now = serialise(form);
    const setting = (pair) => pair.split("\0")[0].replace(/^(.+-\d+)-.*/, "$1"); // a row counts once
    const changed = new Set([...now.filter((pair) => !first.includes(pair)), ...first.filter((pair) => !now.includes(pair))].map(setting));
    form.dataset.dirty = changed.size || form.dataset.guard === "unsaved" ? "1" : "";
    $$("[data-guard-bar]", form).forEach((bar) => { bar.hidden = !changed.size; });
    $$("[data-guard-count]", form).forEach((place) => { place.textContent = `${changed.size} setting${changed.size === 1 ? "" : "s"} changed`; });
  };
  document.addEventListener("input", (e) => {
    const form = e.target.closest("form");
    if (form) showWhen(form);
    if (form && guards.has(form)) guard(form);
  });
  document.addEventListener("reset", (e) => setTimeout(() => e.target.dispatchEvent(new Event("input", { bubbles: true }))));
  addEventListener("beforeunload", (e) => {
    if ($$("form[data-guard]").some((form) => form.dataset.dirty && !form.dataset.busy)) e.preventDefault();
  });

  document.addEventListener("keydown", (e) => { // Ctrl Enter saves
    const form = e.key === "Enter" && (e.ctrlKey || e.metaKey) && e.target.closest("form[data-guard]");
    if (form) { e.preventDefault(); form.requestSubmit(); }
  });
  // --- Interrupted: the session ended before the form was taken; after signing in, what was typed comes back
  const shelf = "interrupted-form";
  const shelve = (kept) => { try { if (kept) sessionStorage.setItem(shelf, JSON.stringify(kept)); else sessionStorage.removeItem(shelf); } catch { /* forbidden or full */ } };
  const shelved = () => { try { return JSON.parse(sessionStorage.getItem(shelf)); } catch { return null; } };
  const fields = (form) => [...form.elements].filter((each) => each.name && !/^(hidden|password|file|submit|button|fieldset)$/.test(each.type));
  document.addEventListener("submit", ({ target: form }) => {
    if (!form.matches("form[data-guard]")) return;
    const rows = $$("[data-formset]", form).map((set) => [set.dataset.formset, $(`[name="${set.dataset.formset}-TOTAL_FORMS"]`, set).value]);
    shelve({ path: location.pathname, rows, values: fields(form).map((each) => [each.name, each.value, each.checked]) });
  });
  const putBack = (form, kept) => {
    kept.rows.forEach(([prefix, total]) => {
      const set = $(`[data-formset="${prefix}"]`, form);
      while (set && Number($(`[name="${prefix}-TOTAL_FORMS"]`, set).value) < Number(total)) $("[data-formset-add]", set).click();
    });
    const all = fields(form);
    kept.values.forEach(([name, value, checked]) => all.filter((each) => each.name === name).forEach((each) => {
      if (!/^(radio|checkbox)$/.test(each.type)) each.value = value;
      else if (each.value === value) each.checked = checked;
      if (name.endsWith("-DELETE") && each.checked) each.closest("[data-formset-row]").hidden = true;
    }));
    form.dispatchEvent(new Event("input", { bubbles: true }));
    $$("details.fold", form).forEach((fold) => { fold.open ||= kept.values.some(([name, value]) => value && $(`[name="${CSS.escape(name)}"]:not([type=radio], [type=checkbox])`, fold)); });
    document.dispatchEvent(new CustomEvent("toast", { detail: { text: "What you typed is back. Send it once more." } }));
  };
  const resume = () => {
    const kept = shelved();
    if (!kept) return;
    if ($("[data-interrupted]")) return shelve({ ...kept, interrupted: true });
    if (!kept.interrupted) return shelve(null);
    const form = kept.path === location.pathname && $("form[data-guard]");
    if (!form) return;
    shelve(null);
    putBack(form, kept);
  };

  // --- A page that answered a form cannot be shown again without sending it again, so Back asks for its address instead
  const answered = performance.getEntriesByType("navigation")[0]?.responseStatus === 422 || $("form[data-guard=unsaved]");
  if (answered && $$("form[data-guard]").some((form) => new URL(form.getAttribute("action"), location).pathname === location.pathname)) {
    history.replaceState(history.state, "", location.href);
  }

  // --- What was said of a value goes with it: it is judged anew when the form is sent
  const forgive = (control) => {
    const field = control.closest("fieldset.field") || control.closest(".field");
    if (!field || !$(".field-error, [aria-invalid=true]", field)) return;
    $$(".field-error", field).forEach((said) => said.remove());
    $$("[aria-invalid=true]", field).forEach((each) => { each.removeAttribute("aria-invalid"); each.classList.remove("is-invalid"); });
    const ids = [field, ...$$("[id]", field)].map((each) => each.id).filter(Boolean);
    $$("main .alert[role=alert]").forEach((box) => {
      const lines = $$("li", box);
      lines.filter((line) => ids.includes($("a", line)?.hash.slice(1))).forEach((line) => line.remove());
      const left = $$("li", box).length;
      if (left === lines.length) return;
      if (!left) box.remove();
      else $(".alert-title", box).textContent = left === 1 ? "One field needs attention" : `${left} fields need attention`;
    });
  };
  for (const kind of ["input", "change"]) document.addEventListener(kind, (e) => e.target.closest("form") && forgive(e.target));
  const openFaulty = () => $$("main details").forEach((fold) => { if ($(".field-error, [aria-invalid=true]", fold)) fold.open = true; });

  // --- Finding a setting: what does not match is hidden, folds that hold a match open
  const words = new WeakMap();
  const wordsOf = (part) => {
    if (!words.has(part)) words.set(part, $$("label, legend, .setting-key, .field-help", part).map((each) => each.textContent).join(" ").toLowerCase());
    return words.get(part);
  };
  const filter = (field) => {
    const wanted = field.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    $$("[data-setting]").forEach((part) => {
      const fits = wanted.every((word) => wordsOf(part).includes(word));
      part.classList.toggle("is-filtered", !fits);
      found += fits ? 1 : 0;
      const fold = part.closest("details");
      if (fold && wanted.length && fits) fold.open = true;
    });
    $$("[data-setting-section], [data-setting-section] details").forEach((part) => {
      part.classList.toggle("is-filtered", wanted.length > 0 && !$("[data-setting]:not(.is-filtered)", part));
    });
    $$("[data-filter-none]").forEach((note) => { note.hidden = found > 0; });
    if (wanted.length) announce(`${found} setting${found === 1 ? "" : "s"}`);
  };
  document.addEventListener("input", (e) => { if (e.target.matches("[data-setting-filter]")) filter(e.target); });
  on("click", "[data-filter-clear]", () => { const field = $("[data-setting-filter]"); field.value = ""; filter(field); field.focus(); });
  document.addEventListener("keydown", (e) => { if (e.key === "Enter" && e.target.matches("[data-setting-filter]")) e.preventDefault(); });
  const unfold = () => { // a link to a setting opens the fold it is in
    const part = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const fold = part && part.closest("details");
    if (fold && !fold.open) { fold.open = true; part.scrollIntoView({ block: "center" }); }
  };
  addEventListener("hashchange", unfold);
  onFresh(unfold);

  // --- A remark leads to its line of the text
  on("click", "[data-raw-line]", (link, e) => {
    const area = document.getElementById(link.hash.slice(1));
    const lines = area.value.split("\n");
    const at = Number(link.dataset.rawLine) - 1;
    const start = lines.slice(0, at).reduce((sum, line) => sum + line.length + 1, 0);
    e.preventDefault();
    area.focus();
    area.setSelectionRange(start, start + (lines[at] || "").length);
    area.scrollTop = Math.max(0, at - 5) * parseFloat(getComputedStyle(area).lineHeight);
  });

  on("change", "form[data-autosubmit]", (form) => form.requestSubmit());
  onFresh(() => {
    $$("[data-formset]").forEach(number);
    showWhen(document);
    openFaulty();
    $$("form[data-guard]").forEach((form) => { if (!guards.has(form)) { guards.set(form, serialise(form)); guard(form); } });
  });
  resume();
})();
