/*
 * Everything the pages do besides links and forms. Behaviour is named by attributes. Here, on every page:
 *
 * panel:tick              event on <body>: every 2 s while the tab is visible, at once on return; hx-trigger="panel:tick from:body"
 * data-dialog-open="#id"  opens that <dialog> (a link keeps its href for pages without JavaScript) · data-dialog-close
 *                         a <dialog> that htmx puts into #dialog-slot opens by itself
 * data-confirm-name="x"   input; [data-confirm-submit] of its form stays off until exactly x is typed
 * data-copy="text|#id"    copies the text, or the text of that element
 * data-theme-switch       form whose buttons' value is system, light or dark · data-sidebar-toggle · data-keys-switch
 * data-since="ISO time"   ticking duration · data-page-state="running|failed|…" title mark and favicon follow it
 * data-dismiss            closes its [data-dismissable] · data-focus takes the focus after a swap · data-keep  no morph touches it
 * A POST form is sent once; its button shows that it is busy. HX-Trigger "announce" and "toast" speak (see base.html).
 *
 * In forms.js:
 * data-formset="prefix"   holds the management form, [data-formset-rows] of [data-formset-row], <template data-formset-empty>;
 *                         buttons data-formset-add, data-formset-remove, data-formset-move="up|down"
 * data-show-when="a=b,c"  shown (and its controls sent) only while field a of the same row or form is b or c; a=* any value
 * data-guard              form: asks before leaving with changes, with "unsaved" from the start; [data-guard-bar] shows while there are some, [data-guard-count]
 * data-interrupted        on the pages that ask to sign in anew, or to send it once more: the guarded form sent last comes back filled, passwords aside
 * data-autosubmit         form that is sent when a field of it changes
 *
 * In lists.js:
 * data-list               table: j k move, Enter opens [data-row-link] · data-filter  the field that "/" jumps to
 */
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const on = (event, selector, act) => document.addEventListener(event, (e) => {
    const found = e.target instanceof Element && e.target.closest(selector);
    if (found) act(found, e);
  });
  const storage = { get: (key) => { try { return localStorage.getItem(key); } catch { return null; } },
                    set: (key, value) => { try { localStorage.setItem(key, value); } catch { /* forbidden */ } } };

  // --- Speaking: two live regions, present from the start, never swapped
  const announce = (text, assertive = false) => {
    const region = $(assertive ? "#live-assertive" : "#live-polite");
    region.textContent = "";
    setTimeout(() => { region.textContent = text; }, 50);
  };
  const icon = (name) => $(`[data-icon="${name}"]`, $("#icons").content).firstElementChild.cloneNode(true);
  const toast = ({ text, href, link, kind = "" }) => {
    const note = document.createElement("div");
    const shown = Date.now();
    note.className = `toast-note ${kind && `toast-${kind}`}`;
    note.dataset.dismissable = "";
    const words = document.createElement("span");
    words.append(text);
    if (href) {
      const a = document.createElement("a");
      a.href = href;
      a.textContent = link || "View";
      words.append(" ", a);
    }
    const close = document.createElement("button");
    close.type = "button";
    close.className = "btn btn-plain";
    close.dataset.dismiss = "";
    close.setAttribute("aria-label", "Dismiss");
    close.append(icon("x-lg"));
    note.append(words, close);
    $("#toasts").append(note);
    announce(text, kind === "danger");
    const leave = () => (note.matches(":hover, :focus-within") ? setTimeout(leave, 3000) : note.remove());
    note.addEventListener("outdated", () => setTimeout(leave, Math.max(0, shown + 4000 - Date.now())));
    if (kind !== "danger") setTimeout(leave, 8000);
    while ($("#toasts").children.length > 4) $("#toasts").firstElementChild.remove();
  };
  document.addEventListener("announce", ({ detail }) => announce(detail.text ?? detail.value, detail.assertive));
  document.addEventListener("toast", ({ detail }) => toast(detail.text ? detail : { text: detail.value }));
  // What a note says was true of a moment: the next thing that is done or seen to change takes it away, once it could be read.
  const outdate = () => $$("#toasts > *").forEach((note) => note.dispatchEvent(new CustomEvent("outdated")));
  on("click", "[data-dismiss]", (button) => button.closest("[data-dismissable]").remove());

  // --- The tick, and everything that shows time
  const tick = () => document.body.dispatchEvent(new CustomEvent("panel:tick"));
  setInterval(() => document.hidden || tick(), 2000);
  document.addEventListener("visibilitychange", () => document.hidden || tick());
  const span = (total) => {
    if (total < 1) return "<1\u00a0s";
    const parts = [];
    for (const [unit, length] of [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]]) {
      const count = Math.floor(total / length);
      total -= count * length;
      if (count || parts.length || unit === "s") parts.push(`${count}\u00a0${unit}`);
    }
    return parts.slice(0, 2).join("\u00a0");
  };
  const count = () => $$("[data-since]").forEach((element) => {
    const text = span(Math.max(0, Math.floor((Date.now() - Date.parse(element.dataset.since)) / 1000)));
    if (element.textContent !== text) element.textContent = text;
  });
  setInterval(() => document.hidden || count(), 1000);

  // --- Dialogs
  const openDialog = (dialog) => {
    if (!dialog || dialog.matches(":modal")) return;
    dialog.removeAttribute("open");
    dialog.showModal();
    armNames(dialog);
  };
  on("click", "[data-dialog-open]", (opener, e) => {
    const dialog = $(opener.dataset.dialogOpen);
    if (!dialog) return;
    e.preventDefault();
    openDialog(dialog);
  });
  // What was chosen from a menu goes away with it: the menu's button takes the focus, and a dialog gives it back there.
  on("click", ".dropdown-menu :is(a, button).dropdown-item", (item) => item.closest(".dropdown")?.querySelector("[data-bs-toggle]")?.focus());
  on("click", "[data-dialog-close]", (button) => button.closest("dialog").close());
  on("mousedown", "dialog", (dialog, e) => e.target === dialog && dialog.close());
  const armNames = (root) => $$("[data-confirm-name]", root).forEach((field) => {
    const button = $("[data-confirm-submit]", field.form);
    if (button) button.disabled = field.value !== field.dataset.confirmName;
  });
  on("input", "[data-confirm-name]", (field) => armNames(field.form));

  // --- Copying
  on("click", "[data-copy]", async (button) => {
    const wish = button.dataset.copy;
    const text = wish.startsWith("#") ? ($(wish).value ?? $(wish).textContent).trim() : wish;
    try { await navigator.clipboard.writeText(text); } catch { // no clipboard on plain http
      const field = document.createElement("textarea");
      field.value = text;
      (button.closest("dialog") || document.body).append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
      button.focus();
    }
    announce("Copied");
    const drawing = $("svg", button);
    if (!drawing || button.classList.contains("copied")) return;
    const done = icon("check-lg");
    drawing.replaceWith(done);
    button.classList.add("copied");
    setTimeout(() => { done.replaceWith(drawing); button.classList.remove("copied"); }, 1500);
  });

  // --- Appearance
  on("click", "[data-theme-switch] [name=theme]", (button, e) => {
    e.preventDefault();
    const form = button.form;
    document.documentElement.dataset.theme = button.value;
    $$("[name=theme]", form).forEach((each) => each.setAttribute("aria-pressed", each === button));
    fetch(form.action, { method: "POST", body: new URLSearchParams([...new FormData(form), ["theme", button.value]]), redirect: "manual" });
  });
  const sidebar = (flip) => {
    const root = document.documentElement;
    if (flip) root.dataset.sidebar = root.dataset.sidebar === "narrow" ? "" : "narrow";
    if (flip) storage.set("sidebar", root.dataset.sidebar);
    $("[data-sidebar-toggle]")?.setAttribute("aria-pressed", root.dataset.sidebar === "narrow");
  };
  on("click", "[data-sidebar-toggle]", () => sidebar(true));
  on("change", "[data-keys-switch]", (box) => storage.set("keys", box.checked ? "on" : "off"));

  // --- Sending a form: once
  document.addEventListener("submit", (e) => {
    const form = e.target;
    if (form.getAttribute("method") !== "post") return;
    if (form.dataset.busy) { e.preventDefault(); e.stopImmediatePropagation(); return; }
    form.dataset.busy = "1";
    const button = e.submitter;
    setTimeout(() => { // after the button's own name and value went into the request
      if (e.defaultPrevented && form.dataset.busy !== "htmx") { delete form.dataset.busy; return; }
      if (!button) return;
      button.disabled = true;
      button.classList.add("is-busy");
    });
  }, true);
  document.addEventListener("htmx:beforeSend", ({ detail }) => { if (detail.elt.dataset.busy) detail.elt.dataset.busy = "htmx"; });
  const release = (form) => {
    delete form.dataset.busy;
    $$(".is-busy", form).forEach((button) => { button.disabled = false; button.classList.remove("is-busy"); });
  };
  addEventListener("pageshow", (e) => { // a page that was left by sending a form knows nothing of what came of it
    if (e.persisted && $("form[data-busy]")) location.reload();
  });

  // --- Title and favicon follow what the page is about
  const title = document.title;
  const marks = { running: "◔ ", failed: "✕ ", timed_out: "✕ ", succeeded: "✓ ", cancelled: "⊘ ", lost: "? " };
  const pageState = () => {
    const state = $("[data-page-state]")?.dataset.pageState;
    const favicon = $("#favicon");
    if (!state || !favicon) return;
    favicon.dataset.plain ||= favicon.href;
    document.title = (marks[state] || "") + title;
    const href = { running: favicon.dataset.running, failed: favicon.dataset.failed, timed_out: favicon.dataset.failed }[state] || favicon.dataset.plain;
    if (favicon.getAttribute("href") !== href) favicon.href = href;
  };

  // --- What a new piece of page needs, at first and after every swap
  const care = [];
  const onFresh = (act) => { care.push(act); act(); };
  document.addEventListener("htmx:afterSettle", ({ detail }) => {
    if (detail.target.id !== "running-jobs" && detail.target.matches("[hx-trigger*='panel:tick'], [data-page-state]")) outdate();
    care.forEach((act) => act());
    if (detail.target.matches(".dropdown-menu")) window.bootstrap?.Dropdown.getInstance($("[data-bs-toggle]", detail.target.parentElement))?.update();
    if (detail.target.id === "dialog-slot") openDialog($("dialog", detail.target));
    ($("[data-focus]", detail.target) || (detail.target.matches("[data-focus]") ? detail.target : null))?.focus();
  });
  document.addEventListener("htmx:afterRequest", ({ detail }) => {
    const form = detail.elt.closest("form");
    if (form) release(form);
    if (detail.successful && detail.requestConfig.verb !== "get") outdate();
    if (form && detail.successful && detail.requestConfig.verb !== "get") form.closest("dialog[open]")?.close();
    if (detail.xhr.status) $("#offline").hidden = true;
  });
  document.addEventListener("htmx:beforeOnLoad", (e) => { // a refresh that nobody asked for leads nobody away from a form
    if (e.detail.requestConfig.triggeringEvent?.type === "panel:tick" && $("form[data-guard]")) {
      if (e.detail.xhr.getResponseHeader("HX-Redirect")) e.preventDefault();
    }
  });
  document.addEventListener("htmx:beforeSwap", (e) => { // the session ended meanwhile: sign in, then come back here
    const { xhr } = e.detail;
    const login = document.body.dataset.loginUrl;
    if (!xhr.responseURL || new URL(xhr.responseURL).pathname !== login || location.pathname === login) return;
    e.detail.shouldSwap = false;
    location.assign(`${login}?next=${encodeURIComponent(location.pathname + location.search)}`);
  });
  document.addEventListener("htmx:responseError", ({ detail }) => {
    const { status, responseText, statusText } = detail.xhr;
    if (/"toast"/.test(detail.xhr.getResponseHeader("HX-Trigger") || "")) return;
    const plain = responseText.length < 300 && !responseText.includes("<") ? responseText : "";
    const said = { 403: "You may not do this.", 404: "This is no longer there.", 409: "Somebody was faster; reload to see.", 429: "Too many requests; wait a moment." };
    toast({ text: plain || said[status] || `The panel answered ${status} ${statusText}.`, kind: "danger" });
  });
  const offline = () => {
    const bar = $("#offline");
    if (!bar.hidden) return;
    $("span", bar).textContent = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    bar.hidden = false;
  };
  document.addEventListener("htmx:sendError", offline);
  addEventListener("online", tick);

  // --- Morphing must not close what people opened or undo what they ticked
  const bare = new Set(); // lost an hx- attribute: htmx forgets what it did only when told to look again
  if (window.Idiomorph) {
    const keeps = (node) => node.matches("details, dialog, .dropdown-menu.show, [aria-expanded=true], .is-busy, [data-busy]");
    Idiomorph.defaults.ignoreActiveValue = true;
    Idiomorph.defaults.callbacks.beforeNodeMorphed = (old, fresh) => {
      if (old instanceof Element && old.matches("[data-keep]")) return false;
      if (old instanceof Element && old.matches("relative-time") && old.getAttribute("datetime") === fresh.getAttribute?.("datetime")) return false;
      return true;
    };
    Idiomorph.defaults.callbacks.beforeAttributeUpdated = (attribute, node, how) => {
      if (how === "remove" && attribute.startsWith("hx-")) bare.add(node);
      if (attribute === "open" && node.matches("details, dialog")) return false;
      if (["class", "style", "aria-expanded", "data-popper-placement", "disabled", "data-busy"].includes(attribute) && keeps(node)) return false;
      return true;
    };
  }

  // --- Menus: out of whatever would clip them, a table's own scrolling included
  if (window.bootstrap) window.bootstrap.Dropdown.Default.popperConfig = { strategy: "fixed" };

  sidebar(false);
  $$("[data-keys-switch]").forEach((box) => { box.checked = storage.get("keys") !== "off"; });
  onFresh(() => { bare.forEach((node) => window.htmx.process(node)); bare.clear(); });
  onFresh(() => armNames(document));
  onFresh(count);
  onFresh(pageState);
  $$(".tabs [aria-current]").forEach((tab) => { tab.parentElement.scrollLeft = tab.offsetLeft - tab.parentElement.offsetLeft - 48; });
  $("[data-focus]")?.focus();
  window.panel = { $, $$, on, storage, announce, onFresh }; // for forms.js and lists.js
})();
