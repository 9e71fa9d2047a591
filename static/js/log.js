/*
 * The log view (templates/jobs/_log.html, which also describes the stream). Lines are only ever appended, by number: a line
 * that is here already is skipped, one that is ahead of its turn makes us ask again from where we stand. Following is a
 * state: on at the end of a living log, off at the first upward wheel, touch, key or drag; it never scrolls smoothly.
 */
(() => {
  const log = document.querySelector("[data-log]");
  if (!log) return;
  const $ = (selector, root = log) => root.querySelector(selector);
  const $$ = (selector, root = log) => [...root.querySelectorAll(selector)];
  const box = $("[data-log-scroll]");
  const newLines = $("[data-log-new]");
  const CAP = 20000;
  const BLOCK = 500;
  let last = Number(log.dataset.last);
  let held = $$(".log-block > p").length;
  let alive = "streamUrl" in log.dataset;
  let follow = false;
  let unseen = 0;
  const kept = { get: (key) => { try { return sessionStorage.getItem(`log.${key}`); } catch { return null; } },
                 set: (key, value) => { try { sessionStorage.setItem(`log.${key}`, value); } catch { /* forbidden */ } } };
  const button = (name) => $(`.log-buttons [data-log-do="${name}"]`);
  const numberOf = (line) => Number(line.id.slice(1));
  const status = (text) => { $("[data-log-status]").textContent = text; };

  // --- Following
  const toEnd = () => { box.scrollTop = box.scrollHeight; requestAnimationFrame(() => { if (follow) box.scrollTop = box.scrollHeight; }); };
  const atEnd = () => box.scrollHeight - box.scrollTop - box.clientHeight < 8;
  const setFollow = (wish) => {
    follow = wish && alive;
    button("follow").setAttribute("aria-pressed", follow);
    if (wish) { unseen = 0; toEnd(); }
    showUnseen();
  };
  const showUnseen = () => {
    newLines.hidden = !unseen || follow;
    newLines.textContent = `↓ ${unseen.toLocaleString()} new line${unseen === 1 ? "" : "s"}`;
  };
  let top = 0;
  let shape = "";
  let grabbed = false; // the pointer is down in here: the scrollbar is dragged, or text selected
  // A window made larger or a phase that folds moves the lines too, and is nobody's wish to stop.
  const reshaped = () => shape !== (shape = `${box.clientWidth}×${box.clientHeight}×${box.scrollHeight}`);
  new ResizeObserver(() => { if (follow) toEnd(); }).observe(box);
  // --- The last line stands above the fold: the box is as high as the window has room below the page's head. Where that
  // is too little to read in, it fills the window, and a living log is scrolled into it.
  const LEAST = 224;
  const MARGIN = 12;
  const fit = () => {
    if (document.fullscreenElement === log) { box.removeAttribute("style"); return true; }
    const place = box.getBoundingClientRect();
    const above = place.top + scrollY;
    const below = log.getBoundingClientRect().bottom - place.bottom + MARGIN;
    const room = innerHeight - above - below;
    const bar = document.querySelector(".topbar")?.offsetHeight || 0;
    const height = `${Math.round(room >= LEAST ? room : Math.max(LEAST, innerHeight - bar - (place.top - log.getBoundingClientRect().top) - below - MARGIN))}px`;
    const limit = alive ? "height" : "maxHeight";
    if (box.style[limit] !== height) box.style[limit] = height;
    return room >= LEAST;
  };
  const head = document.querySelector("#job-status");
  if (head) new ResizeObserver(fit).observe(head);
  addEventListener("resize", fit);
  document.addEventListener("fullscreenchange", fit);
  let touchY = 0;
  box.addEventListener("wheel", (e) => { if (e.deltaY < 0 && follow) setFollow(false); }, { passive: true });
  box.addEventListener("touchstart", (e) => { touchY = e.touches[0].clientY; }, { passive: true });
  box.addEventListener("touchmove", (e) => { if (e.touches[0].clientY > touchY + 4 && follow) setFollow(false); }, { passive: true });
  box.addEventListener("pointerdown", () => { grabbed = true; }, { passive: true });
  for (const over of ["pointerup", "pointercancel", "pointermove"]) addEventListener(over, (e) => { if (!e.buttons) grabbed = false; }, { passive: true });
  box.addEventListener("scroll", () => {
    const down = box.scrollTop > top;
    const up = box.scrollTop < top - 4 && !atEnd();
    const moved = reshaped();
    if (follow && up && (grabbed || !moved)) setFollow(false);
    else if (follow && !atEnd()) toEnd();
    else if (!follow && down && alive && atEnd()) setFollow(true);
    top = box.scrollTop;
  }, { passive: true });

  // --- Putting lines where they belong
  const phases = () => $$(".log-phase");
  const phaseOf = (number, among = phases()) => among.findLast((phase) => Number(phase.dataset.first) <= number) || among[0];
  const parse = (html) => {
    const holder = document.createElement("template");
    holder.innerHTML = html;
    return [...holder.content.children];
  };
  const put = (lines, among = phases()) => lines.forEach((line) => {
    const phase = phaseOf(numberOf(line), among);
    let block = phase.lastElementChild;
    if (!block?.matches(".log-block") || block.children.length >= BLOCK) {
      block = document.createElement("div");
      block.className = "log-block";
      phase.append(block);
    }
    block.append(line);
    if (log.dataset.time) stamp(line);
  });
  const append = (html) => {
    const fresh = [];
    for (const line of parse(html)) {
      const number = numberOf(line);
      if (number <= last) continue;
      if (number > last + 1) { put(fresh); connect(); return; }
      last = number;
      fresh.push(line);
    }
    if (!fresh.length) return;
    $("[data-log-nothing]")?.remove();
    put(fresh);
    held += fresh.length;
    spoken += fresh.length;
    if (follow) toEnd(); else { unseen += fresh.length; showUnseen(); }
    trim();
    if (words) searchSoon();
  };
  const trim = () => { // the oldest blocks leave; "Load earlier lines" brings them back
    for (const block of $$(".log-block")) {
      if (held <= CAP) return;
      held -= block.children.length;
      block.remove();
      offerEarlier();
    }
  };
  const firstLine = () => { const line = $(".log-block > p"); return line ? numberOf(line) : 1; };
  const offerEarlier = () => {
    const first = firstLine();
    let offer = $("[data-log-earlier]");
    if (!log.dataset.earlierUrl || first <= 1) { offer?.remove(); return; }
    if (!offer) {
      offer = document.createElement("p");
      offer.className = "log-earlier";
      offer.dataset.logEarlier = "";
      offer.append(Object.assign(document.createElement("a"), { className: "btn btn-quiet", textContent: "Load earlier lines" }));
      box.prepend(offer);
    }
    $("a", offer).href = `${log.dataset.earlierUrl}?before=${first}`;
  };
  const loadEarlier = async (link) => {
    link.classList.add("is-busy");
    try {
      const answer = await fetch(link.href, { headers: { "X-Log": "1" } });
      if (!answer.ok) throw new Error(answer.status);
      const before = firstLine();
      const lines = parse(await answer.text()).filter((line) => numberOf(line) < before);
      const fromEnd = box.scrollHeight - box.scrollTop;
      const groups = new Map();
      const among = phases();
      lines.forEach((line) => { const phase = phaseOf(numberOf(line), among); groups.set(phase, [...(groups.get(phase) || []), line]); });
      groups.forEach((members, phase) => {
        for (let end = members.length; end > 0; end -= BLOCK) {
          const block = document.createElement("div");
          block.className = "log-block";
          block.append(...members.slice(Math.max(0, end - BLOCK), end));
          const summary = $("summary", phase);
          if (summary) summary.after(block); else phase.prepend(block);
        }
        if (log.dataset.time) members.forEach(stamp);
      });
      held += lines.length;
      offerEarlier();
      if (!lines.length) $("[data-log-earlier]")?.remove();
      box.scrollTop = box.scrollHeight - fromEnd;
      status(`${lines.length} earlier lines loaded`);
    } catch { link.textContent = "That did not work. Try again"; }
    link.classList.remove("is-busy");
  };

  // --- Phases and the end
  const duration = (seconds) => {
    const whole = Math.max(0, Math.round(seconds));
    const [d, h, m, s] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60, whole % 60];
    const parts = [[d, "d"], [h, "h"], [m, "m"], [s, "s"]];
    const start = Math.max(0, parts.findIndex(([count]) => count));
    return (whole ? parts.slice(start, start + 2) : [["<1", "s"]]).map(([count, unit]) => `${count}\u00a0${unit}`).join("\u00a0");
  };
  const finish = (phase, state, at) => {
    if (!phase?.matches("details")) return;
    phase.dataset.state = state;
    $(".visually-hidden", phase).textContent = state;
    if (at) $(".log-phase-time", phase).textContent = duration(at - Number(phase.dataset.at));
    else $("[data-since]", phase)?.removeAttribute("data-since"); // it stands still where it is
    if (state === "succeeded" && !(phase.contains(document.activeElement))) phase.open = false;
  };
  const beginPhase = ({ name, line, at }) => {
    if (phases().some((phase) => Number(phase.dataset.first) === line && $("b", phase)?.textContent === name)) return;
    const before = phases().pop();
    const phase = document.createElement("details");
    phase.className = "log-phase";
    phase.open = true;
    Object.assign(phase.dataset, { first: line, at, state: "running" });
    const part = (tag, css, text = "") => Object.assign(document.createElement(tag), { className: css, textContent: text });
    const ticking = document.createElement("span");
    ticking.dataset.since = new Date(at * 1000).toISOString();
    const time = part("span", "log-phase-time");
    time.append(ticking);
    const summary = document.createElement("summary");
    summary.append(part("span", "log-phase-icon"), part("b", "", name), part("span", "visually-hidden", "running"), time);
    phase.append(summary);
    before.after(phase);
    put($$(".log-block > p", before).filter((each) => numberOf(each) >= line)); // if they came first after all
    finish(before, "succeeded", at);
    status(`${$("b", before)?.textContent ? `Phase ${$("b", before).textContent} finished. ` : ""}Phase ${name} began.`);
    if (follow) toEnd();
  };
  const end = ({ state, text, error_line: errorLine, at }) => {
    disconnect();
    alive = false;
    box.style.removeProperty("height");
    fit();
    finish(phases().pop(), state, at);
    $("[data-log-nothing]")?.remove();
    const closing = document.createElement("p");
    closing.className = "log-end";
    closing.dataset.state = state;
    closing.append(Object.assign(document.createElement("span"), { className: "log-phase-icon" }), text);
    if (errorLine) closing.append(" · ", Object.assign(document.createElement("a"), { href: `#L${errorLine}`, textContent: "jump to first error" }));
    box.append(closing);
    if (follow) toEnd();
    follow = false;
    button("follow").hidden = true;
    newLines.hidden = true;
    status(`Job ${log.dataset.job} ${text}`);
    document.body.dispatchEvent(new CustomEvent("panel:tick")); // the rest of the page wants to know too
  };

  // --- The stream: open while the tab is visible and the job goes on
  let stream = null;
  let retry = 0;
  let patience = 1000;
  const disconnect = () => { clearTimeout(retry); stream?.close(); stream = null; };
  const connect = () => {
    disconnect();
    if (!alive || document.hidden) return;
    const address = new URL(log.dataset.streamUrl, location.href);
    address.searchParams.set("after", last);
    const mine = new EventSource(address);
    stream = mine;
    const hear = (name, act) => mine.addEventListener(name, (e) => { if (mine === stream) { patience = 1000; act(e.data); } });
    hear("lines", append);
    hear("phase", (data) => beginPhase(JSON.parse(data)));
    hear("end", (data) => end(JSON.parse(data)));
    mine.addEventListener("error", () => { // we come back ourselves, with the number of the line we have
      if (mine !== stream) return;
      disconnect();
      retry = setTimeout(connect, patience);
      patience = Math.min(patience * 2, 15000);
    });
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", (e) => e.persisted && connect());
  addEventListener("online", connect);
  let spoken = 0;
  setInterval(() => { if (spoken && alive) status(`${spoken} new lines`); spoken = 0; }, 30000);

  // --- Searching: marks without touching the lines (CSS highlights), all matches counted
  const field = $(".log-search input");
  let words = "";
  let hits = [];
  let now = -1;
  let soon = 0;
  const marks = window.CSS?.highlights && { hit: new Highlight(), now: new Highlight() };
  if (marks) { CSS.highlights.set("log-hit", marks.hit); CSS.highlights.set("log-now", marks.now); }
  const rangesIn = (line) => {
    const texts = [];
    const walker = document.createTreeWalker(line.lastElementChild, NodeFilter.SHOW_TEXT);
    let whole = "";
    for (let node = walker.nextNode(); node; node = walker.nextNode()) { texts.push([whole.length, node]); whole += node.data; }
    const found = [];
    const low = whole.toLowerCase();
    const place = (offset) => { const [start, node] = texts.filter(([from]) => from <= offset).pop(); return [node, offset - start]; };
    for (let at = low.indexOf(words); at >= 0; at = low.indexOf(words, at + words.length)) {
      const range = new Range();
      range.setStart(...place(at));
      const [node, offset] = place(at + words.length - 1);
      range.setEnd(node, Math.min(offset + 1, node.length));
      found.push(range);
    }
    return found;
  };
  const search = () => {
    const before = hits[now]?.startContainer;
    hits = words ? $$(".log-block > p").filter((line) => line.lastElementChild.textContent.toLowerCase().includes(words)).flatMap(rangesIn) : [];
    now = before ? hits.findIndex((range) => range.startContainer === before) : -1;
    looking = askElsewhere();
    marks?.hit.clear();
    if (marks) hits.slice(0, 5000).forEach((range) => marks.hit.add(range));
    showHits();
  };
  // The lines that are not here are searched by the panel; "previous" brings the nearest of them.
  let elsewhere = null; // {count, line, since} once it is known, {failed} where it cannot be
  let asking = null;
  let looking = Promise.resolve();
  const askElsewhere = async () => {
    asking?.abort();
    elsewhere = null;
    const before = firstLine();
    if (!words || !log.dataset.searchUrl || before <= 1) { elsewhere = { count: 0, line: 0, since: 1 }; return; }
    asking = new AbortController();
    try {
      const answer = await fetch(`${log.dataset.searchUrl}?${new URLSearchParams({ q: words, before })}`, { signal: asking.signal });
      if (!answer.ok || answer.redirected) throw new Error(answer.status);
      elsewhere = await answer.json();
    } catch (error) {
      if (error.name === "AbortError") return;
      elsewhere = { failed: true, count: 0, line: 0 };
    }
    showHits();
  };
  const lines = (count) => `${count.toLocaleString()} earlier line${count === 1 ? "" : "s"}`;
  const hitWords = () => {
    const here = hits.length ? `${now < 0 ? "" : `${now + 1}/`}${hits.length}` : "";
    if (!elsewhere) return here || "searching…";
    if (elsewhere.failed) return `${here || "none"} here, earlier lines not searched`;
    const far = elsewhere.count ? `${here ? "+ " : ""}${lines(elsewhere.count)}` : "";
    const bound = elsewhere.since > 1 ? ` from line ${elsewhere.since.toLocaleString()}` : "";
    return `${here}${here && far ? " " : ""}${far}` + bound || "none";
  };
  const goElsewhere = async () => { // bring what lies between, unless it is too much for a page
    const { line } = elsewhere;
    if (firstLine() - line > CAP) { location.assign(`${log.dataset.earlierUrl}?before=${line + 30}#L${line}`); return; }
    $("[data-log-hits]").textContent = "loading…";
    for (let first = firstLine(); line < first; first = firstLine()) {
      await loadEarlier($("[data-log-earlier] a"));
      if (firstLine() === first) { showHits(); return; } // what went wrong stands on its button
    }
    search();
    now = hits.findLastIndex((range) => numberOf(range.startContainer.parentElement.closest(".log-block > p")) <= line);
    showHits();
  };
  const showHits = () => {
    $("[data-log-hits]").textContent = words ? hitWords() : "";
    marks?.now.clear();
    $$(".is-now").forEach((line) => line.classList.remove("is-now"));
    if (!hits[now]) return;
    marks?.now.add(hits[now]);
    const line = hits[now].startContainer.parentElement.closest(".log-block > p");
    line.classList.add("is-now");
    reveal(line);
  };
  const searchSoon = () => { clearTimeout(soon); soon = setTimeout(search, 150); };
  const goHit = async (step) => {
    const isFirst = !hits.length || (step < 0 && now === 0);
    if (isFirst) await looking;
    if (isFirst && elsewhere?.line) { setFollow(false); await goElsewhere(); return; }
    if (!hits.length) return;
    setFollow(false);
    now = now < 0 ? (step > 0 ? 0 : hits.length - 1) : (now + step + hits.length) % hits.length;
    showHits();
  };
  field.addEventListener("input", () => { words = field.value.toLowerCase(); searchSoon(); });
  field.addEventListener("keydown", (e) => {
    if (e.key === "Enter") { e.preventDefault(); clearTimeout(soon); search(); goHit(e.shiftKey ? -1 : 1); }
    if (e.key === "Escape") { field.value = words = ""; search(); box.focus(); }
  });

  // --- Lines by their address: #L42 and #L42-L60
  const reveal = (line) => {
    line.closest("details")?.setAttribute("open", "");
    line.scrollIntoView({ block: "center", behavior: "instant" });
    top = box.scrollTop;
  };
  const pick = () => {
    const [, from, to] = location.hash.match(/^#L(\d+)(?:-L(\d+))?$/) || [];
    $$(".is-picked").forEach((line) => line.classList.remove("is-picked"));
    if (!from) return false;
    const [low, high] = [Number(from), Number(to || from)].sort((a, b) => a - b);
    const lines = $$(".log-block > p").filter((line) => numberOf(line) >= low && numberOf(line) <= high);
    lines.forEach((line) => line.classList.add("is-picked"));
    if (lines[0]) { setFollow(false); reveal(lines[0]); }
    return Boolean(lines[0]);
  };
  addEventListener("hashchange", pick);
  box.addEventListener("click", (e) => {
    const earlier = e.target.closest("[data-log-earlier] a");
    if (earlier) { e.preventDefault(); loadEarlier(earlier); return; }
    const number = e.target.closest(".log-block a[tabindex]");
    if (!number) return;
    e.preventDefault();
    const first = e.shiftKey && location.hash.match(/^#(L\d+)/)?.[1];
    history.replaceState(null, "", first ? `#${first}-${number.hash.slice(1)}` : number.hash);
    const y = box.scrollTop;
    pick();
    box.scrollTop = y;
  });

  // --- Tools
  const stamp = (line) => {
    const time = $("time", line);
    const seconds = Number(time.dataset.sec ||= time.textContent);
    time.textContent = log.dataset.time === "clock"
      ? new Date((Number(log.dataset.began) + seconds) * 1000).toLocaleTimeString([], { hour12: false })
      : `+${seconds.toFixed(1)}`;
  };
  const setTime = (mode) => {
    if (mode) log.dataset.time = mode; else delete log.dataset.time;
    $("[data-log-time-word]").textContent = { rel: "Since start", clock: "Clock" }[mode] || "Time";
    if (mode) $$(".log-block > p").forEach(stamp);
    kept.set("time", mode);
  };
  const setWrap = (wish) => {
    log.toggleAttribute("data-nowrap", !wish);
    button("wrap").setAttribute("aria-pressed", wish);
    kept.set("wrap", wish ? "on" : "off");
    if (follow) toEnd();
  };
  const acts = {
    follow: () => setFollow(!follow),
    wrap: () => setWrap(log.hasAttribute("data-nowrap")),
    time: () => setTime({ rel: "clock", clock: "" }[log.dataset.time] ?? "rel"),
    full: () => (document.fullscreenElement ? document.exitFullscreen() : log.requestFullscreen()),
    next: () => goHit(1),
    previous: () => goHit(-1),
  };
  log.addEventListener("click", (e) => acts[e.target.closest("[data-log-do]")?.dataset.logDo]?.());
  document.addEventListener("fullscreenchange", () => button("full").setAttribute("aria-pressed", document.fullscreenElement === log));
  let pressed = "";
  log.addEventListener("keydown", (e) => {
    if (e.target.closest("input") || e.ctrlKey || e.metaKey || e.altKey) return;
    if (["ArrowUp", "PageUp", "Home"].includes(e.key) && follow) setFollow(false);
    const keys = {
      f: acts.follow, w: acts.wrap, n: acts.next, N: acts.previous,
      G: () => { toEnd(); setFollow(true); },
      g: () => { if (pressed === "g") { setFollow(false); box.scrollTop = 0; } },
      "/": () => field.focus(),
    };
    let off = false;
    try { off = localStorage.getItem("keys") === "off"; } catch { /* forbidden */ }
    if (!off && keys[e.key]) { e.preventDefault(); keys[e.key](); }
    pressed = e.key;
  });

  $$("[hidden]:not([data-log-new])").forEach((part) => { part.hidden = false; });
  button("follow").hidden = !alive;
  setWrap(kept.get("wrap") !== "off");
  setTime(kept.get("time") || "");
  if (!fit() && alive && !location.hash) log.scrollIntoView({ block: "end", behavior: "instant" });
  if (!pick()) { if (alive) setFollow(true); else if (/failed|timed_out/.test($(".log-end")?.dataset.state)) toEnd(); }
  connect();
})();
