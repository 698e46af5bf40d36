import assert from 'node:assert/strict';
import { cryb64 } from '@vlcn.io/ws-common';
import { DatabaseFile } from '../harness/database-file.js';
import { scenario } from '../harness/scenario.js';

const SCHEMA = {
  schemaName: 'main.sql',
  schema: `CREATE TABLE IF NOT EXISTS book (isbn TEXT PRIMARY KEY NOT NULL, title TEXT, year INTEGER, price REAL, cover BLOB);
SELECT crsql_as_crr('book');
`,
};

async function siteId(replica) {
  return (await replica.query(`SELECT lower(hex(crsql_site_id()))`))[0][0];
}

/** The sites that a client has received changes from. */
async function peers(client) {
  return (await client.query(`SELECT DISTINCT lower(hex(site_id)) FROM crsql_tracked_peers`)).flat();
}

scenario("the real engine opens the server's file, writes to it, and the server goes on with it", async (stage) => {
  stage.publish(SCHEMA);
  const server = await stage.server();
  const room = 'library';
  const alice = await stage.client('alice', SCHEMA);
  const bob = await stage.client('bob', SCHEMA);
  const clients = [alice, bob];
  for (const client of clients) await client.connect({ url: server.url, room });
  await alice.exec(`INSERT INTO book VALUES ('1', 'One', 2001, 1.5, x'01'), ('2', 'Two', 2002, 2.5, x'02'), ('3', 'Three', 2003, 3.5, x'03')`);
  await bob.exec(`INSERT INTO book VALUES ('4', 'Four', 2004, 4.0, NULL)`);
  await stage.agreed(clients, (rows) => rows.length === 4);
  await bob.exec(`DELETE FROM book WHERE isbn = '3'`);
  await stage.agreed(clients, (rows) => rows.length === 3);
  await server.stop();

  const file = await DatabaseFile.open(stage.file(room));
  assert.deepEqual(await file.query('PRAGMA integrity_check'), [['ok']]);
  const site = await siteId(file);
  for (const client of clients) assert.deepEqual(await peers(client), [site], 'the server went by the site id of its file');
  const [[before]] = await file.query('SELECT crsql_db_version()');
  await file.exec(`UPDATE book SET title = 'One, by the real engine' WHERE isbn = '1'`);
  await file.exec(`DELETE FROM book WHERE isbn = '2'`);
  await file.exec(`INSERT INTO book VALUES ('3', 'Three again', NULL, NULL, NULL), ('5', 'Five', 2005, 5.5, x'05')`);
  assert.equal((await file.query('SELECT crsql_db_version()'))[0][0], before + 3, 'the real engine counts on');
  await file.save(stage.file(room));

  await alice.exec(`UPDATE book SET year = 1999 WHERE isbn = '1'`);
  await server.start();
  const expected = `book(isbn: text '1', title: text 'One, by the real engine', year: integer 1999, price: real 1.5, cover: blob X'01')`;
  await stage.agreed(clients, (rows) => rows.length === 4 && rows.includes(expected));
  await bob.exec(`UPDATE book SET price = 9 WHERE isbn = '5'`);
  await stage.settle({ server, room, schema: SCHEMA, clients, also: (rows) => rows.some((row) => row.includes('real 9.0')) });

  const after = await DatabaseFile.open(stage.file(room));
  assert.equal(await siteId(after), site, 'the file kept its site id');
  await after.close();
});

scenario('the server opens a file that the real engine made, and goes on with it', async (stage) => {
  stage.publish(SCHEMA);
  const room = 'library';
  const other = await DatabaseFile.create();
  await other.exec(SCHEMA.schema);
  await other.exec(`INSERT INTO book VALUES ('9', 'From a third site', 1999, 9.5, x'09')`);
  const foreign = await other.query(`SELECT "table", pk, cid, val, col_version, db_version, crsql_site_id(), cl, seq FROM crsql_changes`);
  await other.close();

  // A file with a past: own rows, a deleted and a revived one, a changed key, another site's rows, a known schema.
  const file = await DatabaseFile.create();
  await file.exec(SCHEMA.schema);
  await file.exec(`INSERT INTO book VALUES ('1', 'One', 2001, 1.5, x'01'), ('2', 'Two', 2002, 2.5, x'02'), ('3', 'Three', 2003, 3.5, NULL)`);
  await file.exec(`DELETE FROM book WHERE isbn IN ('2', '3')`);
  await file.exec(`INSERT INTO book (isbn, title) VALUES ('3', 'Three again')`);
  await file.exec(`UPDATE book SET isbn = '1b' WHERE isbn = '1'`);
  for (const change of foreign) {
    await file.exec('INSERT INTO crsql_changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)', change);
  }
  await file.exec(`INSERT INTO crsql_master (key, value) VALUES ('schema_name', ?), ('schema_version', ?)`, [
    SCHEMA.schemaName,
    cryb64(SCHEMA.schema),
  ]);
  const site = await siteId(file);
  await file.save(stage.file(room));

  const server = await stage.server();
  const alice = await stage.client('alice', SCHEMA);
  const bob = await stage.client('bob', SCHEMA);
  const clients = [alice, bob];
  for (const client of clients) await client.connect({ url: server.url, room });
  await stage.agreed(clients, (rows) => rows.length === 3);
  assert.deepEqual(await peers(alice), [site], 'the server goes by the site id of the file');

  await alice.exec(`UPDATE book SET title = 'three, edited', year = 2 WHERE isbn = '3'`);
  await alice.exec(`INSERT INTO book (isbn, title) VALUES ('2', 'Two again')`);
  await bob.exec(`DELETE FROM book WHERE isbn = '9'`);
  await stage.settle({ server, room, schema: SCHEMA, clients, also: (rows) => rows.length === 3 });

  const after = await DatabaseFile.open(stage.file(room));
  assert.equal(await siteId(after), site, 'the file kept its site id');
  assert.deepEqual(await after.query('PRAGMA integrity_check'), [['ok']]);
  await after.close();
});
