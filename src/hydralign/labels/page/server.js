// Requests that are sent again until they are answered, and rankings kept until they are saved.

export class Refused extends Error {}

const KEPT = "hydralign ranking ";
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Returns the answer. Where the server is gone or busy, tells `trouble` and tries again; throws
// `Refused` only where trying again is of no use.
export async function ask(path, body, trouble) {
  const options = body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  for (let wait = 500; ; wait = Math.min(2 * wait, 4000)) {
    let said = "The server does not answer. Start it again; nothing is lost, and this page goes on by itself.";
    try {
      const answer = await fetch(path, options);
      const value = await answer.json();
      if (answer.ok) {
        trouble(null);
        return value;
      }
      said = value.error;
      if (answer.status === 400) throw new Refused(said);
    } catch (error) {
      if (error instanceof Refused) throw error;
    }
    trouble(said);
    await sleep(wait);
  }
}

// Not crypto.randomUUID: browsers have it only for https and for the machine itself.
export const newToken = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

// Saves a ranking. Until the server has it, it is kept in the browser, a closed page included.
export async function save(ranking, trouble) {
  localStorage.setItem(KEPT + ranking.token, JSON.stringify(ranking));
  try {
    return await ask("api/rankings", ranking, trouble);
  } finally {
    localStorage.removeItem(KEPT + ranking.token);
  }
}

export async function saveKept(trouble) {
  for (const key of Object.keys(localStorage).filter((key) => key.startsWith(KEPT))) {
    await save(JSON.parse(localStorage.getItem(key)), trouble);
  }
}
