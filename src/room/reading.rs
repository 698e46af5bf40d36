//! Reading what clients are sent: only from a snapshot of the room as they know it, and only what no power loss takes back.
//!
//! Another process may have committed since the writer last looked. Its commits may not be durable yet, and what they replaced
//! is not in the snapshot: a client that was sent the rest would miss the old value if the new one was lost. Or they made the
//! room another site, or gave it another schema, and the snapshot is not for the clients that are connected.

use std::sync::Arc;

use rusqlite::Connection;
use tower_sqlite_sync_wire::SiteId;

use super::follow::Sight;
use super::frame::Frame;
use super::schema::StoredSchema;
use super::{Parts, Room, engine_site};
use crate::error::Error;

/// How often a frame is read that another process migrated the room under.
const ATTEMPTS: usize = 3;

/// What is to become of a frame, by the snapshot that it was read from.
enum Snapshot {
    /// It can be sent once everything up to this db_version is durable.
    Of(i64),
    /// Others have made something else of the room.
    Changed,
}

impl Room {
    /// Reads what follows `after`, up to `upto` at most, without what `exclude` wrote, in about `max_bytes`.
    pub(crate) async fn read_frame(
        &self,
        after: i64,
        upto: i64,
        exclude: Option<SiteId>,
        max_bytes: usize,
    ) -> Result<Arc<Frame>, Error> {
        for _ in 0..ATTEMPTS {
            if let Some(frame) = self.try_read_frame(after, upto, exclude, max_bytes).await? {
                return Ok(if frame.byte_len() > max_bytes { self.large.share(frame) } else { Arc::new(frame) });
            }
        }
        Err(Error::Busy { room: self.name.clone() })
    }

    /// `None` if the room has been migrated meanwhile.
    async fn try_read_frame(
        &self,
        after: i64,
        upto: i64,
        exclude: Option<SiteId>,
        max_bytes: usize,
    ) -> Result<Option<Frame>, Error> {
        let (parts, name) = (self.parts.clone(), self.name.clone());
        let (schema, exclude) = (parts.schema.borrow().clone(), exclude.map(engine_site));
        let read = self.read(move |conn| {
            let read =
                || -> crr::Result<_> { Ok((Sight::of(conn)?, Frame::read(conn, after, upto, exclude, max_bytes)?)) };
            let (sight, frame) = read().map_err(|error| Error::engine(&name, error))?;
            let sight = sight.ok_or(Error::NoSuchRoom { room: name })?;
            Ok((parts.judge(conn, &sight, &schema, upto)?, frame))
        });
        let read = read.await.and_then(|read| read);
        let (snapshot, frame) = read.inspect_err(|error| self.parts.note(error))?;
        match snapshot {
            Snapshot::Of(now) if now <= self.now() || !self.is_written_here => return Ok(Some(frame)),
            Snapshot::Of(_) | Snapshot::Changed => {}
        }
        // Commits of ours that aren't shown yet are durable when the writer comes to look; those of others it makes so.
        self.queue.look().await?;
        match snapshot {
            _ if self.parts.ending.has_ended() => Err(Error::GoingAway),
            Snapshot::Changed => Ok(None),
            Snapshot::Of(now) if now <= self.now() => Ok(Some(frame)),
            Snapshot::Of(_) => Err(Error::Busy { room: self.name.clone() }),
        }
    }
}

impl Parts {
    /// What a snapshot is, from which clients with `schema` are to be sent what there is up to `upto`.
    fn judge(&self, conn: &Connection, sight: &Sight, schema: &StoredSchema, upto: i64) -> Result<Snapshot, Error> {
        if let Some(file) = &self.file {
            file.check_reader(conn)?;
        }
        if sight.site != self.site || sight.schema != *schema {
            return Ok(Snapshot::Changed);
        }
        if sight.now < upto {
            return Err(Error::WentBack { room: self.ending.room().clone(), stored: sight.now, shown: upto });
        }
        Ok(Snapshot::Of(sight.now))
    }
}
