/** Two servers, each a process of its own, over one folder: to each, the other is a program that writes into its rooms' files. */
import assert from 'node:assert/strict';
import { scenario } from '../harness/scenario.js';

const SCHEMA = {
  schemaName: 'main.sql',
  schema: `CREATE TABLE IF NOT EXISTS move (id TEXT PRIMARY KEY NOT NULL, player TEXT, square INTEGER);
SELECT crsql_as_crr('move');
`,
};
const ROOM = 'game';

/** Two servers with two clients each. */
async function begun(stage) {
  stage.publish(SCHEMA);
  const one = await stage.server();
  const two = await stage.server();
  const clients = [];
  for (const [name, server] of [['alice', one], ['bob', two], ['carol', one], ['dave', two]]) {
    const client = await stage.client(name, SCHEMA);
    await client.connect({ url: server.url, room: ROOM });
    clients.push(client);
  }
  return { one, two, clients };
}

async function move(client, number) {
  await client.exec(`INSERT INTO move VALUES (?, ?, ?)`, [`${client.name} ${number}`, client.name, number]);
}

scenario('what is written at one server is seen at the other at once, and nothing more is needed for it', async (stage) => {
  const { one, two, clients } = await begun(stage);
  let moves = 0;
  // One write at a time: if nobody is told of it, no later one helps.
  for (let turn = 0; turn < 8; turn++) {
    await move(clients[turn % clients.length], turn);
    moves++;
    await stage.agreed(clients, (rows) => rows.length === moves);
  }
  await clients[1].exec(`UPDATE move SET square = 64 WHERE id = 'alice 0'`);
  await stage.agreed(clients, (rows) => rows.some((row) => row.includes('integer 64')));
  await clients[2].exec(`DELETE FROM move WHERE id = 'bob 1'`);
  await stage.agreed(clients, (rows) => rows.length === moves - 1);

  for (const { name, network } of clients) assert.deepEqual(network.closes, [], `${name} was never closed`);
  await two.stop();
  for (const client of [clients[1], clients[3]]) await client.disconnect();
  await stage.settle({ server: one, room: ROOM, schema: SCHEMA, clients });
});

scenario('clients of both servers write at the same time, and all have all of it', async (stage) => {
  const { one, two, clients } = await begun(stage);
  const EACH = 25;
  const play = async (client) => {
    for (let turn = 0; turn < EACH; turn++) {
      await move(client, turn);
      await client.exec(`INSERT INTO move VALUES ('shared', ?, ?) ON CONFLICT DO UPDATE SET player = excluded.player, square = excluded.square`, [
        client.name,
        turn,
      ]);
    }
  };
  await Promise.all(clients.map(play));
  await stage.agreed(clients, (rows) => rows.length === EACH * clients.length + 1);
  await one.stop();
  for (const client of [clients[0], clients[2]]) await client.disconnect();
  await stage.settle({ server: two, room: ROOM, schema: SCHEMA, clients });
});

scenario('the clients of a server that is killed go on at the other one', async (stage) => {
  const { one, two, clients } = await begun(stage);
  const [alice, bob, carol, dave] = clients;
  for (const client of clients) await move(client, 1);
  await stage.agreed(clients, (rows) => rows.length === 4);
  await Promise.all([move(alice, 2), move(bob, 2), one.kill()]);
  for (const client of [alice, carol]) {
    await client.disconnect();
    await client.connect({ url: two.url, room: ROOM });
  }
  await move(carol, 3);
  await move(dave, 3);
  await stage.agreed(clients, (rows) => rows.length === 8);
  await one.start();
  await bob.disconnect();
  await bob.connect({ url: one.url, room: ROOM });
  await move(bob, 4);
  await stage.agreed(clients, (rows) => rows.length === 9);
  await move(alice, 5);
  await stage.agreed(clients, (rows) => rows.length === 10);
  await one.stop();
  await bob.disconnect();
  await stage.settle({ server: two, room: ROOM, schema: SCHEMA, clients });
});
