import assert from 'node:assert/strict';
import test from 'node:test';
import { DatabaseFile } from '../harness/database-file.js';
import { digest } from '../harness/digest.js';

test('the digest from crsql_changes of the real engine is the one that the server\'s engine computes', async () => {
  const file = await DatabaseFile.create();
  assert.equal(await digest(file), '0'.repeat(64));
  await file.exec(`CREATE TABLE thing (a NOT NULL, b NOT NULL, c, d, PRIMARY KEY (a, b)); SELECT crsql_as_crr('thing');
CREATE TABLE tag (name TEXT PRIMARY KEY NOT NULL); SELECT crsql_as_crr('tag');`);
  await file.exec(`INSERT INTO thing VALUES (1099511627776.0, 'é', 5.0, 0.5), (-1, x'00ff', NULL, 9223372036854775807), (0.25, '', -7, 'text')`);
  await file.exec(`INSERT INTO thing VALUES (2, 2, 2, 2); DELETE FROM thing WHERE a = 2; UPDATE thing SET c = 300 WHERE a = -1`);
  await file.exec(`INSERT INTO tag VALUES ('red'), ('blue'); DELETE FROM tag WHERE name = 'red'; INSERT INTO tag VALUES ('red')`);
  // The same in `crates/crr/tests/digest.rs`.
  assert.equal(await digest(file), 'bad2d76e73e5ec512d7484d09782da6e389b8f2ba6ebba4e62e0751d26d559f5');
  await file.close();
});
