//! What a room remembers of a client's site: who writes from it, how far its changes are here, and how much it has seen.

use rusqlite::Connection;
use tokio::time::Instant;
use tower_sqlite_sync_wire as wire;

use super::announced::{self, Known, Standing};
use super::{Room, convert, engine_site, sites};
use crate::error::Error;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Recollection {
    site: wire::SiteId,
    /// The identity that has written from the site.
    pub(crate) holder: Option<String>,
    /// What the room has from the site.
    pub(crate) position: wire::Position,
    announced: Option<Known>,
}

impl Recollection {
    /// What there is of a site that a room has never heard of.
    fn none(site: wire::SiteId) -> Self {
        Self { site, holder: None, position: wire::Position::START, announced: None }
    }

    fn read(conn: &Connection, site: wire::SiteId) -> crr::Result<Self> {
        let position = convert::wire_position(crr::Crr::of(conn)?.position(engine_site(site))?);
        let (holder, announced) = (sites::holder(conn, site)?, announced::known(conn, site)?);
        Ok(Self { site, holder, position, announced })
    }
}

impl Room {
    /// Reads it, at once for all that it is needed for.
    pub(crate) async fn recall(&self, site: wire::SiteId) -> Result<Recollection, Error> {
        if self.is_blank() {
            return Ok(Recollection::none(site));
        }
        let read = self.peek(move |conn| Recollection::read(conn, site)).await;
        let read = read.and_then(|read| read.map_err(|error| Error::engine(&self.name, error)));
        read.inspect_err(|error| self.parts.note(error))
    }

    /// Takes note of how much of the room a site says that it has seen, if the room has changes of it. If that is less than before, or
    /// may be, the site's position is forgotten: it is asked for everything.
    pub(crate) async fn greet(&self, known: &mut Recollection, seen: i64, arrived: Instant) -> Result<Standing, Error> {
        // Sites of which there is nothing have nothing to lose, and may be made up.
        if !self.is_written_here || known.position <= wire::Position::START {
            return Ok(Standing::GoesOn);
        }
        let standing = self.parts.announced.note(known.site, seen, arrived, known.announced);
        match standing {
            Standing::GoesOn | Standing::Untold => return Ok(standing),
            Standing::WentBack => self.queue.forget(known.site).await?,
            // Not worth turning it away, should the disk be full: it may come and read.
            Standing::MayHaveGoneBack => match self.queue.forget(known.site).await {
                Err(error) if error.fault().is_some() => return Ok(Standing::GoesOn),
                forgotten => forgotten?,
            },
        }
        known.position = wire::Position::START;
        Ok(standing)
    }
}
