/*
 * Sends a file in parts (archives/_upload.html). Each answer says how much has arrived, so whatever interrupts it, a lost
 * network, a closed lid, another day, the same file goes on from there.
 */
(() => {
  const { $, announce } = window.panel;
  const box = $("[data-upload]");
  if (!box) return;
  const [file, format, team, start, pause] = ["#upload-file", "#upload-format", "#upload-team", "[data-upload-start]", "[data-upload-pause]"].map((each) => $(each, box));
  const [shown, bar, said] = ["[data-upload-shown]", "progress", ".upload-said"].map((each) => $(each, box));
  const part = Number(box.dataset.part);
  const headers = JSON.parse(document.body.getAttribute("hx-headers"));
  let paused = false;
  let wake = () => {};
  box.hidden = false;

  class Refused extends Error {}
  const say = (text, bad = false) => { said.textContent = text; said.classList.toggle("field-error", bad); };
  const size = (bytes) => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = 0;
    for (; bytes >= 1000 && unit < 4; unit += 1) bytes /= 1024;
    return `${bytes.toFixed(unit && bytes < 100 ? 1 : 0)}\u00a0${units[unit]}`;
  };
  const pausing = (milliseconds) => new Promise((resolve) => { wake = resolve; if (milliseconds) setTimeout(resolve, milliseconds); });

  const ask = async (url, body, type) => {
    const answer = await fetch(url, body === undefined ? { headers } : { method: "POST", headers: type ? { ...headers, "Content-Type": type } : headers, body });
    const told = answer.headers.get("Content-Type")?.startsWith("application/json") ? await answer.json() : {};
    if (answer.ok && !answer.redirected) return told;
    if (answer.status === 409) return told;
    if (answer.status === 503 || answer.status === 502 || answer.status === 504) throw new Error("busy");
    if (answer.redirected || answer.status === 403) throw new Refused("You were signed out. Sign in again and choose the same file: the upload goes on where it stopped.");
    throw new Refused(told.error || `The panel answered ${answer.status} ${answer.statusText}.`);
  };

  const patiently = async (...wish) => { // what a lost network interrupts is tried until it is back
    for (let wait = 1; ; wait = Math.min(wait * 2, 15)) {
      try { return await ask(...wish); } catch (error) {
        if (error instanceof Refused) throw error;
        if (wish[1] instanceof Blob) await wish[1].slice(0, 1).arrayBuffer().catch(() => { throw new Refused("The file cannot be read any more. Choose it again."); });
        say(`The panel cannot be reached. Trying again in ${wait}\u00a0s; nothing is lost.`);
        await pausing(wait * 1000);
      }
    }
  };

  const send = async (chosen) => {
    const begun = await patiently(box.dataset.begin, new URLSearchParams({ title: chosen.name, size: chosen.size, format: format.value, team: team.value }));
    let offset = begun.received;
    const [from, since] = [offset, performance.now()];
    for (let told = begun; told.state !== "failed" && offset < chosen.size; offset = told.received) {
      const speed = (offset - from) / ((performance.now() - since) / 1000);
      bar.value = offset / chosen.size;
      say(`${size(offset)} of ${size(chosen.size)}${speed ? ` · ${size(speed)}/s` : ""}`);
      if (paused) { say(`Paused at ${size(offset)} of ${size(chosen.size)}.`); await pausing(0); }
      told = await patiently(`${begun.part_url}?offset=${offset}`, chosen.slice(offset, offset + part), "application/octet-stream");
    }
    bar.value = 1;
    for (let told = { state: "arriving" }; told.state !== "ready";) {
      told = await patiently(begun.url);
      if (told.state === "failed") throw new Refused("The file did not arrive as it was sent. Remove it from the list and upload it again.");
      if (told.state !== "ready") { say("All there; its sum is being made."); await pausing(1000); }
    }
  };

  start.addEventListener("click", async () => {
    const [chosen] = file.files;
    if (!chosen) { shown.hidden = false; bar.hidden = true; say("Choose a file first.", true); file.focus(); return; }
    [start.disabled, file.disabled, format.disabled, team.disabled, pause.hidden, shown.hidden, bar.hidden, bar.value] = [true, true, true, true, false, false, false, 0];
    say("Beginning…");
    try {
      await send(chosen);
      say(`${chosen.name} is complete.`);
      announce(`${chosen.name} is uploaded`);
      file.value = "";
    } catch (error) {
      say(error.message, true);
      announce("The upload stopped", true);
    }
    [start.disabled, file.disabled, format.disabled, team.disabled, pause.hidden, paused, pause.textContent] = [false, false, false, false, true, false, "Pause"];
    document.body.dispatchEvent(new CustomEvent("panel:tick"));
  });
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Resume" : "Pause";
    if (!paused) wake();
  });
  file.addEventListener("change", () => {
    shown.hidden = true;
    if (file.files[0]) format.value = /\.(raw|img)(\.\w+)?$/i.test(file.files[0].name) ? "raw" : "tar";
  });
  addEventListener("online", () => wake());
  addEventListener("beforeunload", (e) => { if (start.disabled) e.preventDefault(); });
})();
