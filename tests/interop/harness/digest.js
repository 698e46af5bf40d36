import { createHash } from 'node:crypto';

/**
 * The digest of all that is synced, as `crsql_digest()` of the server's engine computes it: here from `crsql_changes` alone, with
 * what the real engine has. The documentation of `Crr::digest` has the definition. A replica is anything with `query(sql)`.
 */
export async function digest(replica) {
  const changes = await replica.query(
    `SELECT hex(crsql_pack_columns("table")), hex(pk), cid = '-1' AND cl = 1, hex(crsql_pack_columns(cid, col_version, cl,
         CASE WHEN typeof(val) = 'real' AND abs(val) < 9007199254740992 AND val = CAST(val AS INTEGER)
           THEN CAST(val AS INTEGER) ELSE val END))
       FROM crsql_changes`,
  );
  const ofRow = new Map();
  for (const [table, pk] of changes) ofRow.set(table + pk, (ofRow.get(table + pk) ?? 0) + 1);
  let sum = 0n;
  for (const [table, pk, isFirstLife, rest] of changes) {
    // Some copies have the sentinel of a first life and some don't.
    if (isFirstLife && ofRow.get(table + pk) > 1) continue;
    const packed = Buffer.concat([Buffer.of(6), columns(table), blob(normalKey(Buffer.from(pk, 'hex'))), columns(rest)]);
    sum += BigInt(`0x${createHash('sha256').update(packed).digest('hex')}`);
  }
  return (sum % 2n ** 256n).toString(16).padStart(64, '0');
}

/** Packed columns without their count. */
function columns(hex) {
  return Buffer.from(hex, 'hex').subarray(1);
}

/** A packed blob. */
function blob(bytes) {
  const length = significant(BigInt(bytes.length));
  return Buffer.concat([Buffer.of((length.length << 3) | 4), length, bytes]);
}

/** A packed key with whole reals as integers. */
function normalKey(pk) {
  const REAL = 2;
  const parts = [pk.subarray(0, 1)];
  for (let at = 1; at < pk.length; ) {
    const [kind, width] = [pk[at] & 7, pk[at] >> 3];
    const number = BigInt(`0x0${pk.subarray(at + 1, at + 1 + width).toString('hex')}`);
    const payload = kind === REAL ? 8 : width + (kind === 3 || kind === 4 ? Number(number) : 0);
    const column = pk.subarray(at, at + 1 + payload);
    const real = kind === REAL ? column.readDoubleBE(1) : undefined;
    parts.push(Number.isSafeInteger(real) ? integer(BigInt(real)) : column);
    at += column.length;
  }
  return Buffer.concat(parts);
}

/** A packed integer. */
function integer(number) {
  const bytes = significant(BigInt.asUintN(64, number));
  return Buffer.concat([Buffer.of((bytes.length << 3) | 1), bytes]);
}

/** A number in as many bytes as it needs; 0 needs none. */
function significant(number) {
  const hex = number === 0n ? '' : number.toString(16);
  return Buffer.from(hex.padStart(hex.length + (hex.length % 2), '0'), 'hex');
}
