//! What is written: rows of one table, numbered, and the messages that bring them.
//!
//! A cell has a number: row × 4 + column. So a reader can tell exactly what it has got, whatever messages it came in.

use std::ops::Range;
use std::sync::LazyLock;

use tower_sqlite_sync_wire::{Change, ChangeListBuilder, Changes, Message, Position, SiteId, Value, schema_version};

use crate::fault::Fault;
use crate::websocket::frame;

/// The name under which the server has the schema.
pub(crate) const SCHEMA_NAME: &str = "load.sql";

/// The schema.
pub(crate) const SCHEMA: &str = include_str!("../load.sql");

/// The version of the schema.
pub(crate) static SCHEMA_VERSION: LazyLock<i64> = LazyLock::new(|| schema_version(SCHEMA));

/// The columns beside the key. Readers tell them apart by the first letter.
pub(crate) const COLUMNS: [&str; 4] = ["amount", "done", "price", "title"];

/// Changes in one message of an import, which is one transaction of its writer.
pub(crate) const CHUNK: usize = 1_000;

/// The cells of one row.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its key, as text: 16 hexadecimal digits, in order.
    pub(crate) id: String,
    pub(crate) amount: u32,
    pub(crate) done: bool,
    pub(crate) price: f64,
    pub(crate) title: String,
}

impl Row {
    /// The row of that number.
    pub(crate) fn of(number: usize) -> Self {
        let small = u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            id: format!("{number:016x}"),
            amount: small,
            done: number.is_multiple_of(3),
            price: f64::from(small) + 0.25,
            title: format!("item {number} of a load test"),
        }
    }

    /// Its packed key: one column, text with a length of one byte.
    fn pk(&self) -> Vec<u8> {
        [&[1, (1 << 3) | 3, 16], self.id.as_bytes()].concat()
    }

    /// Its columns with their values, as clients send them: numbers are JavaScript's.
    fn cells(&self) -> [(&'static str, Value<'_>); 4] {
        let [amount, done, price, title] = COLUMNS;
        [
            (amount, Value::Number(f64::from(self.amount))),
            (done, Value::Number(f64::from(u8::from(self.done)))),
            (price, Value::Number(self.price)),
            (title, Value::Text(&self.title)),
        ]
    }
}

/// The frames that bring these cells, in messages of `chunk`, one db_version each. The first of them follows `since`.
pub(crate) fn import(sender: SiteId, cells: Range<usize>, chunk: usize, since: i64) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let (mut next, mut version) = (cells.start, since);
    while next < cells.end {
        let upto = next.saturating_add(chunk.max(1)).min(cells.end);
        frames.push(frame(&message(sender, next..upto, version)));
        (next, version) = (upto, version.saturating_add(1));
    }
    frames
}

/// The frame that brings one cell: the first of a new row.
pub(crate) fn write(sender: SiteId, row: usize, since: i64) -> Vec<u8> {
    let cell = row.saturating_mul(COLUMNS.len());
    frame(&message(sender, cell..cell.saturating_add(1), since))
}

/// The message that takes its receiver from db_version `since` to the next one.
fn message(sender: SiteId, cells: Range<usize>, since: i64) -> Vec<u8> {
    let mut changes = ChangeListBuilder::default();
    let rows = cells.start / COLUMNS.len()..cells.end.div_ceil(COLUMNS.len());
    for number in rows {
        let row = Row::of(number);
        let pk = row.pk();
        for (column, (cid, val)) in row.cells().into_iter().enumerate() {
            if !cells.contains(&number.saturating_mul(COLUMNS.len()).saturating_add(column)) {
                continue;
            }
            changes.push(Change {
                table: "item",
                pk: &pk,
                cid,
                val,
                col_version: 1,
                db_version: since.saturating_add(1),
                site: None,
                cl: 1,
                seq: i64::try_from(changes.len()).unwrap_or(i64::MAX),
            });
        }
    }
    let changes = Changes { sender, since: Position::at(since), changes: changes.finish() };
    Message::Changes(changes).encode().to_vec()
}

/// A site that is new to every server.
pub(crate) fn new_site() -> Result<SiteId, Fault> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| Fault::Setup(format!("no random numbers: {error}")))?;
    Ok(SiteId::from_bytes(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skim::Skimmed;

    #[test]
    fn an_import_is_cut_into_messages_that_follow_one_another() {
        let site = SiteId::from_bytes([7; 16]);
        let parts = [message(site, 0..4, 0), message(site, 4..6, 1)];
        let lists = parts.map(|part| match Message::decode(part.into()).unwrap() {
            Message::Changes(changes) => changes,
            other => panic!("{other:?}"),
        });
        let shown = |changes: &Changes| {
            let of = |change: Change<'_>| format!("{} {} {}", change.cid, change.db_version, change.seq);
            changes.changes.iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(shown(&lists[0]), ["amount 1 0", "done 1 1", "price 1 2", "title 1 3"]);
        assert_eq!(shown(&lists[1]), ["amount 2 0", "done 2 1"]);
        assert_eq!(import(site, 0..2_500, CHUNK, 0).len(), 3);
        assert!(import(site, 0..0, CHUNK, 0).is_empty());
    }

    #[test]
    fn readers_tell_the_cells_that_are_written() {
        let written = message(SiteId::from_bytes([7; 16]), 3..11, 4);
        let mut cells = Vec::new();
        Skimmed::read(&written).unwrap().unwrap().each_cell(|cell| cells.push(cell)).unwrap();
        assert_eq!(cells, (3..11).collect::<Vec<_>>());
    }
}
