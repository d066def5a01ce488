// Before anything is drawn: the theme that was chosen, or the system's.
const chosen = localStorage.getItem("ds4-theme");
if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
