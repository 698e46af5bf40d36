//! Changesets of clients that are connected to a copy of the room, elsewhere.

use tokio::sync::mpsc;

use super::writer::{Changeset, Outcome};
use super::{Lease, Room, convert};
use crate::connection::Close;
use crate::error::Error;
use crate::primary::{self, Verdict};

/// A changeset that is in the room's queue. The room stays open until it is dropped.
#[derive(Debug)]
pub(crate) struct Submitted {
    room: Lease,
    outcomes: mpsc::UnboundedReceiver<Outcome>,
}

impl Room {
    /// Queues a changeset, behind all that were submitted before.
    pub(crate) async fn submit(room: Lease, changeset: primary::Changeset) -> Result<Submitted, Error> {
        if !room.is_written_here {
            return Err(Error::NotPrimary { room: room.name.clone() });
        }
        let (reply, outcomes) = mpsc::unbounded_channel();
        let changeset = Changeset {
            sender: convert::wire_site(changeset.site),
            since: convert::wire_position(changeset.since),
            changes: changeset.changes,
            schema_version: changeset.schema_version,
            reply,
        };
        room.merge(changeset).await?;
        Ok(Submitted { room, outcomes })
    }
}

impl Submitted {
    /// Waits for what becomes of it.
    pub(crate) async fn verdict(mut self) -> Result<Verdict, Error> {
        match self.outcomes.recv().await {
            Some(Outcome::Applied(applied)) => Ok(Verdict::Applied {
                position: convert::engine_position(applied.position),
                partial_rows: applied.partial_rows,
                changes: applied.changes,
                db_version: applied.db_version,
            }),
            Some(Outcome::Gap(position)) => Ok(Verdict::Gap(convert::engine_position(position))),
            Some(Outcome::Failed(error @ (Error::Changeset { .. } | Error::ChangesetTooLarge { .. }))) => {
                Ok(Verdict::Refused(error.close().to_refusal()))
            }
            Some(Outcome::Failed(error)) => Err(error),
            None if self.room.ending.has_ended() => Err(Error::GoingAway),
            None => Ok(Verdict::Refused(Close::schema("the room has another version of the schema").to_refusal())),
        }
    }
}
