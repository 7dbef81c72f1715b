// The dialogue lives here, one list of turns for each policy.

import { $, element, showTrouble } from "./dom.js";

const state = { speakers: [], turns: [], running: null };

// Adds a row of boxes to the page; returns the elements that hold their texts.
function addTurn(names, kind, texts) {
  const row = element("div", "turn");
  const holders = names.map((name, place) => {
    const box = element("section", `said ${kind}`);
    const text = element("div", "text", texts[place] ?? "");
    box.append(element("div", "who", name), text);
    row.append(box);
    return text;
  });
  $("dialogue").append(row);
  row.scrollIntoView({ block: "end" });
  return holders;
}

function settings() {
  const number = (id) => Number($(id).value);
  return {
    temperature: number("temperature"),
    top_p: number("top_p"),
    top_k: $("top_k").value === "" ? null : number("top_k"),
    seed: number("seed"),
  };
}

// Streams one policy's answer into an element; returns what was said, whole or stopped.
async function answer(speaker, turns, how, holder, signal) {
  let said = "";
  try {
    const response = await fetch("api/answer", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ speaker, turns, ...how }),
      signal,
    });
    if (!response.ok) throw new Error((await response.json()).error);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      said += part.value;
      holder.textContent = said;
      holder.parentElement.scrollIntoView({ block: "end" });
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
  return said;
}

async function send(text) {
  const how = settings();
  const before = state.turns;
  const asked = before.map((turns) => [...turns, { role: "user", content: text }]);
  addTurn(["you"], "asked", [text]);
  const holders = addTurn(state.speakers, "answered", []);
  state.running = new AbortController();
  busy(true);
  showTrouble(null);
  try {
    const said = await Promise.all(
      holders.map((holder, place) => answer(place, asked[place], how, holder, state.running.signal)),
    );
    if (state.turns !== before) return; // reset since
    state.turns = asked.map((turns, place) => [...turns, { role: "assistant", content: said[place] }]);
    $("seed").value = how.seed + 1;
  } catch (error) {
    state.running.abort();
    if (state.turns !== before) return;
    const gone = error instanceof TypeError; // what fetch raises where nobody answers
    showTrouble(gone ? "The server does not answer. Start it again." : error.message);
    for (const row of [...$("dialogue").children].slice(-2)) row.remove();
    $("text").value ||= text;
  } finally {
    busy(false);
  }
}

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
  if (!is) state.running = null;
}

function reset() {
  state.running?.abort();
  state.turns = state.speakers.map(() => []);
  $("dialogue").replaceChildren();
  showTrouble(null);
  $("text").focus();
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value;
  if (state.running || !text.trim() || !$("settings").reportValidity()) return;
  $("text").value = "";
  send(text);
});
$("settings").addEventListener("submit", (event) => event.preventDefault());
$("reset").addEventListener("click", reset);
$("stop").addEventListener("click", () => state.running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") state.running?.abort();
  if (event.key === "Enter" && !event.shiftKey && event.target === $("text") && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});

const about = await (await fetch("api/speakers")).json();
if (about.error) {
  showTrouble(about.error);
} else {
  state.speakers = about.speakers;
  document.title = `Chat: ${about.speakers.join(", ")}`;
  for (const id of ["temperature", "top_p", "top_k", "seed"]) $(id).value = about[id] ?? "";
  reset();
}
