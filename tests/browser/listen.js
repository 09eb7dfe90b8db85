// Faults of the page, from its first script on.
window.faults = [];
addEventListener("error", (e) => window.faults.push(e.message || "a resource"), true);
addEventListener("unhandledrejection", (e) => window.faults.push(String(e.reason)));
const complain = console.error;
console.error = (...all) => { window.faults.push(all.join(" ")); complain(...all); };
