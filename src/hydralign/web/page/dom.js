// What every page does with its elements. Texts only ever become text nodes, never markup.

export const $ = (id) => document.getElementById(id);

export function element(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

// Says what is wrong, or takes it away.
export function showTrouble(said) {
  $("trouble").textContent = said ?? "";
  $("trouble").hidden = !said;
}
