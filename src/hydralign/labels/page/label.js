// The page's course: a name, then item after item. One request at a time.

import { $, showTrouble } from "./dom.js";
import { completed, groupsOf, pick, ranksOf, takeBack, without } from "./ranking.js";
import { Refused, ask, newToken, save, saveKept } from "./server.js";
import { show, showCards, showProgress, showPrompt, showRanking } from "./view.js";

const LOOK_AGAIN = 15_000; // milliseconds
const page = { name: "", item: null, undo: null, groups: [], tie: false, since: 0, busy: false, looking: false };
const k = () => page.item.responses.length;

function rank(groups, tie = false) {
  Object.assign(page, { groups, tie });
  showRanking(groups, k(), tie);
}

function choose(card, tie) {
  if (page.busy || card >= k()) return;
  const placed = page.groups.flat().includes(card);
  rank(placed && !tie ? without(page.groups, card) : pick(page.groups, card, tie));
}

function handOut({ item, undo }) {
  Object.assign(page, { item, undo, since: performance.now() });
  show(item ? "task" : "done");
  $("undo").disabled = $("undo-done").disabled = undo === null;
  if (!item) return;
  showPrompt(item.prompt);
  showCards(item.responses).forEach((card, index) => {
    card.addEventListener("click", (event) => choose(index, event.shiftKey || page.tie));
    card.addEventListener("mousedown", (event) => event.shiftKey && event.preventDefault()); // selects
  });
  $("note").value = item.note;
  rank(item.ranks ? groupsOf(item.ranks) : []);
  scrollTo(0, 0);
}

// Does one thing while the page waits; what the server refuses is said, and something else shown.
async function busy(action, otherwise = next) {
  if (page.busy) return;
  page.busy = true;
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    await otherwise();
    showTrouble(error.message);
  } finally {
    page.busy = false;
  }
}

async function next() {
  handOut(await ask(`api/next?annotator=${encodeURIComponent(page.name)}`, null, showTrouble));
  lookAtProgress();
}

// Beside everything else: nobody waits for it.
async function lookAtProgress() {
  if (page.looking) return;
  page.looking = true;
  try {
    showProgress(await ask("api/progress", null, showTrouble), page.name);
  } finally {
    page.looking = false;
  }
}

function submit(ranks) {
  const { name, item, since } = page;
  const seconds = Math.round(performance.now() - since) / 1000;
  const { item: number, content } = item;
  const ranking = { annotator: name, item: number, content, ranks, note: $("note").value, seconds, token: newToken() };
  return busy(async () => {
    showTrouble(null);
    await save(ranking, showTrouble);
    await next();
  });
}

function finish() {
  const groups = completed(page.groups, k());
  const left = k() - groups.flat().length;
  if (left) return showTrouble(`${left} answers have no place yet. Equal ones may tie; or skip the item.`);
  rank(groups);
  return submit(ranksOf(groups, k()));
}

const undo = () =>
  page.undo !== null &&
  busy(async () => {
    showTrouble(null);
    const body = { annotator: page.name, ranking: page.undo };
    handOut(await ask("api/undo", body, showTrouble));
    lookAtProgress();
  });

const toggleTie = () => page.groups.length && rank(page.groups, !page.tie);

const KEYS = {
  Enter: finish,
  s: () => submit(null),
  u: undo,
  n: () => $("note").focus(),
  "=": toggleTie,
  Backspace: () => rank(takeBack(page.groups)),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target === $("note")) {
    if (["Escape", "Enter"].includes(event.key)) $("note").blur();
    return;
  }
  if (event.target === $("name") || (event.target.tagName === "BUTTON" && event.key === "Enter")) return;
  const item = !$("task").hidden;
  const digit = /^(Digit|Numpad)([1-9])$/.exec(event.code); // wherever a keyboard has its digits
  const card = event.target.closest(".card");
  if (!item && event.key !== "u") return;
  if (digit) choose(Number(digit[2]) - 1, event.shiftKey || page.tie);
  else if (event.key === " " && card) choose([...$("cards").children].indexOf(card), page.tie);
  else if (event.key in KEYS && !page.busy && !event.repeat) KEYS[event.key]();
  else return;
  event.preventDefault();
});

for (const [id, action] of [["save", finish], ["skip", KEYS.s], ["undo", undo], ["undo-done", undo], ["tie", toggleTie], ["back", KEYS.Backspace]]) {
  $(id).addEventListener("click", () => {
    document.activeElement.blur(); // or Enter would press it again
    if (!page.busy) action();
  });
}

function begin(name) {
  page.name = name;
  busy(async () => {
    const refusals = await saveKept(showTrouble);
    await next();
    localStorage.setItem("hydralign annotator", name); // only now: it may be refused
    $("who").textContent = name;
    $("who").hidden = false;
    showTrouble(refusals);
  }, askName);
}

function askName() {
  show("start");
  $("progress").hidden = $("who").hidden = true;
  $("name").select();
}

$("start").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("name").value.trim()) begin($("name").value.trim());
});
$("who").addEventListener("click", () => {
  if (!page.busy) askName();
});

setInterval(() => {
  if (!$("done").hidden) busy(next);
  else if (!$("task").hidden) lookAtProgress();
}, LOOK_AGAIN);

const known = localStorage.getItem("hydralign annotator");
$("name").value = known ?? "";
if (known) begin(known);
else askName();
