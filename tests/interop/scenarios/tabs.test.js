import assert from 'node:assert/strict';
import { until } from '../harness/convergence.js';
import { Network } from '../harness/network.js';
import { scenario } from '../harness/scenario.js';

const SCHEMA = {
  schemaName: 'main.sql',
  schema: `CREATE TABLE IF NOT EXISTS item (id TEXT PRIMARY KEY NOT NULL, text TEXT);
SELECT crsql_as_crr('item');
`,
};

scenario('two tabs of one site sync at the same time, and one goes on when the other is closed', async (stage) => {
  stage.publish(SCHEMA);
  const server = await stage.server();
  const room = 'items';
  const alice = await stage.client('alice', SCHEMA);
  const bob = await stage.client('bob', SCHEMA);
  const second = new Network('second tab');
  const firstTab = await alice.connect({ url: server.url, room });
  await alice.connect({ url: server.url, room, network: second });
  await bob.connect({ url: server.url, room });
  await until('both tabs to be streaming', () =>
    [alice.network, second].every((network) => network.messages('server', 'StartStreaming').length > 0),
  );

  for (let index = 0; index < 10; index++) {
    await alice.exec(`INSERT INTO item VALUES (?, 'by alice')`, [`alice ${index}`]);
    await bob.exec(`INSERT INTO item VALUES (?, 'by bob')`, [`bob ${index}`]);
  }
  await stage.agreed([alice, bob], (rows) => rows.length === 20);
  await until("the others' changes in both tabs", () =>
    [alice.network, second].every((network) => network.messages('server', 'Changes').length > 0),
  );

  await firstTab.close();
  await alice.exec(`UPDATE item SET text = 'by the second tab' WHERE id = 'bob 0'`);
  await bob.exec(`DELETE FROM item WHERE id = 'alice 0'`);
  await stage.settle({
    ...{ server, room, schema: SCHEMA, clients: [alice, bob] },
    also: (rows) => rows.length === 19 && rows.some((row) => row.includes('by the second tab')),
  });
  assert.deepEqual(second.exceptions, []);
});
