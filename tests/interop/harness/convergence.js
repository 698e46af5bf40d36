import { setTimeout as elapsed } from 'node:timers/promises';
import { contents, difference } from './contents.js';

/** How long replicas may take to become equal, in ms. */
const DEADLINE = 30_000;
const FIRST_PAUSE = 10;
const LONGEST_PAUSE = 500;
/** How many differing rows a failure shows. */
const SHOWN = 12;

/** Asks until `condition` answers something truthy, and returns the answer. */
export async function until(what, condition, { deadline = DEADLINE } = {}) {
  const end = performance.now() + deadline;
  let pause = FIRST_PAUSE;
  for (;;) {
    const answer = await condition();
    if (answer) return answer;
    if (performance.now() > end) throw new Error(`waited ${deadline} ms for ${typeof what === 'function' ? await what() : what}`);
    await elapsed(pause);
    pause = Math.min(pause * 1.5, LONGEST_PAUSE);
  }
}

/** Waits until the tables of all replicas are equal, and `also` holds for their rows if given. */
export async function converged(replicas, { also = () => true, deadline } = {}) {
  await until(
    () => disagreement(replicas),
    async () => {
      const first = await contents(replicas[0]);
      if (!also(first)) return false;
      for (const other of replicas.slice(1)) {
        const rows = await contents(other);
        if (rows.length !== first.length || rows.some((row, index) => row !== first[index])) return false;
      }
      return true;
    },
    { deadline },
  );
}

async function disagreement([reference, ...others]) {
  const expected = await contents(reference);
  const reports = [`equal tables; ${reference.name} has ${expected.length} rows`];
  for (const other of others) {
    const rows = await contents(other);
    const { onlyLeft, onlyRight } = difference(expected, rows);
    if (onlyLeft.length + onlyRight.length === 0) continue;
    reports.push(
      `only ${reference.name}, not ${other.name} (${onlyLeft.length}):`,
      ...onlyLeft.slice(0, SHOWN).map((row) => `  ${row}`),
      `only ${other.name}, not ${reference.name} (${onlyRight.length}):`,
      ...onlyRight.slice(0, SHOWN).map((row) => `  ${row}`),
    );
  }
  return reports.join('\n');
}
