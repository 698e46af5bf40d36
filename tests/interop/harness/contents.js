/**
 * What a replica holds, as lines of text that can be compared. A replica is anything with `query(sql)`:
 * a `Client` or a `DatabaseFile`.
 */

/** The rows of all tables of the application, each as `table(column: type value, …)`, sorted. */
export async function contents(replica) {
  const lines = [];
  for (const [table] of await replica.query(
    `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
       AND name NOT LIKE 'crsql\\_%' ESCAPE '\\' AND name NOT LIKE '%\\_\\_crsql\\_%' ESCAPE '\\' ORDER BY name`,
  )) {
    const columns = await replica.query(`SELECT name, type FROM pragma_table_info(${literal(table)})`);
    const cells = columns.map(([name, type]) => {
      const cell = type === '' ? numberOrValue(identifier(name)) : value(identifier(name));
      return `${literal(`${name}: `)} || ${cell}`;
    });
    const rows = await replica.query(`SELECT ${cells.join(` || ', ' || `)} FROM ${identifier(table)}`);
    for (const [row] of rows) lines.push(`${table}(${row})`);
  }
  return lines.sort();
}

/**
 * The clocks of all cells, without what differs between sites by design: db_version, seq and site_id.
 * A row that was never deleted has a sentinel on some sites only, so those of a first life are left out.
 */
export async function clocks(replica) {
  const rows = await replica.query(
    `SELECT "table" || ' ' || hex(pk) || ' ' || cid || ' = ' || ${numberOrValue('val')}
         || ' col_version ' || col_version || ' cl ' || cl
       FROM crsql_changes WHERE cid <> '-1' OR cl <> 1`,
  );
  return rows.flat().sort();
}

/** The lines that only one of the two lists has. */
export function difference(left, right) {
  const inLeft = new Set(left);
  const inRight = new Set(right);
  return {
    onlyLeft: left.filter((line) => !inRight.has(line)),
    onlyRight: right.filter((line) => !inLeft.has(line)),
  };
}

function value(expression) {
  return `typeof(${expression}) || ' ' || quote(${expression})`;
}

// Numbers travel from JavaScript as doubles. Without a declared type nothing tells 5.0 from 5 on the other side.
function numberOrValue(expression) {
  return `CASE WHEN typeof(${expression}) = 'real' AND abs(${expression}) < 9007199254740992
            AND ${expression} = CAST(${expression} AS INTEGER)
          THEN 'integer ' || CAST(${expression} AS INTEGER) ELSE ${value(expression)} END`;
}

function identifier(name) {
  return `"${name.replaceAll('"', '""')}"`;
}

function literal(text) {
  return `'${text.replaceAll("'", "''")}'`;
}
