//! What LiteFS does with the files: what the primary commits comes to the replicas, a transaction at a time, and so do their positions.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::Backup;

use crate::node::Node;

/// How far a copy of a room has come: LiteFS's transaction, and which one of that number it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    txid: u64,
    checksum: u64,
}

/// The rooms of one node.
///
/// A file's connections are all kept: with the first one that is closed, POSIX takes the locks of all of them.
#[derive(Default)]
pub(crate) struct Copies {
    rooms: HashMap<String, Copy>,
}

struct Copy {
    conn: Connection,
    /// SQLite's count of the commits of others, at the last look.
    seen: Option<i64>,
    position: Option<Position>,
}

impl Copies {
    /// Takes notice of what the server of `node`, the primary, has committed. `commits` counts transactions of the cluster.
    pub(crate) fn capture(&mut self, node: &Node, commits: &mut u64) {
        for room in rooms(&node.mount()) {
            // A file has no journal for long before it is a database with a log.
            if !self.rooms.contains_key(&room) && !has_log(&node.mount().join(&room)) {
                continue;
            }
            let copy = self.copy(node, &room);
            let version = copy.conn.query_row("PRAGMA data_version", [], |row| row.get(0)).unwrap();
            if copy.seen != Some(version) {
                copy.seen = Some(version);
                *commits += 1;
                let txid = copy.position.map_or(0, |position| position.txid) + 1;
                copy.reach(node, &room, Position { txid, checksum: *commits });
            }
        }
    }

    /// Brings to `node` what it lacks of the primary's rooms, or has otherwise.
    pub(crate) fn follow(&mut self, node: &Node, primary: &Self) {
        for (room, original) in &primary.rooms {
            let Some(position) = original.position else { continue };
            if self.rooms.get(room).is_some_and(|copy| copy.position == original.position) {
                continue;
            }
            let copy = self.copy(node, room);
            let backup = Backup::new(&original.conn, &mut copy.conn).unwrap();
            backup.run_to_completion(100_000, Duration::from_millis(2), None).unwrap();
            drop(backup);
            // Its own commits don't count among those of others.
            copy.reach(node, room, position);
        }
    }

    /// What a query finds in a room; `None` if the room isn't here, or has no such table yet.
    pub(crate) fn rows(&self, room: &str, sql: &str) -> Option<Vec<(i64, String)>> {
        let conn = &self.rooms.get(room)?.conn;
        let mut statement = conn.prepare(sql).ok()?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).ok()?;
        rows.collect::<rusqlite::Result<_>>().ok()
    }

    fn copy(&mut self, node: &Node, room: &str) -> &mut Copy {
        self.rooms.entry(room.to_owned()).or_insert_with(|| {
            let conn = Connection::open(node.mount().join(room)).unwrap();
            conn.busy_timeout(Duration::from_secs(20)).unwrap();
            conn.pragma_update(None, "synchronous", "OFF").unwrap();
            Copy { conn, seen: None, position: None }
        })
    }
}

impl Copy {
    fn reach(&mut self, node: &Node, room: &str, position: Position) {
        self.position = Some(position);
        let new = node.workshop().join(room);
        fs::write(&new, format!("{:016x}/{:016x}\n", position.txid, position.checksum)).unwrap();
        fs::rename(new, node.mount().join(format!("{room}-pos"))).unwrap();
    }
}

/// The rooms that have a file in the folder.
fn rooms(mount: &Path) -> Vec<String> {
    let names = fs::read_dir(mount).unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let is_room = |name: &String| {
        !name.starts_with('.') && ["-wal", "-shm", "-journal", "-pos"].iter().all(|end| !name.ends_with(end))
    };
    names.filter(is_room).collect()
}

/// Whether the header says that the database has a log. Looked at before there is a connection whose locks this would take.
fn has_log(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes.get(18) == Some(&2))
}
