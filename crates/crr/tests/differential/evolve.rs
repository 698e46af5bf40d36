//! How tables change while they have rows.

use crate::random::Random;
use crate::scenario::Action;
use crate::sql::{identifier, list};
use crate::tables::{Column, Kind, Table};

/// A table after an alteration, and how it gets there.
pub(crate) struct Altered {
    pub(crate) table: Table,
    pub(crate) action: Action,
    /// Whether the alteration fails, and all of it is undone.
    pub(crate) is_undone: bool,
}

/// Changes a table between `crsql_begin_alter` and `crsql_commit_alter`.
///
/// Rows are not deleted there (D18), and none is inserted under a key that was deleted before (D6): this engine lets peers
/// know.
pub(crate) fn alter(random: &mut Random, table: &Table, number: usize) -> Altered {
    let mut alteration =
        Alteration { random, before: table, table: table.clone(), statements: Vec::new(), spoilt: false };
    for _ in 0..alteration.random.weighted(&[(5, 1), (2, 2), (1, 3)]) {
        alteration.one(number);
        if alteration.spoilt {
            break;
        }
    }
    let Alteration { table, statements, before, spoilt, .. } = alteration;
    let action = Action::Alter { table: before.name.clone(), statements };
    Altered { table: if spoilt { before.clone() } else { table }, action, is_undone: spoilt }
}

struct Alteration<'g> {
    random: &'g mut Random,
    before: &'g Table,
    table: Table,
    statements: Vec<String>,
    /// Whether all of it will be undone.
    spoilt: bool,
}

impl Alteration<'_> {
    fn one(&mut self, number: usize) {
        match self.random.below(100) {
            0..=29 => self.add_column(),
            30..=49 => self.drop_column(),
            50..=59 => self.rename_column(),
            60..=69 => self.rebuild(),
            70..=76 => self.shorten_key(),
            77..=84 => self.insert(number),
            85..=95 => self.update(),
            _ => self.spoil(),
        }
    }

    fn push(&mut self, statement: String) {
        self.statements.push(statement);
    }

    fn name(&self) -> String {
        identifier(&self.table.name)
    }

    fn add_column(&mut self) {
        if self.table.columns_besides_key().len() > 5 {
            return;
        }
        let column = self.table.new_column(self.random);
        self.push(format!("ALTER TABLE {} ADD COLUMN {} {}", self.name(), identifier(&column.name), column.declared));
        if self.random.chance(50) {
            let value = column.kind.written(self.random);
            self.push(format!("UPDATE OR IGNORE {} SET {} = {value}", self.name(), identifier(&column.name)));
        }
        self.table.columns.push(column);
    }

    fn drop_column(&mut self) {
        let Some(name) = self.loose_column() else { return };
        self.push(format!("ALTER TABLE {} DROP COLUMN {}", self.name(), identifier(&name)));
        self.table.columns.retain(|column| column.name != name);
    }

    fn rename_column(&mut self) {
        let Some(name) = self.loose_column() else { return };
        let kind = self.table.columns.iter().find(|column| column.name == name).map(|column| column.kind);
        let free = self.table.free_names().into_iter().find(|(_, free)| Some(*free) == kind);
        let Some((new, _)) = free else { return };
        self.push(format!("ALTER TABLE {} RENAME COLUMN {} TO {}", self.name(), identifier(&name), identifier(new)));
        for column in self.table.columns.iter_mut().filter(|column| column.name == name) {
            new.clone_into(&mut column.name);
            // In its CHECK constraint.
            column.declared = column.declared.replace(&identifier(&name), &identifier(new));
        }
    }

    /// A column that is neither in the key nor in an index nor in an expression.
    fn loose_column(&mut self) -> Option<String> {
        let columns = self.table.columns_besides_key();
        let loose: Vec<_> = columns.iter().filter(|column| !self.table.needs(&column.name)).collect();
        if loose.is_empty() { None } else { Some(self.random.pick(&loose).name.clone()) }
    }

    /// The same table made anew, with its columns in another order.
    fn rebuild(&mut self) {
        let mut new = self.table.clone();
        new.without_rowid = self.random.chance(50);
        let columns = new.columns.len();
        new.columns.rotate_left(self.random.below(columns));
        self.replace_by(new);
    }

    /// One column leaves the primary key, or its columns change places.
    fn shorten_key(&mut self) {
        let mut new = self.table.clone();
        if new.keys.len() > 1 && self.random.chance(70) {
            let name = new.keys.remove(self.random.below(new.keys.len()));
            for column in new.columns.iter_mut().filter(|column| column.name == name) {
                column.declared = column.declared.replace(" NOT NULL", "");
            }
        } else {
            new.keys.rotate_left(1);
        }
        self.replace_by(new);
    }

    fn replace_by(&mut self, mut new: Table) {
        new.indexed.clear();
        let columns = list(new.columns.iter().map(|column| identifier(&column.name)));
        let made = Table { name: "made anew".to_owned(), ..new.clone() };
        self.statements.extend(made.create());
        self.push(format!("INSERT OR IGNORE INTO \"made anew\" ({columns}) SELECT {columns} FROM {}", self.name()));
        self.push(format!("DROP TABLE {}", self.name()));
        self.push(format!("ALTER TABLE \"made anew\" RENAME TO {}", self.name()));
        self.table = new;
    }

    fn insert(&mut self, number: usize) {
        let columns = self.table.key_columns();
        let names = list(columns.iter().map(|column| identifier(&column.name)));
        let values = list(columns.iter().map(|column| column.kind.other_key(number)));
        self.push(format!("INSERT OR IGNORE INTO {} ({names}) VALUES ({values})", self.name()));
    }

    fn update(&mut self) {
        let columns = self.table.columns_besides_key();
        if columns.is_empty() {
            return;
        }
        let column = *self.random.pick(&columns);
        let value = column.kind.written(self.random);
        let key = self.table.key_columns()[0];
        let condition = format!("{} IS {}", identifier(&key.name), key.kind.key(self.random));
        let sql =
            format!("UPDATE OR IGNORE {} SET {} = {value} WHERE {condition}", self.name(), identifier(&column.name));
        self.push(sql);
    }

    /// Makes the table one that can't be a CRR, so that all of it is undone.
    fn spoil(&mut self) {
        self.push(format!("ALTER TABLE {} ADD COLUMN \"in the way\" REFERENCES \"anything\"", self.name()));
        self.spoilt = true;
    }
}

/// Changes the tables of a site by a migration.
///
/// The reference drops columns before indexes, loses what else is said of added columns than type, NOT NULL and DEFAULT
/// (D9), and can't drop tables (D16).
pub(crate) fn migrate(random: &mut Random, tables: &[Table], later: &[Table]) -> Vec<Table> {
    let mut tables = tables.to_vec();
    for _ in 0..random.between(1, 3) {
        let at = random.below(tables.len());
        match random.below(100) {
            0..=39 => {
                let Table { columns, .. } = &tables[at];
                if columns.len() < 7 {
                    let mut column = tables[at].new_column(random);
                    column.declared = column.declared.replace(" COLLATE NOCASE", "");
                    if let Some(at) = column.declared.find(" CHECK") {
                        column.declared.truncate(at);
                    }
                    tables[at].columns.push(column);
                }
            }
            40..=64 => drop_column(random, &mut tables[at]),
            65..=84 => {
                let columns = tables[at].columns_besides_key();
                if tables[at].indexed.is_empty() && !columns.is_empty() {
                    let column = random.pick(&columns).name.clone();
                    tables[at].indexed.push(column);
                }
            }
            _ => {
                let table = random.pick(later);
                if !tables.iter().any(|other| other.name == table.name) {
                    tables.push(table.clone());
                }
            }
        }
    }
    tables
}

fn drop_column(random: &mut Random, table: &mut Table) {
    let loose: Vec<Column> =
        table.columns_besides_key().into_iter().filter(|column| !table.needs(&column.name)).cloned().collect();
    if !loose.is_empty() {
        let name = random.pick(&loose).name.clone();
        table.columns.retain(|column| column.name != name);
    }
}

/// The statements of a schema with these tables.
pub(crate) fn schema(tables: &[Table]) -> Vec<String> {
    tables.iter().flat_map(|table| [table.create(), vec![table.as_crr()]].concat()).collect()
}

/// A table that can't be a CRR.
pub(crate) fn unsuitable(random: &mut Random, number: usize) -> Vec<String> {
    let name = format!("unsuitable_{number}");
    let columns = *random.pick(&[
        "a PRIMARY KEY NOT NULL, b UNIQUE",
        "a, b",
        "a PRIMARY KEY, b",
        "a INTEGER PRIMARY KEY, b",
        "a NOT NULL, b, c, PRIMARY KEY (a, b)",
        "a INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, b",
        "a PRIMARY KEY NOT NULL, b REFERENCES t (b)",
        "a PRIMARY KEY NOT NULL, b NOT NULL",
        "__crsql_key PRIMARY KEY NOT NULL, b",
    ]);
    let value = Kind::Integer.key(random);
    vec![
        format!("CREATE TABLE {name} ({columns})"),
        format!("INSERT OR IGNORE INTO {name} SELECT {value}, 2 FROM pragma_table_info('{name}') WHERE cid = 1"),
        format!("SELECT crsql_as_crr('{name}')"),
    ]
}
