/**
 * A room's file that goes back in time: a backup is put back, and the operator says so with --fork. Without that, clients
 * would skip what is written under numbers that they have already seen.
 */
import assert from 'node:assert/strict';
import { copyFileSync, existsSync, rmSync } from 'node:fs';
import { contents } from '../harness/contents.js';
import { scenario } from '../harness/scenario.js';

const SCHEMA = {
  schemaName: 'main.sql',
  schema: `CREATE TABLE IF NOT EXISTS note (id TEXT PRIMARY KEY NOT NULL, text TEXT, stars INTEGER);
SELECT crsql_as_crr('note');
`,
};
const ROOM = 'notes';
/** Rows that are in the backup already, each of them two changes. */
const OLD_ROWS = 400;

/** Writes so many rows, each in a transaction of its own. */
async function write(client, kind, count) {
  for (let row = 0; row < count; row++) {
    await client.exec(`INSERT INTO note VALUES (?, ?, ?)`, [`${kind} ${row}`, `of ${client.name}`, row]);
  }
}

const has = (rows, kind) => rows.filter((row) => row.includes(`'${kind} `)).length;

/** A copy of the room's file. The server has stopped, so that all there is is in the one file. */
function backUp(stage) {
  const backup = `${stage.file(ROOM)}.backup`;
  copyFileSync(stage.file(ROOM), backup);
  return () => {
    for (const log of ['-wal', '-shm']) assert.ok(!existsSync(stage.file(ROOM) + log), 'a server that stopped leaves no log');
    copyFileSync(backup, stage.file(ROOM));
  };
}

/**
 * The page is loaded again: only then does a client announce what it has by now. What is returned says how much it has
 * downloaded since.
 */
async function reload(client, server) {
  await client.disconnect();
  const { changes, bytes } = client.network.downloaded;
  await client.connect({ url: server.url, room: ROOM });
  return () => {
    const now = client.network.downloaded;
    return { changes: now.changes - changes, bytes: now.bytes - bytes };
  };
}

/** Alice, Bob and Carol have all that is in the backup. */
async function begun(stage) {
  stage.publish(SCHEMA);
  const server = await stage.server();
  const clients = [];
  for (const name of ['alice', 'bob', 'carol']) {
    const client = await stage.client(name, SCHEMA);
    await client.connect({ url: server.url, room: ROOM });
    clients.push(client);
  }
  const statement = (_, row) => [`INSERT INTO note VALUES (?, 'in the backup', 0)`, [`old ${row}`]];
  await clients[0].transaction(...Array.from({ length: OLD_ROWS }, statement));
  await write(clients[1], 'older', 3);
  await stage.agreed(clients, (rows) => rows.length === OLD_ROWS + 3);
  await server.stop();
  const restore = backUp(stage);
  await server.start();
  return { server, clients, restore };
}

scenario('what a restored backup has lost comes back from the clients, and who had seen all downloads nothing again', async (stage) => {
  const { server, clients, restore } = await begun(stage);
  const [alice, bob, carol] = clients;

  // Alice and Bob see later versions than the backup has; Carol does not.
  carol.network.goOffline();
  await write(alice, 'lost', 10);
  await bob.exec(`UPDATE note SET stars = 5 WHERE id = 'old 7'`);
  await bob.exec(`DELETE FROM note WHERE id = 'old 8'`);
  await stage.agreed([alice, bob], (rows) => has(rows, 'lost') === 10 && rows.some((row) => row.includes('integer 5')));

  await server.stop();
  restore();
  await carol.exec(`UPDATE note SET text = 'meanwhile' WHERE id = 'old 9'`);
  await write(bob, 'meanwhile', 5);
  await server.start({ fork: [ROOM] });
  carol.network.goOnline();
  const aliceGot = await reload(alice, server);
  const carolGot = await reload(carol, server);
  // Bob's page stays open: it announces what it knew when it was loaded, and gets more than it needs.
  await stage.agreed(clients, (rows) => rows.length === OLD_ROWS + 3 + 10 - 1 + 5 && has(rows, 'lost') === 10);

  // What is written now has numbers that Alice and Bob have seen under the former site.
  await write(carol, 'new', 12);
  await stage.agreed(clients, (rows) => has(rows, 'new') === 12);
  const { changes, bytes } = aliceGot();
  assert.ok(changes <= 60 && bytes < 6_000, `alice had seen all, and got ${changes} changes in ${bytes} bytes`);
  // She may have left before she came to something that had been written again: she gets the room, once.
  const room = 2 * OLD_ROWS;
  assert.ok(carolGot().changes >= room && carolGot().changes <= room + 60, `carol got ${carolGot().changes} changes`);
  assert.match(server.log(), /it has become another site/);
  await stage.settle({ server, room: ROOM, schema: SCHEMA, clients });
});

scenario('the same backup may be restored again, and a client that was away for both finds its way', async (stage) => {
  const { server, clients, restore } = await begun(stage);
  const [alice, bob, carol] = clients;
  await carol.disconnect();
  await write(carol, 'away', 4);
  for (const round of ['first', 'second']) {
    await write(alice, round, 6);
    await stage.agreed([alice, bob], (rows) => has(rows, round) === 6);
    for (const client of [alice, bob]) await client.disconnect();
    await server.stop();
    restore();
    await server.start({ fork: [ROOM] });
    // Strangers take the numbers under which Bob has seen something else.
    const strangers = [await stage.client(`writer of the ${round}`, SCHEMA), await stage.client(`reader of the ${round}`, SCHEMA)];
    for (const stranger of strangers) await stranger.connect({ url: server.url, room: ROOM });
    await write(strangers[0], `strange ${round}`, 6);
    await stage.agreed(strangers, (rows) => has(rows, `strange ${round}`) === 6);
    for (const stranger of strangers) await stranger.disconnect();
    for (const client of [alice, bob]) await reload(client, server);
    await write(bob, `after the ${round}`, 6);
    const kinds = [round, `strange ${round}`, `after the ${round}`];
    await stage.agreed([alice, bob], (rows) => kinds.every((kind) => has(rows, kind) === 6));
  }
  const carolGot = await reload(carol, server);
  await stage.agreed(clients, (rows) => has(rows, 'away') === 4 && rows.length === OLD_ROWS + 3 + 4 + 36);
  assert.ok(carolGot().changes <= 2 * OLD_ROWS + 90, `carol got ${carolGot().changes} changes, more than once the room`);
  await stage.settle({ server, room: ROOM, schema: SCHEMA, clients, also: (rows) => rows.length === OLD_ROWS + 3 + 4 + 36 });
});

scenario('a room that only the clients still have comes back whole', async (stage) => {
  const { server, clients } = await begun(stage);
  await server.stop();
  const before = await contents(clients[0]);
  // Not even a backup: with no file, the room is a new site to its clients, and needs no fork.
  rmSync(stage.file(ROOM));
  await server.start();
  for (const client of clients) await reload(client, server);
  await write(clients[2], 'new', 3);
  await stage.settle({
    ...{ server, room: ROOM, schema: SCHEMA, clients },
    also: (rows) => rows.length === before.length + 3,
  });
});
