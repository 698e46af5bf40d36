import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { until } from '../harness/convergence.js';
import { scenario } from '../harness/scenario.js';

const SCHEMA = {
  schemaName: 'main.sql',
  schema: `CREATE TABLE IF NOT EXISTS entry (id TEXT PRIMARY KEY NOT NULL, text TEXT);
SELECT crsql_as_crr('entry');
`,
};

scenario('a request that is never sent to its end does not keep the server from stopping', async (stage) => {
  stage.publish(SCHEMA);
  const server = await stage.server();
  const { hostname, port } = new URL(server.url);
  const socket = connect(Number(port), hostname);
  socket.on('error', () => {});
  await once(socket, 'connect');
  socket.write('GET / HTTP/1.1\r\nHost: a\r\n');
  await server.stop();
  socket.destroy();
});

for (const [how, end] of [
  ['SIGTERM', (server) => server.stop()],
  ['kill -9', (server) => server.kill()],
]) {
  scenario(`sync goes on after ${how} and a restart on the same files`, async (stage) => {
    stage.publish(SCHEMA);
    const server = await stage.server();
    const room = 'journal';
    const alice = await stage.client('alice', SCHEMA);
    const bob = await stage.client('bob', SCHEMA);
    const clients = [alice, bob];
    for (const client of clients) await client.connect({ url: server.url, room });
    await alice.exec(`INSERT INTO entry VALUES ('before', 'alice')`);
    await bob.exec(`INSERT INTO entry VALUES ('before too', 'bob')`);
    await stage.agreed(clients, (rows) => rows.length === 2);

    await end(server);
    await until('both to be disconnected', () => clients.every(({ network }) => network.closes.length > 0));
    if (how === 'SIGTERM') {
      for (const { name, network } of clients) assert.equal(network.closes[0].code, 1001, `${name} was told`);
    }
    await alice.exec(`INSERT INTO entry VALUES ('meanwhile', 'alice')`);
    await bob.exec(`UPDATE entry SET text = 'bob, meanwhile' WHERE id = 'before'`);
    await server.start();
    await stage.agreed(clients, (rows) => rows.length === 3 && rows.some((row) => row.includes('bob, meanwhile')));

    await alice.exec(`INSERT INTO entry VALUES ('after', 'alice')`);
    await bob.exec(`INSERT INTO entry VALUES ('after too', 'bob')`);
    await stage.settle({ server, room, schema: SCHEMA, clients, also: (rows) => rows.length === 5 });
    for (const client of clients) {
      const [[peers]] = await client.query(`SELECT count(DISTINCT site_id) FROM crsql_tracked_peers`);
      assert.equal(peers, 1, `${client.name} knows the server under one site id`);
    }
  });
}

scenario('a kill -9 in the middle of writing loses nothing', async (stage) => {
  stage.publish(SCHEMA);
  const server = await stage.server();
  const room = 'journal';
  const alice = await stage.client('alice', SCHEMA);
  const bob = await stage.client('bob', SCHEMA);
  const clients = [alice, bob];
  for (const client of clients) await client.connect({ url: server.url, room });

  let written = 0;
  const write = async () => {
    for (const client of clients) await client.exec(`INSERT INTO entry VALUES (?, ?)`, [`${client.name} ${written}`, client.name]);
    written++;
  };
  for (let crash = 1; crash <= 2; crash++) {
    const seen = bob.network.messages('server', 'Changes').length;
    await until('changes to flow', async () => {
      await write();
      return bob.network.messages('server', 'Changes').length > seen + 2;
    });
    await Promise.all([write(), server.kill()]);
    await server.start();
  }

  await stage.settle({ server, room, schema: SCHEMA, clients, also: (rows) => rows.length === 2 * written });
});
