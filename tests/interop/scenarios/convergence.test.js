import assert from 'node:assert/strict';
import { scenario } from '../harness/scenario.js';

const SCHEMA = {
  schemaName: 'main.sql',
  schema: `CREATE TABLE IF NOT EXISTS note (id PRIMARY KEY NOT NULL, title TEXT, body TEXT, rank INTEGER);
SELECT crsql_as_crr('note');
`,
};

for (const names of [
  ['alice', 'bob'],
  ['alice', 'bob', 'carol'],
]) {
  scenario(`${names.length} clients converge after inserts, updates, deletes and re-inserts`, async (stage) => {
    stage.publish(SCHEMA);
    const server = await stage.server();
    const room = 'notes';
    const clients = [];
    for (const name of names) clients.push(await stage.client(name, SCHEMA));

    // Each inserts rows of its own and one that all of them insert.
    for (const client of clients) {
      await client.exec(`INSERT INTO note VALUES (?, 'first', ?, 1)`, [`${client.name}-1`, client.name]);
      await client.exec(`INSERT INTO note VALUES (?, 'second', ?, 2)`, [`${client.name}-2`, client.name]);
      await client.exec(`INSERT INTO note VALUES ('shared', ?, ?, 0)`, [`by ${client.name}`, client.name]);
      await client.connect({ url: server.url, room });
    }
    await stage.agreed(clients, (rows) => rows.length === names.length * 2 + 1);

    // Each updates and deletes rows of the others.
    for (const [index, client] of clients.entries()) {
      const other = clients[(index + 1) % clients.length].name;
      await client.exec(`UPDATE note SET title = ?, rank = rank + 10 WHERE id = ?`, [`seen by ${client.name}`, `${other}-1`]);
      await client.exec(`DELETE FROM note WHERE id = ?`, [`${other}-2`]);
    }
    await stage.agreed(clients, (rows) => rows.length === names.length + 1);

    // Deleted rows come back with other values, one of them by all clients at once.
    for (const client of clients) {
      await client.exec(`INSERT OR REPLACE INTO note VALUES ('alice-2', 'again', ?, NULL)`, [client.name]);
      await client.exec(`INSERT INTO note (id, title) VALUES (?, 'reborn')`, [`${client.name}-3`]);
    }
    await clients[0].exec(`DELETE FROM note WHERE id = 'shared'`);
    await stage.settle({ server, room, schema: SCHEMA, clients, also: (rows) => rows.length === names.length * 2 + 1 });
  });
}

scenario('concurrent edits of one cell end with the larger value everywhere', async (stage) => {
  stage.publish(SCHEMA);
  const server = await stage.server();
  const room = 'notes';
  const alice = await stage.client('alice', SCHEMA);
  const bob = await stage.client('bob', SCHEMA);
  const clients = [alice, bob];
  for (const client of clients) await client.connect({ url: server.url, room });
  await alice.exec(`INSERT INTO note VALUES ('a', 'start', '', 0), ('b', 'start', '', 0), ('c', 'start', '', 0)`);
  await stage.agreed(clients, (rows) => rows.length === 3);

  // While both are connected, in either order and in the same moment.
  await Promise.all([
    alice.exec(`UPDATE note SET title = 'apple' WHERE id = 'a'`),
    bob.exec(`UPDATE note SET title = 'banana' WHERE id = 'a'`),
  ]);
  await Promise.all([
    bob.exec(`UPDATE note SET title = 'apple' WHERE id = 'b'`),
    alice.exec(`UPDATE note SET title = 'banana' WHERE id = 'b'`),
  ]);
  await stage.agreed(clients);

  // While neither knows of the other: the same cell, an edit against a delete, and the same new key.
  for (const client of clients) client.network.goOffline();
  await alice.exec(`UPDATE note SET title = 'cherry' WHERE id = 'c'`);
  await bob.exec(`UPDATE note SET title = 'damson' WHERE id = 'c'`);
  await alice.exec(`UPDATE note SET body = 'edited' WHERE id = 'b'`);
  await bob.exec(`DELETE FROM note WHERE id = 'b'`);
  await alice.exec(`INSERT INTO note VALUES ('new', 'by alice', NULL, 1)`);
  await bob.exec(`INSERT INTO note VALUES ('new', 'by bob', NULL, 2)`);
  for (const client of clients) client.network.goOnline();

  await stage.settle({
    ...{ server, room, schema: SCHEMA, clients },
    also: (rows) => rows.some((row) => row.includes(`'damson'`)) && rows.some((row) => row.includes(`'by bob'`)),
  });
  assert.deepEqual(await alice.query(`SELECT id, title, rank FROM note ORDER BY id`), [
    ['a', (await bob.query(`SELECT title FROM note WHERE id = 'a'`))[0][0], 0],
    ['c', 'damson', 0],
    ['new', 'by bob', 2],
  ]);
});

scenario("an author receives another site's changes straight after its own", async (stage) => {
  stage.publish(SCHEMA);
  const server = await stage.server();
  const room = 'notes';
  const alice = await stage.client('alice', SCHEMA);
  const bob = await stage.client('bob', SCHEMA);
  const clients = [alice, bob];
  for (const client of clients) await client.connect({ url: server.url, room });

  const rounds = 20;
  for (let round = 1; round <= rounds; round++) {
    await Promise.all(
      clients.map((client) => client.exec(`INSERT INTO note VALUES (?, ?, NULL, ?)`, [`${client.name}-${round}`, client.name, round])),
    );
    await stage.agreed(clients, (rows) => rows.length === 2 * round);
  }

  for (const { name, network } of clients) {
    assert.deepEqual(network.messages('client', 'RejectChanges'), [], `${name} saw no gap`);
    assert.equal(network.messages('server', 'StartStreaming').length, 1, `${name} was not asked to start over`);
    assert.deepEqual(network.closes, [], `${name} was never disconnected`);
  }
  await stage.settle({ server, room, schema: SCHEMA, clients });
});

for (const [how, assignments, moved] of [
  ['alone', `id = 'new'`, `note(id: text 'new', title: text 'title', body: text 'body', rank: integer 7)`],
  ['with another column', `id = 'new', rank = 9`, `note(id: text 'new', title: text 'title', body: text 'body', rank: integer 9)`],
]) {
  scenario(`all columns of a row reach the others when its primary key changes ${how}`, async (stage) => {
    stage.publish(SCHEMA);
    const server = await stage.server();
    const room = 'notes';
    const alice = await stage.client('alice', SCHEMA);
    const bob = await stage.client('bob', SCHEMA);
    const clients = [alice, bob];
    for (const client of clients) await client.connect({ url: server.url, room });
    await alice.exec(`INSERT INTO note VALUES ('mine', 'title', 'body', 7), ('theirs', 'title', 'body', 7), ('third', '', '', 8)`);
    await stage.agreed(clients, (rows) => rows.length === 3);

    // The author moves a row after its sync, and the other one moves a row that it only received.
    await alice.exec(`UPDATE note SET ${assignments} WHERE id = 'mine'`);
    await stage.agreed(clients, (rows) => rows.length === 3 && rows.includes(moved));
    await bob.exec(`UPDATE note SET ${assignments.replace('new', 'newer')} WHERE id = 'theirs'`);
    await alice.exec(`UPDATE note SET title = 'still syncing' WHERE id = 'third'`);
    await stage.settle({
      ...{ server, room, schema: SCHEMA, clients },
      also: (rows) =>
        rows.length === 3 &&
        rows.includes(moved.replace('new', 'newer')) &&
        rows.some((row) => row.includes('still syncing')),
    });
  });
}
