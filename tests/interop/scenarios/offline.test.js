import assert from 'node:assert/strict';
import { until } from '../harness/convergence.js';
import { scenario } from '../harness/scenario.js';

const SCHEMA = {
  schemaName: 'main.sql',
  schema: `CREATE TABLE IF NOT EXISTS sample (id TEXT PRIMARY KEY NOT NULL, stamp, level REAL, note TEXT);
SELECT crsql_as_crr('sample');
`,
};

scenario('offline edits arrive after the reconnect, in both directions', async (stage) => {
  stage.publish(SCHEMA);
  const server = await stage.server();
  const room = 'samples';
  const alice = await stage.client('alice', SCHEMA);
  const bob = await stage.client('bob', SCHEMA);
  const carol = await stage.client('carol', SCHEMA);
  const clients = [alice, bob, carol];
  for (const client of clients) await client.connect({ url: server.url, room });
  await alice.exec(`INSERT INTO sample VALUES ('a', 1, 1.5, 'start'), ('b', 2, 2.5, 'start')`);
  await stage.agreed(clients, (rows) => rows.length === 2);

  alice.network.goOffline();
  bob.network.goOffline();
  await alice.exec(`UPDATE sample SET note = 'by alice, offline' WHERE id = 'a'`);
  await alice.exec(`INSERT INTO sample VALUES ('alice', NULL, NULL, 'new')`);
  await bob.exec(`DELETE FROM sample WHERE id = 'b'`);
  await bob.exec(`INSERT INTO sample VALUES ('bob', NULL, NULL, 'new')`);
  await carol.exec(`INSERT INTO sample VALUES ('carol', NULL, NULL, 'new')`);

  alice.network.goOnline();
  await stage.agreed([alice, carol], (rows) => rows.length === 4);
  assert.equal((await bob.query(`SELECT count(*) FROM sample`))[0][0], 2, 'bob is really cut off');

  bob.network.goOnline();
  await stage.settle({ server, room, schema: SCHEMA, clients, also: (rows) => rows.length === 4 });
});

/** What two sites write to the same cells: on the wire all of it is doubles. */
const NOW = Date.now();
const CONTESTED = [
  [NOW, NOW + 1],
  [NOW + 1, NOW],
  [5, 7],
  [7, 5],
  [2 ** 31, 2 ** 31 - 1],
  [2 ** 31 - 1, 2 ** 31],
  [1.5, 2],
  [2, 1.5],
  [-3, 3.25],
  [2 ** 40, 3.5],
  [3.5, 2 ** 40],
  [0, -(2 ** 33)],
];

for (const order of ['alice first', 'bob first', 'both at once']) {
  scenario(`concurrent offline edits with timestamps and whole reals converge, reconnecting ${order}`, async (stage) => {
    stage.publish(SCHEMA);
    const server = await stage.server();
    const room = 'samples';
    const alice = await stage.client('alice', SCHEMA);
    const bob = await stage.client('bob', SCHEMA);
    const clients = [alice, bob];
    for (const client of clients) await client.connect({ url: server.url, room });
    for (const index of CONTESTED.keys()) {
      await alice.exec(`INSERT INTO sample (id) VALUES (?), (?)`, [`bound ${index}`, `integer ${index}`]);
    }
    await stage.agreed(clients, (rows) => rows.length === 2 * CONTESTED.length);

    for (const client of clients) client.network.goOffline();
    for (const [index, pair] of CONTESTED.entries()) {
      for (const [client, number] of [
        [alice, pair[0]],
        [bob, pair[1]],
      ]) {
        // A JavaScript number above 2^31 is bound as a real, and a literal is an integer: both happen in applications.
        await client.exec(`UPDATE sample SET stamp = ?, level = ? WHERE id = ?`, [number, number, `bound ${index}`]);
        await client.exec(`UPDATE sample SET stamp = ${number}, level = ${number} WHERE id = ?`, [`integer ${index}`]);
      }
    }
    const [first, second] = order === 'bob first' ? [bob, alice] : [alice, bob];
    const announced = first.network.messages('client', 'AnnouncePresence').length;
    first.network.goOnline();
    if (order !== 'both at once') {
      await until('the first to have uploaded', () => {
        const frames = first.network.transcript;
        const last = frames.findLastIndex((frame) => frame.message === 'StartStreaming');
        return (
          first.network.messages('client', 'AnnouncePresence').length > announced &&
          frames.slice(last).some((frame) => frame.from === 'client' && frame.message === 'Changes')
        );
      });
    }
    second.network.goOnline();

    await stage.settle({ server, room, schema: SCHEMA, clients });
  });
}

scenario('many reconnects in a row with stale positions lose nothing while both sides write', async (stage) => {
  stage.publish(SCHEMA);
  const server = await stage.server();
  const room = 'samples';
  const alice = await stage.client('alice', SCHEMA);
  const bob = await stage.client('bob', SCHEMA);
  const clients = [alice, bob];
  for (const client of clients) await client.connect({ url: server.url, room });

  const rounds = 6;
  let written = 0;
  const write = async () => {
    for (const client of clients) {
      await client.exec(`INSERT INTO sample VALUES (?, ?, ?, ?)`, [`${client.name} ${written}`, written, written / 2, client.name]);
      await client.exec(`INSERT INTO sample (id, stamp) VALUES ('both', ?) ON CONFLICT DO UPDATE SET stamp = excluded.stamp`, [written]);
    }
    written++;
  };
  for (let round = 1; round <= rounds; round++) {
    await write();
    const opened = clients.map(({ network }) => network.opened);
    // Once each alone, and then both at once.
    const cut = round % 3 === 0 ? clients : [clients[round % 2]];
    for (const client of cut) client.network.cut();
    await until('the cut clients to come back', async () => {
      await write();
      return clients.every((client, index) => !cut.includes(client) || client.network.opened > opened[index]);
    });
    await write();
  }

  await stage.settle({ server, room, schema: SCHEMA, clients, also: (rows) => rows.length === 2 * written + 1 });
});
