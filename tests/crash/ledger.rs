//! What the clients of a room were led to believe.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use tokio_tungstenite::tungstenite::Error as WsError;
use tower_sqlite_sync_wire::{Changes, SiteId, StartStreaming, Value};

use crate::life::OBSERVER;
use crate::remains::Rows;

/// See the module's documentation. Whatever contradicts it panics.
#[derive(Default)]
pub(crate) struct Ledger {
    /// The site id of the room.
    server: Option<SiteId>,
    sites: HashMap<u8, SiteId>,
    /// The number of each client's last transaction, by the client's db_version.
    written: HashMap<u8, BTreeMap<i64, u64>>,
    /// Up to where each client was told that its changes are safe.
    safe: HashMap<u8, i64>,
    /// What each client was first shown of each db_version of the server.
    shown: HashMap<u8, BTreeMap<i64, View>>,
    /// The rows that were shown of those that are written once.
    once: BTreeSet<String>,
    /// What each client has at last.
    reports: HashMap<u8, Rows>,
    messages: usize,
    lives: BTreeSet<usize>,
}

/// What a client saw of a db_version. Cells leave a db_version when they are written again; none ever comes to one.
struct View {
    life: usize,
    cells: BTreeSet<Cell>,
}

/// A cell with a value: the row's key, the value, and how often it was written.
type Cell = (Vec<u8>, String, i64);

impl Ledger {
    pub(crate) fn introduce(&mut self, n: u8, site: SiteId) {
        self.sites.insert(n, site);
    }

    pub(crate) fn sites(&self) -> impl Iterator<Item = (u8, SiteId)> {
        self.sites.iter().map(|(n, site)| (*n, *site))
    }

    /// A client has committed a transaction of its own.
    pub(crate) fn wrote(&mut self, n: u8, db_version: i64, number: u64) {
        self.written.entry(n).or_default().insert(db_version, number);
    }

    /// The number of the last transaction that a client had written at that db_version of its own.
    pub(crate) fn written_at(&self, n: u8, db_version: i64) -> Option<u64> {
        self.written.get(&n)?.range(..=db_version).next_back().map(|(_, number)| *number)
    }

    /// Up to which db_version of its own a client believes that the server has everything.
    pub(crate) fn safe(&self, n: u8) -> i64 {
        self.safe.get(&n).copied().unwrap_or(0)
    }

    /// Up to which db_version of the server anybody was shown anything.
    pub(crate) fn last_shown(&self) -> i64 {
        self.shown.values().filter_map(|views| views.keys().next_back().copied()).max().unwrap_or(0)
    }

    /// A client was told up to where the server has its changes.
    pub(crate) fn told(&mut self, n: u8, start: &StartStreaming) {
        self.meet(start.exclude_sites[0]);
        let (now, before) = (start.since.db_version, self.safe(n));
        assert!(now >= before, "client {n} was told that {before} is safe, and then that {now} is");
        self.safe.insert(n, now);
    }

    /// A client was shown changes. `n` is their author if they are not among them.
    pub(crate) fn shown(&mut self, n: u8, life: usize, changes: &Changes) {
        self.meet(changes.sender);
        self.messages += 1;
        self.lives.insert(life);
        let Some(last) = changes.changes.iter().last().map(|change| change.db_version) else { return };
        let mut cells: BTreeMap<i64, BTreeSet<Cell>> = BTreeMap::new();
        for change in changes.changes.iter() {
            if let Value::Text(value) = change.val {
                let cell = (change.pk.to_vec(), value.to_owned(), change.col_version);
                cells.entry(change.db_version).or_default().insert(cell);
                let key = String::from_utf8_lossy(change.pk).into_owned();
                if let Some(at) = key.find("once ") {
                    self.once.insert(key[at..].to_owned());
                }
            }
        }
        for (db_version, cells) in &cells {
            self.compare(*db_version, life, cells);
        }
        // A db_version of which it was shown nothing had nothing for it.
        let views = self.shown.entry(n).or_default();
        for db_version in changes.since.db_version + 1..=last {
            let cells = || cells.get(&db_version).cloned().unwrap_or_default();
            views.entry(db_version).or_insert_with(|| View { life, cells: cells() });
        }
    }

    /// What was in a db_version before the server died is all that can be there now.
    fn compare(&self, db_version: i64, life: usize, cells: &BTreeSet<Cell>) {
        for (n, views) in &self.shown {
            let Some(view) = views.get(&db_version).filter(|view| view.life < life) else { continue };
            let author = format!("{n}:");
            for cell in cells.iter().filter(|(_, value, _)| *n == OBSERVER || !value.starts_with(&author)) {
                assert!(
                    view.cells.contains(cell),
                    "db_version {db_version} has {cell:?} in life {life}; client {n} was shown {:?} in life {}",
                    view.cells,
                    view.life
                );
            }
        }
    }

    /// The room is one site for ever: its file never goes back in time.
    fn meet(&mut self, server: SiteId) {
        assert_eq!(*self.server.get_or_insert(server), server, "the room has become another site");
    }

    /// A connection has ended. The server may be dead, or may have said that it ends, and nothing else.
    pub(crate) fn lost_connection(&self, error: &WsError) {
        let said = error.to_string();
        assert!(!said.contains("CloseFrame") || said.contains("Away"), "closed: {said}");
    }

    /// What a client has now.
    pub(crate) fn report(&mut self, n: u8, rows: Rows) {
        self.reports.insert(n, rows);
    }

    /// Whether all clients have what the server has.
    pub(crate) fn agree(&self, server: &Rows) -> bool {
        self.reports.len() == self.sites.len() && self.reports.values().all(|rows| rows == server)
    }

    /// Where clients don't have what the server has: client, key, there, here.
    pub(crate) fn difference(&self, server: &Rows) -> Vec<(u8, String, Option<String>, Option<String>)> {
        let mut different = Vec::new();
        for (n, rows) in &self.reports {
            let keys: BTreeSet<&String> = rows.keys().chain(server.keys()).collect();
            for key in keys.into_iter().filter(|key| rows.get(*key) != server.get(*key)) {
                different.push((*n, key.clone(), rows.get(key).cloned(), server.get(key).cloned()));
            }
        }
        different
    }

    /// Nothing is missing of what anybody was shown or wrote.
    pub(crate) fn conclude(&self, server: &Rows) {
        for key in &self.once {
            assert_eq!(server.get(key).map(String::as_str), key.strip_prefix("once "), "{key} was shown");
        }
        for (n, written) in &self.written {
            let last = written.values().next_back().map(|number| format!("{n}:{number}"));
            assert_eq!(server.get(&format!("counter {n}")), last.as_ref(), "the last transaction of client {n}");
        }
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (messages, lives, last) = (self.messages, self.lives.len(), self.last_shown());
        write!(f, "{messages} messages of changes in {lives} lives, db_version {last}, ")?;
        write!(f, "{} rows shown that are written once", self.once.len())
    }
}
