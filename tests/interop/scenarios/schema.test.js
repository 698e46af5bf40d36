import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { contents } from '../harness/contents.js';
import { until } from '../harness/convergence.js';
import { scenario } from '../harness/scenario.js';

const SCHEMA_NAME = 'main.sql';
const OLD = {
  schemaName: SCHEMA_NAME,
  schema: `CREATE TABLE IF NOT EXISTS task (id TEXT PRIMARY KEY NOT NULL, title TEXT);
SELECT crsql_as_crr('task');
`,
};
const NEW = {
  schemaName: SCHEMA_NAME,
  schema: `${OLD.schema}CREATE TABLE IF NOT EXISTS label (id TEXT PRIMARY KEY NOT NULL, task TEXT, text TEXT);
SELECT crsql_as_crr('label');
`,
};
const SCHEMA_MISMATCH = 4400;

/** Waits until the client was refused more than once, each time for its schema. */
async function refused({ network }) {
  const before = network.closes.length;
  const sent = network.messages('client', 'Changes').length;
  await until('two refusals', () => network.closes.length >= before + 2);
  for (const { code, reason } of network.closes.slice(before)) {
    assert.equal(code, SCHEMA_MISMATCH);
    assert.notEqual(reason, '', 'a refusal says why');
  }
  assert.equal(network.messages('client', 'Changes').length, sent, 'nothing was sent to a server that could not take it');
}

scenario("a client with a table that the server's schema file lacks syncs once the file is mended", async (stage) => {
  stage.publish(OLD);
  const server = await stage.server();
  const room = 'tasks';
  const alice = await stage.client('alice', NEW);
  await alice.exec(`INSERT INTO task VALUES ('t', 'write')`);
  await alice.exec(`INSERT INTO label VALUES ('l', 't', 'urgent')`);
  const written = await contents(alice);
  await alice.connect({ url: server.url, room });
  await refused(alice);
  assert.deepEqual(await contents(alice), written, 'what the client wrote is still there');

  stage.publish(NEW);
  const bob = await stage.client('bob', NEW);
  await bob.connect({ url: server.url, room });
  await stage.settle({
    ...{ server, room, schema: NEW, clients: [alice, bob] },
    also: (rows) => assert.deepEqual(rows, written) ?? true,
  });
});

scenario('a client with a new schema migrates the room, and those that upgrade go on where they were', async (stage) => {
  stage.publish(OLD);
  const server = await stage.server();
  const room = 'tasks';
  const alice = await stage.client('alice', OLD);
  const bob = await stage.client('bob', OLD);
  for (const client of [alice, bob]) await client.connect({ url: server.url, room });
  await alice.exec(`INSERT INTO task VALUES ('a', 'write')`);
  await bob.exec(`INSERT INTO task VALUES ('b', 'read')`);
  await stage.agreed([alice, bob], (rows) => rows.length === 2);

  const next = { ...NEW, schema: NEW.schema.replace('title TEXT)', 'title TEXT, done INTEGER DEFAULT 0)') };
  stage.publish(next);
  const carol = await stage.client('carol', next);
  await carol.connect({ url: server.url, room });
  for (const client of [alice, bob]) await refused(client);
  assert.match(server.log(), /room migrated/);
  await carol.exec(`INSERT INTO task VALUES ('c', 'sync', 1)`);
  await carol.exec(`INSERT INTO label VALUES ('l', 'a', 'urgent')`);
  await alice.exec(`INSERT INTO task VALUES ('d', 'written while it was refused')`);

  for (const client of [alice, bob]) {
    await client.disconnect();
    await client.upgrade(next);
    await client.connect({ url: server.url, room });
  }
  await alice.exec(`UPDATE task SET done = 1 WHERE id = 'b'`);
  await stage.settle({ server, room, schema: next, clients: [alice, bob, carol], also: (rows) => rows.length === 5 });
});

scenario('a client with the wrong schema version is refused, and the others go on', async (stage) => {
  stage.publish(OLD);
  const server = await stage.server();
  const room = 'tasks';
  const alice = await stage.client('alice', OLD);
  const bob = await stage.client('bob', OLD);
  const stranger = await stage.client('stranger', NEW);
  for (const client of [alice, bob]) await client.connect({ url: server.url, room });
  await stranger.exec(`INSERT INTO task VALUES ('s', 'of another version')`);
  await stranger.connect({ url: server.url, room });
  await alice.exec(`INSERT INTO task VALUES ('a', 'write')`);
  await refused(stranger);
  await bob.exec(`INSERT INTO task VALUES ('b', 'read')`);

  await stage.settle({ server, room, schema: OLD, clients: [alice, bob], also: (rows) => rows.length === 2 });
  for (const { network } of [alice, bob]) {
    assert.deepEqual(network.closes.filter(({ code }) => code === SCHEMA_MISMATCH), [], 'only the stranger was refused');
  }
  assert.deepEqual(await stranger.query(`SELECT * FROM task`), [['s', 'of another version']]);
});

scenario('a client with a schema that the server does not have is refused and gets no room', async (stage) => {
  stage.publish(OLD);
  const server = await stage.server();
  const room = 'tasks';
  const alice = await stage.client('alice', { ...OLD, schemaName: 'unknown.sql' });
  await alice.connect({ url: server.url, room });
  await refused(alice);
  await server.stop();
  assert.ok(!existsSync(stage.file(room)), 'no file was made for it');
});
