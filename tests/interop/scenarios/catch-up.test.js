import assert from 'node:assert/strict';
import { cryb64 } from '@vlcn.io/ws-common';
import { until } from '../harness/convergence.js';
import { DatabaseFile } from '../harness/database-file.js';
import { scenario } from '../harness/scenario.js';

const SCHEMA = {
  schemaName: 'main.sql',
  schema: `CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY NOT NULL, text TEXT);
SELECT crsql_as_crr('note');
`,
};
const room = 'notes';
const TEXT = 'x'.repeat(200);
/** Each is a db_version, of which a few fit in a message. */
const NOTES = 30;
const SETTINGS = { max_frame_bytes: 1024 };
/** The server's own tests have the fewest, too. */
const LEAST_MESSAGES = 5;
/** Many clients in one process take a while on a busy machine. */
const deadline = 120_000;
const BINARY = 2;
const CONTINUATION = 0;

/** A room with changes that take several messages to catch up with, and how many. */
async function roomOfSeveralMessages(stage) {
  stage.publish(SCHEMA);
  const server = await stage.server({ settings: SETTINGS });
  const alice = await stage.client('alice', SCHEMA);
  for (let id = 1; id <= NOTES; id++) await alice.exec(`INSERT INTO note VALUES (?, ?)`, [id, TEXT]);
  await alice.connect({ url: server.url, room });

  // What a client gets that comes before the changes are there may be cut differently.
  const join = async (name) => {
    const client = await stage.client(name, SCHEMA);
    await client.connect({ url: server.url, room });
    await stage.agreed([alice, client], (rows) => rows.length === NOTES, { deadline });
    return client;
  };
  await join('first');
  const messages = changes(await join('late')).length;
  assert.ok(messages >= LEAST_MESSAGES, `the changes come in ${messages} messages`);
  return { server, alice, messages };
}

/** The messages with changes that a client has received. */
function changes(client) {
  return client.network.messages('server', 'Changes').filter(({ count }) => count > 0);
}

/**
 * Has a client for each message of the catch-up play something, messages counting from 1. All have everything in the end, which is
 * when `check` looks at each client.
 */
async function atEachMessage(stage, play, check = () => {}) {
  const { server, alice, messages } = await roomOfSeveralMessages(stage);
  const numbers = Array.from({ length: messages }, (_, index) => index + 1);
  const clients = await Promise.all(numbers.map((number) => stage.client(`number ${number}`, SCHEMA)));
  const connect = (client) => client.connect({ url: server.url, room });
  await Promise.all(clients.map((client, index) => play(client, { number: index + 1, connect: () => connect(client) })));
  await stage.agreed([alice, ...clients], (rows) => rows.length === NOTES, { deadline });
  clients.forEach(check);

  // It is no dead end: what is written next goes everywhere, too.
  await alice.exec(`INSERT INTO note VALUES (0, 'after')`);
  for (const client of clients) await client.exec(`INSERT INTO note VALUES (?, 'after')`, [1000 + clients.indexOf(client)]);
  const also = (rows) => rows.length === NOTES + 1 + messages;
  await stage.settle({ server, room, schema: SCHEMA, clients: [alice, ...clients], also, deadline });
}

scenario('a client that is cut off at any border of a catch-up gets the rest when it reconnects', async (stage) => {
  await atEachMessage(stage, async (client, { number, connect }) => {
    client.network.cutAfter(number);
    await connect();
    await until('the cut', () => client.network.closes.length > 0, { deadline });
    assert.equal(changes(client).length, number, 'messages that came before the cut');
  });
});

scenario('a page that is cut off at any border of a catch-up and loaded again gets the rest and nothing twice', async (stage) => {
  await atEachMessage(stage, async (client, { number, connect }) => {
    client.network.cutAfter(number);
    await connect();
    await until('the cut', () => client.network.closes.length > 0, { deadline });
    await client.disconnect();
    await connect();
    await stage.agreed([client], (rows) => rows.length === NOTES, { deadline });
    assert.equal(client.network.downloaded.changes, NOTES, 'each change came once');
  });
});

scenario('a client that fails to apply any one message of a catch-up is sent it again', async (stage) => {
  const failOnce = async (client, { number, connect }) => {
    let applies = 0;
    client.failsToApply = () => ++applies === number;
    await connect();
  };
  await atEachMessage(stage, failOnce, ({ name, failures, network }) => {
    assert.equal(failures, 1, `${name} has failed once`);
    assert.ok(network.messages('client', 'RejectChanges').length > 0, `${name} has said where it is`);
    assert.equal(network.opened, 1, `${name} was healed in the same connection`);
  });
});

scenario('a client that fails to apply from any message on goes on when its page is loaded again', async (stage) => {
  // As a statement does that was never reset: nothing is applied any more.
  await atEachMessage(stage, async (client, { number, connect }) => {
    let applies = 0;
    client.failsToApply = () => ++applies >= number;
    await connect();
    await until('a failure', () => client.failures > 0, { deadline });
    await client.disconnect();
    client.failsToApply = () => false;
    const before = changes(client).length;
    await connect();
    await stage.agreed([client], (rows) => rows.length === NOTES, { deadline });
    const [next] = changes(client).slice(before);
    assert.equal(next.since === 0n, number === 1, `the first message after it begins at ${next.since}`);
  });
});

scenario('a transaction that is larger than a message comes whole, in several frames', async (stage) => {
  stage.publish(SCHEMA);
  // Other servers than ours cut no transaction that they merge.
  const file = await DatabaseFile.create();
  await file.exec(SCHEMA.schema);
  await file.exec(
    `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
     INSERT INTO note SELECT i, ? FROM n`,
    [TEXT],
  );
  await file.exec(`INSERT INTO note VALUES (0, 'after')`);
  await file.exec(`INSERT INTO crsql_master (key, value) VALUES ('schema_name', ?), ('schema_version', ?)`, [
    SCHEMA.schemaName,
    cryb64(SCHEMA.schema),
  ]);
  await file.save(stage.file(room));

  const server = await stage.server({ settings: SETTINGS });
  const relay = await stage.relay(server);
  const alice = await stage.client('alice', SCHEMA);
  await alice.connect({ url: relay.url, room });
  await stage.agreed([alice], (rows) => rows.length === 2001, { deadline });
  assert.deepEqual(
    changes(alice).map(({ count }) => count),
    [2000, 1],
    'changes in each message',
  );
  const begin = relay.frames.findIndex(({ opcode, final }) => opcode === BINARY && !final);
  const end = relay.frames.findIndex(({ opcode, final }) => opcode === CONTINUATION && final);
  const message = relay.frames.slice(begin, end + 1);
  assert.ok(message.length > 2, `the large one came in ${message.length} frames`);
  assert.ok(message.slice(1).every(({ opcode }) => opcode === CONTINUATION));
  assert.equal(message.reduce((sum, { bytes }) => sum + bytes, 0), changes(alice)[0].bytes);
  await stage.settle({ server, room, schema: SCHEMA, clients: [alice], deadline });
});
