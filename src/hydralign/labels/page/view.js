// What is seen.

import { $, element } from "./dom.js";
import { ranksOf } from "./ranking.js";

const ROLES = { system: "System", user: "User", assistant: "Assistant" };

export function showPrompt(prompt) {
  const turns = typeof prompt === "string" ? [{ role: "prompt", content: prompt }] : prompt;
  const shown = turns.map(({ role, content }) =>
    element("div", `turn ${role}`, element("span", "role", ROLES[role] ?? "Prompt"), content.trim()),
  );
  $("prompt").replaceChildren(...shown);
}

export function showCards(responses) {
  const cards = responses.map((text, index) => {
    const card = element(
      "div",
      "card",
      element("div", "key", element("kbd", "", String(index + 1)), element("div", "place")),
      element("div", "text", text.replace(/^\n+|\s+$/g, "")),
    );
    card.tabIndex = 0;
    card.setAttribute("role", "button");
    return card;
  });
  $("cards").dataset.columns = [2, 4].includes(cards.length) ? 2 : 3;
  $("cards").replaceChildren(...cards);
  return cards;
}

const ORDINALS = ["1st", "2nd", "3rd"];
const ordinal = (rank) => ORDINALS[rank] ?? `${rank + 1}th`;

export function showRanking(groups, k, tie) {
  const ranks = ranksOf(groups, k);
  [...$("cards").children].forEach((card, index) => {
    const rank = ranks[index];
    const tied = ranks.filter((other) => other === rank).length > 1;
    card.classList.toggle("ranked", rank !== null);
    card.querySelector(".place").textContent = rank === null ? "" : (tied ? "=" : "") + ordinal(rank);
    card.setAttribute("aria-pressed", rank !== null);
  });
  $("order").replaceChildren(...order(groups, k));
  $("tie").setAttribute("aria-pressed", tie);
  $("tie").disabled = $("back").disabled = !groups.length;
}

function order(groups, k) {
  if (!groups.length) return [element("span", "faint", "Press the number of the best answer, or click it. Then the next best.")];
  const shown = groups.flatMap((group) => [
    element("i", "", ">"),
    ...group.flatMap((card) => [element("i", "", "="), element("b", "", String(card + 1))]).slice(1),
  ]);
  const left = k - groups.flat().length;
  const hint = left > 1 ? `${left} to go; Shift or = for a tie` : left ? "Enter puts the other one last" : "";
  return [...shown.slice(1), element("span", "faint", `  ${hint}`)];
}

export function showProgress({ wanted, rankings, compared_items, agreement, annotators }, name) {
  const mine = annotators.find(({ annotator }) => annotator === name);
  $("bar").value = wanted ? rankings / wanted : 0;
  $("counts").textContent = `you ${mine?.rankings ?? 0} · all ${rankings} of ${wanted}`;
  $("agreement").textContent =
    agreement === null ? "" : `agreement ${agreement.toFixed(2)} on ${compared_items} items`;
  $("left").textContent =
    rankings < wanted
      ? `Rankings still wanted from other annotators: ${wanted - rankings}. Some items are for several to rank, were skipped, or are with somebody else at this moment.`
      : "Every item has the rankings that it needs.";
  $("progress").hidden = false;
}

// Shows one of the three states of the page.
export function show(state) {
  for (const id of ["start", "done", "task"]) $(id).hidden = id !== state;
  $("bar-below").hidden = state !== "task";
}
