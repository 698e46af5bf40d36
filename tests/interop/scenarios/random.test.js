import { scenario } from '../harness/scenario.js';

const SCHEMA = {
  schemaName: 'main.sql',
  schema: `CREATE TABLE IF NOT EXISTS cell (id TEXT PRIMARY KEY NOT NULL, free, frac REAL, whole INTEGER, txt TEXT);
SELECT crsql_as_crr('cell');
`,
};
const KEYS = 6;
const STEPS = 60;
/** Few enough that sites often write different numbers of one size class into the same cell, or the same number. */
const NUMBERS = [0, 1, -1, 2.5, 2 ** 31, 2 ** 31 + 1, 2 ** 31 + 0.5, 2 ** 53 - 1, -(2 ** 40)];
const TEXTS = ['', 'a', 'b', '1', '😀'];

/** SEED=number repeats a run's choices. How they interleave with the network is up to the machine. */
const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));

scenario(`three clients converge after random writes, cuts and reconnects (SEED=${seed})`, async (stage) => {
  stage.publish(SCHEMA);
  const server = await stage.server();
  const room = 'random';
  const clients = [];
  for (const name of ['alice', 'bob', 'carol']) {
    const client = await stage.client(name, SCHEMA);
    await client.connect({ url: server.url, room });
    clients.push(client);
  }

  const random = generator(seed);
  const pick = (list) => list[Math.floor(random() * list.length)];
  for (let step = 0; step < STEPS; step++) {
    const client = pick(clients);
    const id = `key ${Math.floor(random() * KEYS)}`;
    const [column, value] = pick([
      ['free', pick([...NUMBERS, ...TEXTS, null])],
      ['frac', pick(NUMBERS)],
      ['whole', pick(NUMBERS.filter(Number.isInteger))],
      ['txt', pick(TEXTS)],
    ]);
    const chance = random();
    if (chance < 0.7) {
      await client.exec(`INSERT INTO cell (id, ${column}) VALUES (?, ?) ON CONFLICT DO UPDATE SET ${column} = excluded.${column}`, [id, value]);
    } else if (chance < 0.8) {
      await client.exec(`DELETE FROM cell WHERE id = ?`, [id]);
    } else if (chance < 0.85) {
      client.network.cut();
    } else if (client.network.isOnline) {
      client.network.goOffline();
    } else {
      client.network.goOnline();
    }
  }
  for (const client of clients) client.network.goOnline();
  await stage.settle({ server, room, schema: SCHEMA, clients });
});

/** A small generator of numbers in [0, 1) that can be repeated: mulberry32. */
function generator(state) {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
