//! Scenarios made from seeds.

use crate::engine::Insertion;
use crate::evolve::{self, Altered};
use crate::random::Random;
use crate::scenario::{Action, Author, Delivery, Pull, SITES, Scenario, Since, Step};
use crate::sql::{identifier, list, literal};
use crate::tables::{Column, Table};

/// How many tables a site may come to have.
const MOST_TABLES: usize = 4;

/// The scenario of a seed.
pub(crate) fn scenario(seed: u64) -> Scenario {
    let mut random = Random::new(seed);
    let watch = random.chance(50);
    let mut tables = Vec::new();
    for _ in 0..MOST_TABLES {
        let table = Table::random(&mut random, &tables);
        tables.push(table);
    }
    let later = tables.split_off(random.weighted(&[(5, 1), (3, 2), (1, 3)]));
    let mut generator = Generator {
        random,
        sites: vec![tables; SITES],
        later,
        steps: Vec::new(),
        incomplete: [false; SITES],
        number: 0,
    };
    generator.create();
    for _ in 0..generator.random.between(5, 40) {
        generator.step();
    }
    generator.settle();
    Scenario { steps: generator.steps, watch }
}

/// The same, with files closed and opened again all the time.
pub(crate) fn scenario_of_files(seed: u64) -> Scenario {
    let Scenario { steps, watch } = scenario(seed);
    // Other choices than those that made the scenario.
    let mut random = Random::new(!seed);
    let mut reopened = Vec::new();
    for step in steps {
        let site = step.site;
        reopened.push(step);
        if random.chance(35) {
            reopened.push(Step { site, action: Action::Reopen });
        }
    }
    Scenario { steps: reopened, watch }
}

struct Generator {
    random: Random,
    /// The tables that each site has.
    sites: Vec<Vec<Table>>,
    /// Tables that sites may make later. The same everywhere, because the reference makes rows of keys with columns too many
    /// or too few (D10).
    later: Vec<Table>,
    steps: Vec<Step>,
    /// Sites that may have cells without entries. A migration gives them some in the reference, but here only in tables that
    /// it changes.
    incomplete: [bool; SITES],
    /// How many things were numbered.
    number: usize,
}

impl Generator {
    /// The sites make their tables, some with rows in them before they are CRRs.
    fn create(&mut self) {
        if self.random.chance(30) {
            for site in 0..SITES {
                self.push(site, Action::Migrate(evolve::schema(&self.sites[site])));
            }
            return;
        }
        let [filled, counted] = [25, 20].map(|percent| self.random.chance(percent));
        for site in 0..SITES {
            for table in self.sites[site].clone() {
                let mut statements = table.create();
                for _ in 0..if filled { self.random.below(4) } else { 0 } {
                    statements.push(Statement { random: &mut self.random, table: &table }.insert());
                }
                statements.push(table.as_crr());
                if counted {
                    statements.push(table.count_insertions());
                }
                self.push(site, Action::Define(statements));
            }
        }
    }

    fn step(&mut self) {
        let site = self.random.below(SITES);
        let action = match self.random.below(100) {
            0..=44 => self.sql(site),
            45..=64 => self.transaction(site),
            65..=86 => Action::Pull(self.pull(site)),
            87..=91 => self.forged(site),
            92 => return self.alter(site),
            93 => return self.alter_in_transaction(site),
            94 => return self.migrate(site),
            95 => return self.define(site),
            96 => return self.track_anew(site),
            97 => return self.write_untracked(site),
            _ => Action::Reopen,
        };
        self.push(site, action);
    }

    /// Changes a table, at this site or at all where it is the same.
    fn alter(&mut self, site: usize) {
        let before = self.table(site);
        self.number += 1;
        let altered = evolve::alter(&mut self.random, &before, self.number);
        let everybody_has_it = self.sites.iter().all(|tables| tables.contains(&before));
        if altered.table.keys != before.keys {
            // All sites have to agree about keys (D10).
            if everybody_has_it {
                (0..SITES).for_each(|site| self.take_over(site, &before, &altered));
            }
            return;
        }
        for site in self.there_or_everywhere(site) {
            self.take_over(site, &before, &altered);
        }
    }

    /// Changes a table at the end of a transaction that does other things. What came after would find the table as it was
    /// before, in the reference (D8).
    fn alter_in_transaction(&mut self, site: usize) {
        let before = self.table(site);
        self.number += 1;
        let altered = evolve::alter(&mut self.random, &before, self.number);
        // Sites have to agree about keys (D10), and in the reference a failure undoes all of the transaction (D2).
        if altered.table.keys != before.keys || altered.is_undone {
            return;
        }
        let mut body = self.body(site, 0);
        body.push(altered.action);
        let commit = self.random.chance(60);
        if commit {
            self.sites[site].retain(|table| *table != before);
            self.sites[site].push(altered.table);
        }
        self.push(site, Action::Transaction { body, commit });
    }

    fn take_over(&mut self, site: usize, before: &Table, altered: &Altered) {
        if let Some(at) = self.sites[site].iter().position(|table| table == before) {
            self.sites[site][at] = altered.table.clone();
            self.push(site, altered.action.clone());
        }
    }

    /// Brings this site, or all that have the same tables, to a new schema.
    fn migrate(&mut self, site: usize) {
        let before = self.sites[site].clone();
        let after = evolve::migrate(&mut self.random, &before, &self.later);
        for site in self.there_or_everywhere(site) {
            if self.sites[site] == before && !self.incomplete[site] {
                self.sites[site].clone_from(&after);
                self.push(site, Action::Migrate(evolve::schema(&after)));
            }
        }
    }

    /// Makes another table, one that can be a CRR or one that can't, or makes a CRR of a CRR.
    fn define(&mut self, site: usize) {
        if self.random.chance(30) {
            self.number += 1;
            let statements = evolve::unsuitable(&mut self.random, self.number);
            return self.push(site, Action::Define(statements));
        }
        let table = match self.random.chance(70) {
            true => self.random.pick(&self.later).clone(),
            false => self.table(site),
        };
        for site in self.there_or_everywhere(site) {
            // The site may have a table of that name with other columns.
            let statements = match self.sites[site].iter().any(|other| other.name == table.name) {
                true => vec![table.as_crr()],
                false => {
                    self.sites[site].push(table.clone());
                    evolve::schema(std::slice::from_ref(&table))
                }
            };
            self.push(site, Action::Define(statements));
        }
    }

    /// Makes a CRR an ordinary table, writes to it, and makes it a CRR again.
    ///
    /// Only where another CRR stays: without any, the reference begins at version 0 again. And it has to be told to remember
    /// its version (D16).
    fn track_anew(&mut self, site: usize) {
        if self.sites[site].len() < 2 {
            return;
        }
        let table = self.table(site);
        let statements = vec![
            "INSERT OR REPLACE INTO crsql_master VALUES ('pre_compact_dbversion', crsql_db_version())".to_owned(),
            format!("SELECT crsql_as_table({})", literal(&table.name)),
        ];
        self.push(site, Action::Define(statements));
        for _ in 0..self.random.below(3) {
            let write = Action::Sql(Statement { random: &mut self.random, table: &table }.write());
            self.push(site, write);
        }
        self.push(site, Action::Define(vec![table.as_crr()]));
    }

    /// Changes cells as merges do, without being tracked. Rows neither come nor go: when a table is altered, peers get to know
    /// of those here (D6, D18).
    fn write_untracked(&mut self, site: usize) {
        let table = self.table(site);
        if table.columns_besides_key().is_empty() {
            return;
        }
        self.incomplete[site] = true;
        let write = Statement { random: &mut self.random, table: &table }.update();
        for sql in
            ["SELECT crsql_internal_sync_bit(1)".to_owned(), write, "SELECT crsql_internal_sync_bit(0)".to_owned()]
        {
            self.push(site, Action::Sql(sql));
        }
    }

    fn there_or_everywhere(&mut self, site: usize) -> Vec<usize> {
        if self.random.chance(25) { vec![site] } else { (0..SITES).collect() }
    }

    /// In the end, everybody gets everything.
    fn settle(&mut self) {
        for site in 0..SITES {
            for from in (0..SITES).filter(|from| *from != site) {
                let pull = Pull {
                    from,
                    since: Since::Zero,
                    exclude: true,
                    author: Author::Kept,
                    delivery: Delivery::Whole,
                    commit: true,
                };
                self.push(site, Action::Pull(pull));
            }
        }
    }

    fn push(&mut self, site: usize, action: Action) {
        self.steps.push(Step { site, action });
    }

    fn table(&mut self, site: usize) -> Table {
        self.random.pick(&self.sites[site]).clone()
    }

    fn sql(&mut self, site: usize) -> Action {
        let table = self.table(site);
        Action::Sql(Statement { random: &mut self.random, table: &table }.write())
    }

    fn transaction(&mut self, site: usize) -> Action {
        let body = self.body(site, 0);
        Action::Transaction { body, commit: self.random.chance(75) }
    }

    fn body(&mut self, site: usize, depth: usize) -> Vec<Action> {
        (0..self.random.between(1, 5))
            .map(|_| match self.random.below(100) {
                0..=69 => self.sql(site),
                70..=79 if depth < 2 => {
                    let body = self.body(site, depth + 1);
                    Action::Savepoint { body, keep: self.random.chance(40) }
                }
                80..=86 => Action::Pull(self.pull(site)),
                87..=92 => self.forged(site),
                93..=95 => self.take_version(),
                _ => self.sql(site),
            })
            .collect()
    }

    /// A version is taken, and something written: a version that nothing was written with is forgotten at different times,
    /// because a failed alteration is a rollback in the reference and none here (D2).
    fn take_version(&mut self) -> Action {
        let take = format!("SELECT crsql_next_db_version({})", self.random.below(20));
        let write =
            format!("INSERT OR REPLACE INTO crsql_tracked_peers VALUES (x'01', {}, 0, 0, 0)", self.random.below(20));
        Action::Savepoint { body: vec![Action::Sql(take), Action::Sql(write)], keep: true }
    }

    fn pull(&mut self, site: usize) -> Pull {
        let random = &mut self.random;
        // Sometimes one's own.
        let from = if random.chance(5) { site } else { (site + random.between(1, SITES - 1)) % SITES };
        Pull {
            from,
            since: random.weighted(&[
                (6, Since::Last(0)),
                (3, Since::Zero),
                (1, Since::Last(1)),
                (1, Since::Last(-2)),
                (1, Since::Last(3)),
            ]),
            exclude: random.chance(70),
            author: random.weighted(&[(7, Author::Kept), (2, Author::Sender), (1, Author::Nobody)]),
            delivery: random.weighted(&[
                (8, Delivery::Whole),
                (1, Delivery::Cut(40)),
                (1, Delivery::Holes),
                (1, Delivery::Reversed),
                (1, Delivery::Twice),
            ]),
            commit: random.chance(90),
        }
    }

    /// A change that no site has made. It is one that a site could make: deletes say the same causal length twice (D5),
    /// keys and values are as their columns store them (D14, D25), and numbers are in bounds (D24, D26).
    fn forged(&mut self, site: usize) -> Action {
        let table = self.table(site);
        let random = &mut self.random;
        let keys = table.key_columns().into_iter().map(|column| column.kind.key(random)).collect::<Vec<_>>();
        let cl: usize = random.weighted(&[(6, 1), (3, 2), (3, 3), (1, 4), (1, 5)]);
        let columns = table.columns_besides_key();
        let (cid, val, col_version) = if cl.is_multiple_of(2) || columns.is_empty() || random.chance(15) {
            ("-1".to_owned(), "NULL".to_owned(), cl)
        } else {
            let column = *random.pick(&columns);
            (column.name.clone(), column.kind.stored(random), random.below(5))
        };
        let author = *random.pick(&[
            "x'00000000000000000000000000000001'",
            "x'ffffffffffffffffffffffffffffffff'",
            "x'a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1'",
            "x'b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2'",
            "NULL",
            "x''",
        ]);
        let db_version = random.between(0, 30);
        let fields = list([
            literal(&table.name),
            format!("crsql_pack_columns({})", list(keys)),
            literal(&cid),
            val,
            col_version.to_string(),
            db_version.to_string(),
            author.to_owned(),
            cl.to_string(),
            random.below(10).to_string(),
        ]);
        Action::Forged(Insertion {
            table: table.name,
            db_version: i64::try_from(db_version).unwrap(),
            sql: format!("INSERT INTO crsql_changes VALUES ({fields})"),
        })
    }
}

/// A statement about a table.
struct Statement<'g> {
    random: &'g mut Random,
    table: &'g Table,
}

impl Statement<'_> {
    fn write(&mut self) -> String {
        match self.random.below(100) {
            0..=39 => self.insert(),
            40..=64 => self.update(),
            65..=76 => self.update_key(),
            77..=92 => self.delete(),
            93..=95 => self.insert_copy(),
            96..=97 => format!("PRAGMA recursive_triggers = {}", self.random.below(2)),
            _ => format!("SELECT count(*), max(db_version) FROM crsql_changes WHERE {}", self.constraint()),
        }
    }

    fn insert(&mut self) -> String {
        let mut columns = self.table.key_columns();
        let rest = self.table.columns_besides_key();
        let all = self.random.chance(70);
        columns.extend(if all { rest.clone() } else { self.random.some(&rest) });
        let rows: Vec<String> =
            (0..self.random.weighted(&[(7, 1), (2, 2), (1, 3)])).map(|_| format!("({})", self.row(&columns))).collect();
        let or = self.random.weighted(&[
            (8, ""),
            (4, " OR REPLACE"),
            (2, " OR IGNORE"),
            (1, " OR FAIL"),
            (1, " OR ROLLBACK"),
            (1, " OR ABORT"),
        ]);
        let mut sql = format!(
            "INSERT{or} INTO {} ({}) VALUES {}",
            identifier(&self.table.name),
            list(columns.iter().map(|column| identifier(&column.name))),
            list(rows)
        );
        if or.is_empty() && self.random.chance(30) {
            sql += &self.on_conflict(&rest);
        }
        sql
    }

    fn row(&mut self, columns: &[&Column]) -> String {
        let is_key = |column: &Column| self.table.keys.contains(&column.name);
        let values: Vec<String> = columns
            .iter()
            .map(|column| if is_key(column) { column.kind.key(self.random) } else { column.kind.written(self.random) })
            .collect();
        list(values)
    }

    fn on_conflict(&mut self, columns: &[&Column]) -> String {
        let keys = list(self.table.keys.iter().map(|key| identifier(key)));
        let chosen = self.random.some(columns);
        if chosen.is_empty() {
            return format!(" ON CONFLICT ({keys}) DO NOTHING");
        }
        let set =
            list(chosen.iter().map(|column| format!("{name} = excluded.{name}", name = identifier(&column.name))));
        format!(" ON CONFLICT ({keys}) DO UPDATE SET {set}")
    }

    fn update(&mut self) -> String {
        let columns = self.table.columns_besides_key();
        if columns.is_empty() {
            return self.update_key();
        }
        let mut chosen = self.random.some(&columns);
        if chosen.is_empty() {
            chosen.push(*self.random.pick(&columns));
        }
        let set = chosen.iter().map(|column| {
            let value = match self.random.chance(15) {
                true => identifier(&self.random.pick(&columns).name),
                false => column.kind.written(self.random),
            };
            format!("{} = {value}", identifier(&column.name))
        });
        let set = list(set.collect::<Vec<_>>());
        let or = self.random.weighted(&[(8, ""), (1, " OR IGNORE"), (1, " OR REPLACE")]);
        format!("UPDATE{or} {} SET {set}{}", identifier(&self.table.name), self.condition())
    }

    /// Moves rows to other keys, perhaps with other columns changed at once.
    fn update_key(&mut self) -> String {
        let columns = self.table.columns_besides_key();
        let key = *self.random.pick(&self.table.key_columns());
        let mut set = vec![format!("{} = {}", identifier(&key.name), key.kind.key(self.random))];
        if !columns.is_empty() && self.random.chance(30) {
            let column = *self.random.pick(&columns);
            set.push(format!("{} = {}", identifier(&column.name), column.kind.written(self.random)));
        }
        let or = self.random.weighted(&[(4, ""), (2, " OR REPLACE"), (1, " OR IGNORE")]);
        format!("UPDATE{or} {} SET {}{}", identifier(&self.table.name), list(set), self.condition())
    }

    fn delete(&mut self) -> String {
        format!("DELETE FROM {}{}", identifier(&self.table.name), self.condition())
    }

    /// Copies rows to other keys.
    fn insert_copy(&mut self) -> String {
        let values: Vec<String> = self
            .table
            .columns
            .iter()
            .map(|column| match self.table.keys.first() == Some(&column.name) {
                true => column.kind.key(self.random),
                false => identifier(&column.name),
            })
            .collect();
        let name = identifier(&self.table.name);
        format!("INSERT OR IGNORE INTO {name} SELECT {} FROM {name}{}", list(values), self.condition())
    }

    fn condition(&mut self) -> String {
        let keys = self.table.key_columns();
        let columns = match self.random.below(10) {
            0..=5 => keys,
            6..=7 => keys.into_iter().take(1).collect(),
            8 => self.table.columns_besides_key().into_iter().take(1).collect(),
            _ => vec![],
        };
        let terms: Vec<String> = columns
            .into_iter()
            .map(|column| {
                let is_key = self.table.keys.contains(&column.name);
                let value = if is_key { column.kind.key(self.random) } else { column.kind.stored(self.random) };
                format!("{} IS {value}", identifier(&column.name))
            })
            .collect();
        if terms.is_empty() { String::new() } else { format!(" WHERE {}", terms.join(" AND ")) }
    }

    /// A condition on `crsql_changes`.
    fn constraint(&mut self) -> String {
        let operator = *self.random.pick(&["=", ">", ">=", "<", "<=", "<>", "IS", "IS NOT"]);
        match self.random.below(4) {
            0 => format!("db_version {operator} {}", self.random.below(10)),
            1 => format!("seq {operator} {}", self.random.below(4)),
            2 => format!("site_id {operator} crsql_site_id()"),
            _ => format!("cid {operator} '-1' AND cl {operator} {}", self.random.below(4)),
        }
    }
}
