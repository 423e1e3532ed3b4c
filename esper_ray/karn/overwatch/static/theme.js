// The scheme of colors: that of the system, or the chosen one. It runs before the page is drawn.

const KEY = "esper-scheme";
const SCHEMES = ["system", "light", "dark"];

function storedScheme() {
  try {
    const stored = localStorage.getItem(KEY);
    return SCHEMES.includes(stored) ? stored : "system";
  } catch {
    return "system"; // the browser keeps nothing for this page
  }
}

function applyScheme(scheme) {
  if (scheme === "system") {
    document.documentElement.removeAttribute("data-scheme");
  } else {
    document.documentElement.setAttribute("data-scheme", scheme);
  }
  document.dispatchEvent(new CustomEvent("scheme"));
}

applyScheme(storedScheme());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  document.dispatchEvent(new CustomEvent("scheme"));
});
document.addEventListener("DOMContentLoaded", () => {
  const select = document.getElementById("scheme");
  select.value = storedScheme();
  select.addEventListener("change", () => {
    try {
      localStorage.setItem(KEY, select.value);
    } catch {
      // the choice holds for this page only
    }
    applyScheme(select.value);
  });
});
