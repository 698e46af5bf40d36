//! Random histories: whatever sites write, and in whatever order, how often and through whom the changes travel, all copies
//! end with the same rows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod site;

use crr::{Error, Merge, MergeOptions};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use site::{OwnedChange, Site};

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn three_sites_converge_however_their_changes_travel(
        schema in schema(),
        steps in vec(step(), 1..40),
        route in prop_oneof![Just(Route::Relay), Just(Route::AsSender)],
        lane in prop_oneof![Just(Lane::Sql), Just(Lane::Native)],
    ) {
        let mut mesh = Network::new(schema, Shape::Mesh, route, [lane; 3]);
        mesh.take(&steps);
        mesh.settle();
        mesh.assert_equal();
    }

    #[test]
    fn clients_of_a_hub_that_merges_as_a_server_converge(
        schema in schema(),
        steps in vec(step(), 1..40),
        clients in prop_oneof![Just(Lane::Sql), Just(Lane::Native)],
        frame_bytes in prop_oneof![Just(1_usize), 50..500_usize, Just(1 << 20)],
    ) {
        let lanes = [Lane::Server { frame_bytes }, clients, clients];
        let mut star = Network::new(schema, Shape::Star, Route::AsSender, lanes);
        star.take(&steps);
        star.settle();
        star.assert_equal();
    }

    #[test]
    fn clients_converge_on_what_a_hub_leaves_of_changes_that_it_overrules(
        schema in schema(),
        steps in vec(step(), 1..40),
        last in vec(write(), 1..4),
        frame_bytes in prop_oneof![Just(1_usize), 50..500_usize, Just(1 << 20)],
    ) {
        let lanes = [Lane::Overruling { frame_bytes }, Lane::Native, Lane::Native];
        let mut star = Network::new(schema, Shape::Star, Route::AsSender, lanes);
        star.take(&steps);
        star.settle();
        star.assert_equal();

        // Whoever was overruled is heard again.
        for write in &last {
            star.write(1, write);
        }
        let written = star.rows(&star.sites[1]);
        star.lanes[0] = Lane::Server { frame_bytes };
        star.settle();
        star.assert_equal();
        prop_assert_eq!(star.rows(&star.sites[0]), written);
    }

    #[test]
    fn merging_is_idempotent_commutative_and_associative(
        schema in schema(),
        shared in vec(step(), 0..12),
        apart in vec(vec(write(), 1..6), 3),
    ) {
        let mut network = Network::new(schema, Shape::Mesh, Route::Relay, [Lane::Native; 3]);
        network.take(&shared);
        for (site, writes) in apart.iter().enumerate() {
            for write in writes {
                network.write(site, write);
            }
        }
        let state = |at: usize| network.sites[at].read(0, None);
        let (a, b, c) = (state(0), state(1), state(2));
        let fresh = || Site::new("Y", &network.schema_sql());
        let merged = |changesets: &[&[OwnedChange]]| {
            let target = fresh();
            for changes in changesets {
                Lane::Native.merge(&target, changes);
            }
            target
        };
        let abc = merged(&[&a, &b, &c]);
        let expected = network.rows(&abc);

        let cba = merged(&[&c, &b, &a]);
        prop_assert_eq!(&network.rows(&cba), &expected, "not commutative");
        let bac = merged(&[&b, &a, &c]);
        prop_assert_eq!(&network.rows(&bac), &expected, "not commutative");

        let version = abc.db_version();
        for changes in [&b, &a, &c, &a] {
            Lane::Native.merge(&abc, changes);
        }
        prop_assert_eq!(&network.rows(&abc), &expected, "not idempotent");
        prop_assert_eq!(abc.db_version(), version, "replays take versions");

        let ab = merged(&[&a, &b]).read(0, None);
        let ab_c = merged(&[&ab, &c]);
        prop_assert_eq!(&network.rows(&ab_c), &expected, "not associative");
        let bc = merged(&[&b, &c]).read(0, None);
        let a_bc = merged(&[&a, &bc]);
        prop_assert_eq!(&network.rows(&a_bc), &expected, "not associative");
        let bc_a = merged(&[&bc, &a]);
        prop_assert_eq!(&network.rows(&bc_a), &expected, "not associative");
    }

    #[test]
    fn the_native_merge_leaves_what_one_by_one_inserts_leave(
        schema in schema(),
        shared in vec(step(), 0..12),
        apart in vec(vec(write(), 1..6), 3),
    ) {
        let mut network = Network::new(schema, Shape::Mesh, Route::Relay, [Lane::Sql; 3]);
        network.take(&shared);
        for (site, writes) in apart.iter().enumerate() {
            for write in writes {
                network.write(site, write);
            }
        }
        let by_sql = Site::new("X", &network.schema_sql());
        let native = Site::new("X", &network.schema_sql());
        for site in &network.sites {
            let changes = site.pull(0, None);
            prop_assert_eq!(lines(&site.read(0, None)), lines(&changes), "read differently");
            Lane::Sql.merge(&by_sql, &changes);
            Lane::Native.merge(&native, &changes);
        }
        prop_assert_eq!(network.rows(&native), network.rows(&by_sql));
        prop_assert_eq!(lines(&native.read(0, None)), lines(&by_sql.read(0, None)));
        prop_assert_eq!(native.db_version(), by_sql.db_version());
        for table in &network.schema {
            for side in ["crsql_clock", "crsql_pks"] {
                let query = format!("SELECT * FROM {}__{side}", table.name);
                prop_assert_eq!(native.query(&query), by_sql.query(&query), "{}", query);
            }
        }
    }
}

// ---- What may happen ----

#[derive(Clone, Debug)]
enum Step {
    Write {
        site: usize,
        write: Write,
    },
    Pull {
        from: usize,
        to: usize,
    },
    /// A batch that has travelled before arrives once more, somewhere.
    Replay {
        batch: Index,
        to: usize,
    },
}

/// A transaction at one site.
#[derive(Clone, Debug)]
struct Write {
    statements: Vec<Statement>,
    rollback: bool,
}

/// A statement whose table, key and values are picked from what the schema has.
#[derive(Clone, Debug)]
struct Statement {
    kind: Kind,
    table: Index,
    key: [Index; 2],
    other_key: [Index; 2],
    column: Index,
    values: [Index; 3],
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    InsertOrIgnore,
    InsertOrReplace,
    Upsert,
    Update,
    UpdateEveryRow,
    Delete,
    /// To a key that may be taken; the row that has it goes.
    MoveOrReplace,
    MoveOrIgnore,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..3_usize, write()).prop_map(|(site, write)| Step::Write { site, write }),
        4 => (0..3_usize, 1..3_usize).prop_map(|(from, by)| Step::Pull { from, to: (from + by) % 3 }),
        1 => (any::<Index>(), 0..3_usize).prop_map(|(batch, to)| Step::Replay { batch, to }),
    ]
}

fn write() -> impl Strategy<Value = Write> {
    (vec(statement(), 1..4), prop::bool::weighted(0.1))
        .prop_map(|(statements, rollback)| Write { statements, rollback })
}

fn statement() -> impl Strategy<Value = Statement> {
    let kind = prop_oneof![
        5 => Just(Kind::InsertOrIgnore),
        2 => Just(Kind::InsertOrReplace),
        2 => Just(Kind::Upsert),
        4 => Just(Kind::Update),
        1 => Just(Kind::UpdateEveryRow),
        3 => Just(Kind::Delete),
        2 => Just(Kind::MoveOrReplace),
        1 => Just(Kind::MoveOrIgnore),
    ];
    let parts = (kind, any::<Index>(), any::<[Index; 2]>(), any::<[Index; 2]>(), any::<Index>(), any::<[Index; 3]>());
    parts.prop_map(|(kind, table, key, other_key, column, values)| Statement {
        kind,
        table,
        key,
        other_key,
        column,
        values,
    })
}

// ---- Schemas ----

#[derive(Clone, Debug)]
struct Table {
    name: &'static str,
    /// The declared types of the key columns `k0`, `k1`.
    keys: Vec<&'static str>,
    /// The declarations of the other columns `c0`, `c1`, `c2`.
    columns: Vec<&'static str>,
    without_rowid: bool,
}

fn schema() -> impl Strategy<Value = Vec<Table>> {
    let names = ["first", "second"];
    let table = (
        vec(select(vec!["", "INTEGER", "TEXT", "BLOB"]), 1..3),
        vec(
            select(vec![
                "",
                "INTEGER",
                "REAL",
                "TEXT",
                "NUMERIC",
                "BLOB",
                "DEFAULT 'd'",
                "INTEGER NOT NULL DEFAULT 1",
                "TEXT COLLATE NOCASE",
            ]),
            0..4,
        ),
        any::<bool>(),
    );
    vec(table, 1..3).prop_map(move |tables| {
        tables
            .into_iter()
            .zip(names)
            .map(|((keys, columns, without_rowid), name)| Table { name, keys, columns, without_rowid })
            .collect()
    })
}

impl Table {
    fn sql(&self) -> String {
        let mut parts = Vec::new();
        for (at, declared) in self.keys.iter().enumerate() {
            // The one way to a key that is the rowid.
            let primary = if self.keys.len() == 1 { "PRIMARY KEY" } else { "" };
            parts.push(format!("k{at} {declared} {primary} NOT NULL"));
        }
        for (at, declaration) in self.columns.iter().enumerate() {
            parts.push(format!("c{at} {declaration}"));
        }
        if self.keys.len() > 1 {
            // Not in the order of the columns.
            parts.push("PRIMARY KEY (k1, k0)".to_owned());
        }
        let options = if self.without_rowid { "WITHOUT ROWID" } else { "" };
        let name = self.name;
        format!("CREATE TABLE {name} ({}) {options}; SELECT crsql_as_crr('{name}');", parts.join(", "))
    }

    fn key(&self, picks: &[Index; 2]) -> Vec<&'static str> {
        self.keys
            .iter()
            .zip(picks)
            .map(|(declared, pick)| {
                let pool: &[&str] = match *declared {
                    "INTEGER" => &["1", "2", "300", "-1"],
                    "TEXT" => &["'a'", "'A'", "'1'", "''"],
                    "BLOB" => &["x''", "x'61'", "x'0102'", "x'00'"],
                    _ => &["1", "'1'", "x'31'", "1.5"],
                };
                pool[pick.index(pool.len())]
            })
            .collect()
    }

    fn value(&self, column: usize, pick: &Index) -> &'static str {
        // NULL last: not every column takes it.
        let pool =
            ["0", "1", "-5", "9007199254740993", "1.0", "2.5", "'a'", "'B'", "''", "'10'", "x'61'", "x''", "NULL"];
        let usable = if self.columns[column].contains("NOT NULL") { pool.len() - 1 } else { pool.len() };
        pool[pick.index(usable)]
    }
}

impl Statement {
    fn sql(&self, schema: &[Table]) -> String {
        let table = self.table.get(schema);
        let name = table.name;
        let key = table.key(&self.key);
        let wanted: Vec<String> = key.iter().enumerate().map(|(at, value)| format!("k{at} IS {value}")).collect();
        let wanted = wanted.join(" AND ");
        let mut values: Vec<&str> = key.clone();
        values.extend((0..table.columns.len()).map(|column| table.value(column, &self.values[column])));
        let values = values.join(", ");
        let column = (!table.columns.is_empty()).then(|| self.column.index(table.columns.len()));
        match (self.kind, column) {
            (Kind::InsertOrIgnore, _) | (Kind::Upsert, None) => {
                format!("INSERT OR IGNORE INTO {name} VALUES ({values})")
            }
            (Kind::InsertOrReplace, _) => format!("INSERT OR REPLACE INTO {name} VALUES ({values})"),
            (Kind::Upsert, Some(column)) => {
                format!("INSERT INTO {name} VALUES ({values}) ON CONFLICT DO UPDATE SET c{column} = excluded.c{column}")
            }
            (Kind::Update, Some(column)) => {
                let value = table.value(column, &self.values[column]);
                format!("UPDATE {name} SET c{column} = {value} WHERE {wanted}")
            }
            (Kind::UpdateEveryRow, Some(column)) => {
                let value = table.value(column, &self.values[column]);
                format!("UPDATE {name} SET c{column} = {value}")
            }
            (Kind::Delete, _) | (Kind::Update | Kind::UpdateEveryRow, None) => {
                format!("DELETE FROM {name} WHERE {wanted}")
            }
            (Kind::MoveOrReplace | Kind::MoveOrIgnore, _) => {
                let or = if let Kind::MoveOrReplace = self.kind { "REPLACE" } else { "IGNORE" };
                let mut new: Vec<String> = table
                    .key(&self.other_key)
                    .iter()
                    .enumerate()
                    .map(|(at, value)| format!("k{at} = {value}"))
                    .collect();
                if let Some(column) = column {
                    // Every other key change also changes a cell.
                    if column == 0 {
                        new.push(format!("c0 = {}", table.value(0, &self.values[0])));
                    }
                }
                format!("UPDATE OR {or} {name} SET {} WHERE {wanted}", new.join(", "))
            }
        }
    }
}

// ---- Sites and what runs between them ----

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Mesh,
    /// Sites exchange with the first one only.
    Star,
}

#[derive(Clone, Copy, Debug)]
enum Route {
    /// Changes keep their authors.
    Relay,
    /// Changes arrive as the sender's.
    AsSender,
}

#[derive(Clone, Copy, Debug)]
enum Lane {
    Sql,
    Native,
    Server {
        frame_bytes: usize,
    },
    /// A server that overrules whatever site B wants of the first table.
    Overruling {
        frame_bytes: usize,
    },
}

impl Lane {
    fn read(self, from: &Site, since: i64, to: &Site) -> Vec<OwnedChange> {
        match self {
            Lane::Sql => from.pull(since, Some(to.id)),
            Lane::Native | Lane::Server { .. } | Lane::Overruling { .. } => from.read(since, Some(to.id)),
        }
    }

    fn merge(self, to: &Site, changes: &[OwnedChange]) {
        let options = match self {
            Lane::Sql => return to.insert(changes),
            Lane::Native => MergeOptions::default(),
            Lane::Server { frame_bytes } => MergeOptions::server(frame_bytes),
            Lane::Overruling { frame_bytes }
                if changes.iter().any(|change| change.site_id == Some(site::site("B"))) =>
            {
                return merge_or_overrule(to, changes, MergeOptions::server(frame_bytes));
            }
            Lane::Overruling { frame_bytes } => MergeOptions::server(frame_bytes),
        };
        let tx = to.transaction();
        let mut merge = Merge::new(&tx, options).unwrap();
        merge.changeset(changes.iter().map(OwnedChange::borrowed)).unwrap();
        tx.commit().unwrap();
    }
}

/// Merges changes that leave the table `first` as it is; others leave everything as it is.
fn merge_or_overrule(to: &Site, changes: &[OwnedChange], options: MergeOptions) {
    let changes = || changes.iter().map(OwnedChange::borrowed);
    let tx = to.transaction();
    match Merge::new(&tx, options).unwrap().changeset_within(changes(), &|table| table != "first") {
        Ok(_) => return tx.commit().unwrap(),
        Err(Error::NotPermitted { table }) => assert_eq!(table, "first"),
        Err(error) => panic!("{error}"),
    }
    tx.rollback().unwrap();
    let rows = || {
        let tables =
            ["first", "second"].map(|table| to.try_query(&format!("SELECT * FROM {table}")).unwrap_or_default());
        tables.map(|mut rows| {
            rows.sort();
            rows
        })
    };
    let before = rows();
    let tx = to.transaction();
    let overruled = Merge::new(&tx, options).unwrap().overrule(changes()).unwrap();
    tx.commit().unwrap();
    assert!(overruled.applied > 0);
    assert_eq!(rows(), before);
}

#[derive(Debug)]
struct Network {
    schema: Vec<Table>,
    shape: Shape,
    route: Route,
    lanes: [Lane; 3],
    sites: Vec<Site>,
    /// `seen[to][from]`: the version of `from` that `to` has pulled.
    seen: [[i64; 3]; 3],
    /// All batches that ever travelled.
    batches: Vec<Vec<OwnedChange>>,
}

impl Network {
    fn new(schema: Vec<Table>, shape: Shape, route: Route, lanes: [Lane; 3]) -> Network {
        let mut network =
            Network { schema, shape, route, lanes, sites: Vec::new(), seen: [[0; 3]; 3], batches: Vec::new() };
        let sql = network.schema_sql();
        network.sites = ["A", "B", "C"].map(|name| Site::new(name, &sql)).into();
        network
    }

    fn schema_sql(&self) -> String {
        self.schema.iter().map(Table::sql).collect()
    }

    fn take(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Write { site, write } => self.write(*site, write),
                Step::Pull { from, to } if self.connected(*from, *to) => {
                    self.pull(*from, *to);
                }
                Step::Replay { batch, to } if !self.batches.is_empty() => {
                    let batch = batch.get(&self.batches);
                    self.lanes[*to].merge(&self.sites[*to], batch);
                }
                Step::Pull { .. } | Step::Replay { .. } => {}
            }
        }
    }

    fn write(&mut self, site: usize, write: &Write) {
        let site = &self.sites[site];
        site.run("BEGIN");
        for statement in &write.statements {
            site.run(&statement.sql(&self.schema));
        }
        site.run(if write.rollback { "ROLLBACK" } else { "COMMIT" });
    }

    /// The number of changes that travelled.
    fn pull(&mut self, from: usize, to: usize) -> usize {
        // From storage: a remembered version may be one that a write without effect took, and it may be taken again.
        let version = self.sites[from].crr().stored_db_version().unwrap();
        let since = std::mem::replace(&mut self.seen[to][from], version);
        let mut changes = self.lanes[from].read(&self.sites[from], since, &self.sites[to]);
        if let Route::AsSender = self.route {
            for change in &mut changes {
                change.site_id = Some(self.sites[from].id);
            }
        }
        self.lanes[to].merge(&self.sites[to], &changes);
        let travelled = changes.len();
        self.batches.push(changes);
        travelled
    }

    fn connected(&self, one: usize, other: usize) -> bool {
        one != other && (self.shape == Shape::Mesh || one == 0 || other == 0)
    }

    /// Exchanges until nothing new travels.
    fn settle(&mut self) {
        for _ in 0..20 {
            let mut travelled = 0;
            for (from, to) in [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)] {
                if self.connected(from, to) {
                    travelled += self.pull(from, to);
                }
            }
            if travelled == 0 {
                return;
            }
        }
        panic!("changes never stop travelling");
    }

    fn rows(&self, site: &Site) -> Vec<(&'static str, Vec<String>)> {
        self.schema.iter().map(|table| (table.name, site.rows(table.name))).collect()
    }

    fn assert_equal(&self) {
        let expected = self.rows(&self.sites[0]);
        let cells = self.cells(&self.sites[0]);
        let digest = self.sites[0].crr().digest().unwrap();
        for site in &self.sites[1..] {
            assert_eq!(self.rows(site), expected, "rows");
            assert_eq!(self.cells(site), cells, "clocks");
            assert_eq!(site.crr().digest().unwrap(), digest, "digests");
        }
    }

    /// What the sites must agree on, of the clocks of cells.
    fn cells(&self, site: &Site) -> Vec<String> {
        site.query(
            r#"SELECT "table", hex(pk), cid, cl, col_version, val FROM crsql_changes
               WHERE cid <> '-1' ORDER BY 1, 2, 3"#,
        )
    }
}

fn lines(changes: &[OwnedChange]) -> Vec<String> {
    site::canonical(changes.iter().map(OwnedChange::line).collect())
}
