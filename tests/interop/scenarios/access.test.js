import assert from 'node:assert/strict';
import { until } from '../harness/convergence.js';
import { upgradeAnswer } from '../harness/raw-socket.js';
import { scenario } from '../harness/scenario.js';

const SCHEMA = {
  schemaName: 'main.sql',
  schema: `CREATE TABLE IF NOT EXISTS secret (id TEXT PRIMARY KEY NOT NULL, text TEXT);
SELECT crsql_as_crr('secret');
`,
};
const token = 'correct-horse';
const wrongToken = 'battery-staple';

scenario('a wrong or missing token is answered with 401, and the right one syncs', async (stage) => {
  stage.publish(SCHEMA);
  const server = await stage.server({ token, logLevel: 'trace' });
  const room = 'vault';
  for (const wrong of [wrongToken, `${token}2`, '', undefined]) {
    const { status } = await upgradeAnswer({ url: server.url, room, token: wrong });
    assert.equal(status, 401, `token ${wrong}`);
  }
  assert.equal((await upgradeAnswer({ url: server.url, room, token })).status, 101);

  const alice = await stage.client('alice', SCHEMA);
  const bob = await stage.client('bob', SCHEMA);
  await alice.exec(`INSERT INTO secret VALUES ('a', 'by alice')`);
  await alice.connect({ url: server.url, room, token: wrongToken });
  await bob.connect({ url: server.url, room, token });
  await bob.exec(`INSERT INTO secret VALUES ('b', 'by bob')`);
  await until('two refusals', () => alice.network.closes.length >= 2);
  for (const error of alice.network.errors) assert.match(error.message, /401/);
  assert.deepEqual(alice.network.transcript, [], 'not a byte of sync before the right token');

  await alice.disconnect();
  await alice.connect({ url: server.url, room, token });
  await stage.settle({ server, room, token, schema: SCHEMA, clients: [alice, bob], also: (rows) => rows.length === 2 });
  for (const said of [token, wrongToken, 'by alice', 'by bob']) {
    assert.ok(!server.log().includes(said), `at no level the log names a token or a value: ${said}`);
  }
});
