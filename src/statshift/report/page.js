(function () {
"use strict";
var root = document.documentElement;
var status = document.querySelector(".status");
var timer = 0;

function all(selector, within) { return Array.from((within || document).querySelectorAll(selector)); }

function say(text, seconds) {
  status.textContent = text;
  clearTimeout(timer);
  timer = setTimeout(function () { status.textContent = ""; }, 1000 * seconds);
}

function button(text, action) {
  var made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.addEventListener("click", action);
  return made;
}

/* Light and dark: the system's wish until the reader says otherwise; nothing is stored. */
var toggle = document.querySelector("[data-theme-toggle]");
var wish = matchMedia("(prefers-color-scheme: dark)");
function dark() { return root.dataset.theme ? root.dataset.theme === "dark" : wish.matches; }
function name() { toggle.textContent = dark() ? "◐ Light" : "◐ Dark"; toggle.setAttribute("aria-label", "Show the page " + (dark() ? "light" : "dark")); }
toggle.hidden = false;
toggle.addEventListener("click", function () { root.dataset.theme = dark() ? "light" : "dark"; name(); });
wish.addEventListener("change", name);
name();

/* Contents: folded on narrow screens; the part in view is marked. */
var contents = document.querySelector(".toc");
var narrow = matchMedia("(max-width: 68.99rem)");
function fold() { contents.open = !narrow.matches; }
narrow.addEventListener("change", fold);
fold();
contents.addEventListener("click", function (event) { if (narrow.matches && event.target.closest("a")) contents.open = false; });
var links = new Map(all("a", contents).map(function (link) { return [link.getAttribute("href").slice(1), link]; }));
var parts = all("main > section").filter(function (part) { return links.has(part.id); });
function mark() {
  var current = parts.filter(function (part) { return part.getBoundingClientRect().top < innerHeight / 3; }).pop();
  links.forEach(function (link, id) {
    if (current && current.id === id) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
  });
}
new IntersectionObserver(mark, { rootMargin: "0px 0px -66% 0px" }).observe(document.querySelector("main"));
addEventListener("scroll", function () { requestAnimationFrame(mark); }, { passive: true });

/* What an address names is opened. */
function open() {
  var target = location.hash && document.getElementById(location.hash.slice(1));
  for (var at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  var inner = target && target.querySelector(":scope > details.folded");
  if (inner) inner.open = true;
}
addEventListener("hashchange", open);
open();

/* Print shows folded tables and pictures, not the records. */
var unfolded = [];
addEventListener("beforeprint", function () {
  unfolded = all("details.folded:not(.record):not([open])");
  unfolded.forEach(function (part) { part.open = true; });
});
addEventListener("afterprint", function () { unfolded.forEach(function (part) { part.open = false; }); });

/* Tables: sorted by a head (up, down, as it was), copied as CSV; a cell's note is told where it is tapped. */
function number(cell) { return cell && cell.hasAttribute("data-v") ? Number(cell.getAttribute("data-v")) : NaN; }
function sort(table, place, direction) {
  var body = table.tBodies[0];
  var numeric = table.tHead.rows[0].cells[place].className !== "t";
  var rows = Array.from(body.rows);
  rows.forEach(function (row, index) { if (!row.dataset.i) row.dataset.i = index; });
  rows.sort(function (first, second) {
    var before = first.dataset.i - second.dataset.i;
    if (!direction) return before;
    var a = first.cells[place], b = second.cells[place];
    if (!numeric) return direction * a.textContent.localeCompare(b.textContent, undefined, { numeric: true }) || before;
    a = number(a); b = number(b);
    if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b) || before;
    return direction * (a - b) || before;
  });
  rows.forEach(function (row) { body.append(row); });
}
function csv(table) {
  var rows = Array.from(table.rows);
  var wide = Array.from(rows[0].cells, function (_, place) {
    return rows.some(function (row) { return row.cells[place] && row.cells[place].querySelector("small"); });
  });
  return rows.map(function (row) {
    return Array.from(row.cells).map(function (cell, place) {
      var small = cell.querySelector("small");
      var whole = cell.textContent.trim();
      var beside = small ? small.textContent : row.parentElement === table.tHead ? "95 % interval" : "-";
      var own = small ? whole.slice(0, whole.length - beside.length).trim() : whole;
      return (wide[place] ? [own, beside] : [own]).map(function (text) {
        return /[",\n\r]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
      }).join(",");
    }).join(",");
  }).join("\n") + "\n";
}
function copied(text, tools) {
  var area = document.createElement("textarea");
  area.readOnly = true;
  area.value = text;
  area.setAttribute("aria-label", "The table as CSV");
  tools.append(area);
  area.select();
  var done = false;
  try { done = document.execCommand("copy"); } catch (error) { done = false; }
  if (done) area.remove();
  say(done ? "Copied as CSV" : "Copy the marked text", 3);
}
all("table.data").forEach(function (table) {
  var heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach(function (head, place) {
    var made = button("", function () {
      var now = head.getAttribute("aria-sort");
      var next = now === "ascending" ? "descending" : now === "descending" ? "none" : "ascending";
      heads.forEach(function (other) { other.setAttribute("aria-sort", "none"); });
      head.setAttribute("aria-sort", next);
      sort(table, place, { ascending: 1, descending: -1, none: 0 }[next]);
    });
    made.append.apply(made, Array.from(head.childNodes));
    head.append(made);
    head.setAttribute("aria-sort", "none");
  });
  table.tBodies[0].addEventListener("click", function (event) {
    var cell = event.target.closest("[title]");
    if (cell && !String(getSelection())) say(cell.getAttribute("title"), 8);
  });
  var tools = table.closest(".scroll").nextElementSibling;
  var copy = button("Copy as CSV", function () {
    all("textarea", tools).forEach(function (old) { old.remove(); });
    var text = csv(table);
    if (navigator.clipboard && navigator.clipboard.writeText) {
      navigator.clipboard.writeText(text).then(function () { say("Copied as CSV", 3); }, function () { copied(text, tools); });
    } else copied(text, tools);
  });
  copy.className = "quiet";
  tools.prepend(copy);
  if (table.tBodies[0].querySelector("[title]")) {
    var hint = document.createElement("span");
    hint.className = "hint";
    hint.textContent = "Hover over a cell, or tap it, for more.";
    tools.append(hint);
  }
});

/* Where columns lie beyond the edge, it is said. */
all(".scroll").forEach(function (box) {
  var told = document.createElement("p");
  told.className = "sideways";
  told.textContent = "More columns to the right: scroll the table sideways.";
  told.hidden = true;
  box.before(told);
  new ResizeObserver(function () { told.hidden = box.scrollWidth - box.clientWidth < 3; }).observe(box);
});
})();
