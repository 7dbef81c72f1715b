// A ranking in the making: groups of cards, the best first; cards of one group tie.

export const without = (groups, card) =>
  groups.map((group) => group.filter((other) => other !== card)).filter((group) => group.length);

export function pick(groups, card, tie) {
  const others = without(groups, card);
  if (tie && others.length) return [...others.slice(0, -1), [...others.at(-1), card]];
  return [...others, [card]];
}

export const takeBack = (groups) => (groups.length ? without(groups, groups.at(-1).at(-1)) : groups);

// The number of better cards for each of k; null for a card that has no place yet.
export function ranksOf(groups, k) {
  const ranks = Array(k).fill(null);
  let better = 0;
  for (const group of groups) {
    for (const card of group) ranks[card] = better;
    better += group.length;
  }
  return ranks;
}

export function groupsOf(ranks) {
  const cards = (rank) => ranks.flatMap((other, card) => (other === rank ? [card] : []));
  return [...new Set(ranks)].sort((a, b) => a - b).map(cards);
}

// What is left when one card has no place: it comes last.
export function completed(groups, k) {
  const left = ranksOf(groups, k).flatMap((rank, card) => (rank === null ? [card] : []));
  return left.length === 1 && k > 1 ? [...groups, left] : groups;
}
