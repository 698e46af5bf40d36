//! Values on their way between hosts.

use crate::hosts::{CHANGES, Folder, texts};

const TYPED: &str = "
    CREATE TABLE typed (k PRIMARY KEY NOT NULL, u, i INTEGER, r REAL, t TEXT, n NUMERIC, x BLOB);
    SELECT crsql_as_crr('typed');";

#[test]
fn changes_carried_by_python_make_the_same_rows() {
    let folder = Folder::new();
    folder.shell(
        "from",
        &format!(
            "{TYPED}
             INSERT INTO typed VALUES
                 (1, NULL, 2, 3, 'four', 5, x'06'), ('', 1e300, -9223372036854775808, -0.0, '', '1e3', x''),
                 (x'00', 'é', '7', '7', 7, '7.0', 7), (-1, 0.1, 9223372036854775807, 1e999, 'a' || char(0) || 'b', 1e20, 'x');
             UPDATE typed SET k = 99 WHERE k = 1;
             DELETE FROM typed WHERE k = -1;"
        ),
    );
    folder.shell("to", TYPED);
    let carry = "
source, target = connect('from'), connect('to')
fields = '\"table\", pk, cid, val, col_version, db_version, site_id, cl, seq'
with target:
    target.executemany('INSERT INTO crsql_changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)',
        source.execute(f'SELECT {fields} FROM crsql_changes'))
    print(target.execute('SELECT crsql_rows_impacted() > 0').fetchone())
";
    assert_eq!(folder.python(carry), ["(1,)"]);
    // Everything is known the second time.
    assert_eq!(folder.python(carry), ["(0,)"]);

    let rows = "SELECT hex(crsql_pack_columns(k, u, i, r, t, n, x)) FROM typed ORDER BY 1;";
    assert_eq!(folder.shell("to", rows), folder.shell("from", rows));
    assert_eq!(folder.shell("to", CHANGES), folder.shell("from", CHANGES));
    assert_eq!(texts(&folder.native("to"), rows), folder.shell("from", rows));
}

#[test]
fn hosts_decide_between_equal_versions_alike() {
    // In a host with an older SQLite, a text that is a whole number must become the same REAL as in ours.
    let folder = Folder::new();
    let values = ["'5'", "5", "5.0", "'5.0'", "5.5", "'abc'", "x'35'", "NULL", "9223372036854775807"];
    let (mut shell, mut native) = (String::new(), String::new());
    for (at, one) in values.iter().enumerate() {
        for (bt, other) in values.iter().enumerate() {
            for column in ["i", "r", "t", "n"] {
                let change = |val: &str, site: u8| {
                    let key = 10 * at + bt;
                    format!(
                        "INSERT INTO crsql_changes VALUES ('typed', x'0109{key:02x}', '{column}', {val}, 1, 1, x'{site:032x}', 1, 0);\n"
                    )
                };
                shell += &change(one, 1);
                shell += &change(other, 2);
                native += &change(other, 2);
                native += &change(one, 1);
            }
        }
    }
    folder.shell("shell", &format!("{TYPED}\n{shell}"));
    let conn = folder.native("native");
    conn.execute_batch(TYPED).unwrap();
    conn.execute_batch(&native).unwrap();
    let rows = "SELECT hex(crsql_pack_columns(k, i, r, t, n)) FROM typed ORDER BY k;";
    assert_eq!(folder.shell("shell", rows), texts(&conn, rows));
}
