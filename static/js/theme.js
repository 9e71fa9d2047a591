// Runs before the first paint, so nothing flashes: "system" becomes light or dark, the sidebar takes its last width.
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const wish = root.dataset.theme;
    root.dataset.bsTheme = wish === "light" || wish === "dark" ? wish : dark.matches ? "dark" : "light";
  };
  apply();
  dark.addEventListener("change", apply);
  new MutationObserver(apply).observe(root, { attributeFilter: ["data-theme"] });
  root.classList.add("js");
  try {
    if (localStorage.getItem("sidebar") === "narrow") root.dataset.sidebar = "narrow";
  } catch { /* storage may be forbidden; the wide sidebar is fine */ }
})();
