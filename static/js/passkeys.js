/*
 * Passkeys: a form whose credential the browser makes or asks for, before it is sent.
 *
 * data-passkey="create|get"     form with a hidden [name=credential]; shown only where the browser can do it
 * data-passkey-options="id"     of the JSON with the question; "" fetches one from the form's address
 * #passkey-error                says what went wrong
 */
(() => {
  const say = (text) => {
    const note = document.querySelector("#passkey-error");
    note.querySelector("div").textContent = text;
    note.hidden = !text;
  };
  const REASONS = {
    NotAllowedError: "The passkey was not used: it was cancelled, took too long, or there is none here for this panel.",
    InvalidStateError: "This passkey is set up already.",
    SecurityError: "Passkeys work only over HTTPS, by the name of the panel and not its IP address.",
  };
  const reason = (error) => REASONS[error.name] ?? (error.message || "The browser could not use a passkey.");

  const fetched = async (form) => {
    const answer = await fetch(form.action, { headers: { Accept: "application/json", "X-Requested-With": "XMLHttpRequest" } });
    const said = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(said.error || "The panel did not answer. Try again.");
    return said;
  };
  const question = (form) => {
    const id = form.dataset.passkeyOptions;
    return id ? JSON.parse(document.getElementById(id).textContent) : fetched(form);
  };
  const made = (options, form) => {
    const alone = form.elements.passwordless?.checked ?? false;
    const wanted = options.creation_options;
    Object.assign(wanted.publicKey.authenticatorSelection,
      { residentKey: alone ? "required" : "discouraged", requireResidentKey: alone },
      alone ? { userVerification: "required" } : {});
    return webauthnJSON.create(wanted);
  };

  document.querySelectorAll("[data-passkey]").forEach((form) => {
    if (!webauthnJSON.supported()) {
      if (!form.hidden) say("This browser cannot use passkeys here. They need HTTPS (or localhost).");
      return;
    }
    form.hidden = false;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      event.stopPropagation();
      say("");
      try {
        const options = await question(form);
        const credential = form.dataset.passkey === "create" ? await made(options, form) : await webauthnJSON.get(options.request_options);
        form.elements.credential.value = JSON.stringify(credential);
        form.submit();
      } catch (error) {
        say(reason(error));
      }
    });
  });
})();
