// Controls of a picture's page: the heat map's opacity, and a ring that marks a finding.
"use strict";

{
  const at = (id) => document.getElementById(id);
  const opacity = at("opacity");
  const show = () => {
    at("heat").style.opacity = opacity.value;
    at("opacity-value").textContent = `${Math.round(100 * opacity.value)} %`;
  };
  opacity.addEventListener("input", show);
  show();

  const rows = [...document.querySelectorAll("#findings tbody tr")];
  const point = (row) => {
    rows.forEach((other) => other.setAttribute("aria-selected", String(other === row)));
    Object.assign(at("ring").style, { left: `${row.dataset.left}%`, top: `${row.dataset.top}%` });
    at("ring").hidden = false;
    at("view").scrollIntoView({ block: "nearest" });
  };
  for (const row of rows) {
    row.addEventListener("click", () => point(row));
    row.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      point(row);
    });
  }
  document.documentElement.dataset.ready = "true";
}
