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

scenario('rooms with different schemas live side by side, and one is migrated while clients of both are connected', async (stage) => {
  const shop = {
    schemaName: 'shop.sql',
    schema: `CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY NOT NULL, name TEXT, price REAL);
SELECT crsql_as_crr('item');
`,
  };
  for (const schema of [OLD, shop]) stage.publish(schema);
  const server = await stage.server();
  const alice = await stage.client('alice', OLD);
  const bob = await stage.client('bob', shop);
  const bert = await stage.client('bert', shop);
  await alice.connect({ url: server.url, room: 'tasks' });
  for (const client of [bob, bert]) await client.connect({ url: server.url, room: 'shop' });
  await alice.exec(`INSERT INTO task VALUES ('a', 'write')`);
  await bob.exec(`INSERT INTO item VALUES (1, 'bread', 2.5)`);
  await stage.agreed([bob, bert], (rows) => rows.length === 1);

  // A client that takes the wrong one of two rooms is not let in, and takes nothing with it.
  const stray = await stage.client('stray', shop);
  await stray.exec(`INSERT INTO item VALUES (9, 'stray', 9)`);
  await stray.connect({ url: server.url, room: 'tasks' });
  await refused(stray);
  await stray.disconnect();

  // No restart, and nobody has to leave who has the other schema.
  stage.publish(NEW);
  const carol = await stage.client('carol', NEW);
  await carol.connect({ url: server.url, room: 'tasks' });
  await refused(alice);
  await bert.exec(`INSERT INTO item VALUES (2, 'salt', 1)`);
  await stage.agreed([bob, bert], (rows) => rows.length === 2);
  for (const { name, network } of [bob, bert]) assert.deepEqual(network.closes, [], `${name} stayed`);
  await alice.disconnect();
  await alice.upgrade(NEW);
  await alice.connect({ url: server.url, room: 'tasks' });
  await carol.exec(`INSERT INTO label VALUES ('l', 'a', 'urgent')`);
  await stage.settle({ server, room: 'tasks', schema: NEW, clients: [alice, carol], also: (rows) => rows.length === 2 });
  await stage.assertFile('shop', [bob, bert]);
});

scenario('one application has rooms of several schemas, each in a database of its own', async (stage) => {
  const notes = { schemaName: 'notes.sql', schema: OLD.schema.replaceAll('task', 'note') };
  for (const schema of [OLD, notes]) stage.publish(schema);
  const server = await stage.server();
  const [tasks, texts] = [await stage.client('tasks of alice', OLD), await stage.client('notes of alice', notes)];
  await tasks.connect({ url: server.url, room: 'alice.tasks' });
  await texts.connect({ url: server.url, room: 'alice.notes' });
  await tasks.exec(`INSERT INTO task VALUES ('t', 'write')`);
  await texts.exec(`INSERT INTO note VALUES ('n', 'written')`);
  const phone = await stage.client('notes on the phone', notes);
  await phone.connect({ url: server.url, room: 'alice.notes' });
  await stage.settle({ server, room: 'alice.notes', schema: notes, clients: [texts, phone], also: (rows) => rows.length === 1 });
  await stage.assertFile('alice.tasks', [tasks]);
});

scenario('while a schema file is being written nobody gets in with a part of it, and all do once it is whole', async (stage) => {
  stage.publish({ ...NEW, schema: '' });
  const server = await stage.server();
  const room = 'tasks';
  const alice = await stage.client('alice', NEW);
  await alice.exec(`INSERT INTO label VALUES ('l', 't', 'urgent')`);
  await alice.connect({ url: server.url, room });
  await refused(alice);
  assert.match(alice.network.closes.at(-1).reason, /main\.sql.*empty/);
  // One that has no tables: its version is the one of an empty file.
  const nobody = await stage.client('nobody', { ...NEW, schema: '' });
  await nobody.connect({ url: server.url, room });
  await refused(nobody);
  await nobody.disconnect();
  stage.publish(OLD);
  await refused(alice);
  stage.publish(NEW);
  const bob = await stage.client('bob', NEW);
  await bob.connect({ url: server.url, room });
  await stage.settle({ server, room, schema: NEW, clients: [alice, bob], also: (rows) => rows.length === 1 });
});

scenario('a file that is cut to nothing for a moment costs a room none of its tables', async (stage) => {
  stage.publish(OLD);
  const server = await stage.server();
  const room = 'tasks';
  const alice = await stage.client('alice', OLD);
  await alice.connect({ url: server.url, room });
  await alice.exec(`INSERT INTO task VALUES ('a', 'write')`);
  const bob = await stage.client('bob', OLD);
  await bob.connect({ url: server.url, room });
  await stage.agreed([alice, bob], (rows) => rows.length === 1);

  const empty = { ...OLD, schema: '' };
  stage.publish(empty);
  const nobody = await stage.client('nobody', empty);
  await nobody.connect({ url: server.url, room });
  await refused(nobody);
  const halves = { ...OLD, schema: OLD.schema.split('\n')[0] };
  stage.publish(halves);
  const half = await stage.client('half', halves);
  await half.connect({ url: server.url, room });
  await refused(half);
  for (const client of [nobody, half]) await client.disconnect();
  await bob.exec(`INSERT INTO task VALUES ('b', 'read')`);
  stage.publish(OLD);
  await stage.settle({ server, room, schema: OLD, clients: [alice, bob], also: (rows) => rows.length === 2 });
  for (const { name, network } of [alice, bob]) {
    assert.deepEqual(network.closes.filter(({ code }) => code === SCHEMA_MISMATCH), [], `${name} never had to leave`);
  }
});
