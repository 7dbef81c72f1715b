// Requests that are sent again until they are answered, and rankings kept until they are saved.

export class Refused extends Error {
  constructor(said, status) {
    super(said);
    this.status = status;
  }
}

const OF_ANOTHER_FILE = 409;
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
  let told = false;
  for (let wait = 500; ; wait = Math.min(2 * wait, 4000)) {
    let said = "The server does not answer. Start it again; nothing is lost, and this page goes on by itself.";
    try {
      const answer = await fetch(path, options);
      const value = await answer.json();
      if (answer.ok) {
        if (told) trouble(null);
        return value;
      }
      said = value.error;
      if ([400, OF_ANOTHER_FILE].includes(answer.status)) throw new Refused(said, answer.status);
    } catch (error) {
      if (error instanceof Refused) throw error;
    }
    trouble(said);
    told = true;
    await sleep(wait);
  }
}

// Not crypto.randomUUID: browsers have it only for https and for the machine itself.
export const newToken = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

// Saves a ranking. Until its own server has answered, it is kept in the browser, a closed page
// included: whatever is served at this address now may be another file of rankings.
export async function save(ranking, trouble) {
  const key = KEPT + ranking.token;
  localStorage.setItem(key, JSON.stringify(ranking));
  try {
    await ask("api/rankings", ranking, trouble);
  } catch (error) {
    if (error.status === OF_ANOTHER_FILE) {
      error.message += " The ranking belongs to another file. It is kept in this browser until that file is served here.";
    } else localStorage.removeItem(key);
    throw error;
  }
  localStorage.removeItem(key);
}

// Saves what is kept; returns why, where some was refused.
export async function saveKept(trouble) {
  const refusals = new Set();
  for (const key of Object.keys(localStorage).filter((key) => key.startsWith(KEPT))) {
    try {
      await save(JSON.parse(localStorage.getItem(key)), trouble);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      refusals.add(error.message);
    }
  }
  return [...refusals].join(" ");
}
