// The labelling screen: keys press the buttons that show them, and only the part of the page that changed is replaced.
// Everything works without this file, one page per step. Steps wait for each other, so fast typing keeps its order.
"use strict";

const WAIT = 20000; // milliseconds for an answer from the server
const waiting = []; // keys pressed while a step is under way
let isBusy = false;

const find = (selector) => document.querySelector(selector);
const isTyping = (element) => element.matches("textarea, select, input:not([type=hidden], [type=radio], [type=checkbox])");

function nameOf(event) {
  if (event.ctrlKey || event.metaKey) return event.key === "z" && !event.shiftKey && !event.altKey ? "Backspace" : "";
  if (event.altKey || event.isComposing) return "";
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code); // a French keyboard's 1 is the key that says &
  if (digit && !event.shiftKey) return digit[1];
  if (/^\p{L}$/u.test(event.key)) return event.shiftKey ? event.key.toUpperCase() : event.key.toLowerCase(); // Caps Lock
  return event.key;
}

function controlOf(key) {
  const pop = find("details.pop[open]");
  const inPop = pop?.querySelector(`[data-pop-key="${CSS.escape(key)}"]`);
  if (inPop) return inPop;
  const bound = [...document.querySelectorAll("[data-key]")].filter((e) => e.dataset.key.split(" ").includes(key));
  return bound.find((e) => !e.disabled && e.checkVisibility());
}

function press(key) {
  const control = controlOf(key);
  if (!control) return false;
  if (control.tagName === "SUMMARY") toggle(control.parentElement);
  else control.click();
  return true;
}

function toggle(details, open = !details.open) {
  for (const other of document.querySelectorAll("details.pop[open], details.drawer[open]")) other.open = false;
  details.open = open;
  if (open) details.querySelector("textarea, .sheet button, .sheet[tabindex]").focus();
  else details.querySelector("summary").focus();
}

document.addEventListener("keydown", (event) => {
  const open = find("details.pop[open], details.drawer[open]");
  if (event.key === "Escape" && open) return toggle(open, false);
  if (isTyping(event.target)) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.form?.requestSubmit();
    return;
  }
  if (document.body.dataset.keys === "off" || event.repeat) return;
  const isNative = event.key === "Enter" || event.key === " ";
  if (isNative && event.target.closest("button, a, summary") && event.target.matches(":focus-visible")) return;
  const key = nameOf(event);
  if (!key || ["Shift", "Tab", " "].includes(key)) return;
  if (isBusy) {
    if (key.length === 1 || key === "Backspace" || key === "Enter") {
      waiting.push(key);
      event.preventDefault();
    }
  } else if (press(key)) event.preventDefault();
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!("part" in form.dataset)) return;
  event.preventDefault();
  event.submitter?.classList.add("pressed");
  send(form.action, { method: "POST", body: new URLSearchParams(new FormData(form, event.submitter)) });
});

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-part]");
  if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
    event.preventDefault();
    send(link.href, {});
  } else if (!event.target.closest("details")) {
    for (const open of document.querySelectorAll("details.pop[open], details.drawer[open]")) open.open = false;
  }
});

async function send(address, how) {
  if (isBusy) return; // a second click on the same answer
  isBusy = true;
  try {
    const headers = { "X-Part": find("#work").dataset.item };
    const answer = await fetch(address, { ...how, headers, signal: AbortSignal.timeout(WAIT) });
    show(answer, new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch (error) {
    if (!(error instanceof TypeError || error instanceof DOMException)) throw error;
    showTrouble("No answer from the server. All steps up to the last one are kept. Reload the page to go on.");
  } finally {
    isBusy = false;
  }
  while (waiting.length && !isBusy) press(waiting.shift());
}

function show(answer, page) {
  const fresh = page.querySelector("#work") ?? page.querySelector("#panel");
  if (!fresh) {
    waiting.length = 0;
    if (answer.ok) location.assign(answer.url); // signed out meanwhile
    else showTrouble(page.querySelector("main, p")?.innerText ?? `The server answered ${answer.status}.`);
    return;
  }
  find("#trouble").hidden = true;
  const old = find(`#${fresh.id}`);
  const focused = document.activeElement;
  const had = old.contains(focused) && focused.matches(":focus-visible") ? focused : null;
  const isNew = fresh.id === "work" && fresh.dataset.item !== old.dataset.item;
  const asked = find("#panel")?.dataset.asked;
  old.replaceWith(fresh);
  if (isNew) {
    scrollTo(0, 0);
    history.replaceState(null, "", fresh.dataset.item ? `/label?item=${fresh.dataset.item}` : "/label");
    if (had) find("#conversation-title")?.focus();
  } else if (had) {
    const same = [...fresh.querySelectorAll("button, summary")].find((e) => e.value === had.value && e.name === had.name && e.textContent === had.textContent);
    (fresh.querySelector(".send") ?? same ?? fresh.querySelector(".now button"))?.focus();
  }
  mark(isNew ? undefined : asked);
  find("#live").textContent = `${isNew ? "Next item. " : ""}${find("#panel").dataset.spoken.trim()}`;
}

// Show on the responses what the panel knows, and bring the question and, on a phone, its response into view.
function mark(before) {
  const panel = find("#panel");
  const badges = (panel?.dataset.badges ?? "").split(",");
  for (const [at, card] of [...document.querySelectorAll(".response")].entries()) {
    card.dataset.verdict = badges[at] ?? "";
    card.toggleAttribute("data-now", panel.dataset.asked === String(at));
  }
  const now = panel?.querySelector(".now");
  const list = panel?.querySelector(".list");
  if (now) list.scrollTop = getComputedStyle(now).order === "0" ? now.offsetTop + now.offsetHeight - list.clientHeight : 0;
  if (before !== undefined && panel?.dataset.asked && panel.dataset.asked !== before && matchMedia("(max-width: 60rem)").matches) {
    find(`#response-${panel.dataset.asked}`)?.scrollIntoView();
  }
}

function showTrouble(words) {
  waiting.length = 0;
  const place = find("#trouble");
  place.textContent = words;
  place.hidden = false;
}

mark();
