//! Following a file that another process writes.

use std::sync::Arc;

use crr::Crr;
use rusqlite::Connection;
use tokio::sync::watch;
use tower_sqlite_sync_wire::SiteId;

use super::database::ReadConnections;
use super::schema::StoredSchema;
use super::{Parts, RoomName, convert};
use crate::connection::Close;
use crate::error::Error;

/// Shows a room's clients what another process has written.
#[derive(Debug)]
pub(crate) struct Follower {
    room: RoomName,
    connections: ReadConnections,
    parts: Parts,
}

/// What a file says of itself at one moment.
#[derive(Debug)]
pub(super) struct Sight {
    pub(super) site: SiteId,
    pub(super) schema: StoredSchema,
    pub(super) now: i64,
    /// Changes whenever another connection has committed.
    pub(super) commits_of_others: i64,
}

impl Sight {
    /// `None` if no schema was applied yet.
    pub(super) fn of(conn: &Connection) -> crr::Result<Option<Self>> {
        let Some(schema) = StoredSchema::read(conn)? else { return Ok(None) };
        let crr = Crr::of(conn)?;
        let (site, now) = (convert::wire_site(crr.site_id()?), crr.stored_db_version()?);
        Ok(Some(Self { site, schema, now, commits_of_others: commits_of_others(conn)? }))
    }
}

/// A number that changes whenever another connection has committed.
pub(super) fn commits_of_others(conn: &Connection) -> crr::Result<i64> {
    Ok(conn.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?)
}

impl Parts {
    /// Takes over what another process has made of the room: another site, or another version of its schema.
    pub(super) fn follow(&self, sight: &Sight) {
        if sight.site != self.site {
            self.ending.end(Close::forked());
        } else if *self.schema.borrow() != sight.schema {
            // In this order: clients with the schema of before leave before there is anything new to see.
            self.schema.send_replace(sight.schema.clone());
            self.feed.restart(sight.now);
        }
    }
}

impl Follower {
    pub(super) fn new(room: &RoomName, connections: ReadConnections, parts: &Parts) -> Arc<Self> {
        Arc::new(Self { room: room.clone(), connections, parts: parts.clone() })
    }

    /// Looks whenever `changed` counts up, until the room ends.
    pub(super) async fn run(self: Arc<Self>, mut changed: watch::Receiver<u64>) {
        loop {
            if let Err(error) = self.look().await {
                self.parts.ending.fail(&error);
            }
            tokio::select! {
                () = self.parts.ending.wait() => return,
                changed = changed.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Shows what is new in the file. Ends the room if it is another site's now, or if it went back.
    pub(super) async fn look(&self) -> Result<(), Error> {
        let sight = self.connections.run(Sight::of).await?;
        let sight = sight.map_err(|error| Error::engine(&self.room, error))?;
        let Some(sight) = sight else { return Err(Error::NoSuchRoom { room: self.room.clone() }) };
        let shown = self.parts.feed.now();
        if sight.now < shown {
            // Another primary's copy, before that primary has opened the room. It will fork.
            tracing::info!(room = %self.room, stored = sight.now, shown, "the copy went back: clients come again");
            self.parts.ending.end(Close::forked());
            return Ok(());
        }
        self.parts.follow(&sight);
        self.parts.feed.advance(sight.now);
        Ok(())
    }
}
