//! What can go wrong, and the one place that says how a peer is told.

use std::sync::Arc;

use crate::connection::Close;
use crate::fault::Fault;
use crate::primary::{PrimaryUnavailable, Refusal};
use crate::room::{RoomName, SchemaName};

/// A failure of a room or of the layer.
///
/// The text names the room and says what to do; it never holds a token, a key or a cell value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name can't be a room's.
    #[error("room name refused: {0}")]
    RoomName(#[from] crate::room::RoomNameError),

    /// The room has no database yet, and nothing said which schema to create it with.
    #[error("room {room} doesn't exist: let a client announce itself, or call SyncHandle::create_room")]
    NoSuchRoom {
        /// The room that was asked for.
        room: RoomName,
    },

    /// The schema folder has no usable file of that name: there is none, or it is empty, makes nothing that could be synced, or is being
    /// written.
    #[error("schema {schema:?} is unknown: {reason}")]
    SchemaUnknown {
        /// The name as it was asked for.
        schema: String,
        /// Why it can't be used.
        reason: String,
    },

    /// The schema file's version is not the one the client has.
    #[error("schema {schema} here has version {resident}, not {wanted}: install the same text at client and server")]
    SchemaNotResident {
        /// The schema's name.
        schema: SchemaName,
        /// The version that was asked for.
        wanted: i64,
        /// The version of the file in the schema folder.
        resident: i64,
    },

    /// The room holds another schema, or another version of it.
    #[error(
        "room {room} has schema {stored:?}, not {wanted:?}: connect to another room, or bring the schema up to date"
    )]
    SchemaMismatch {
        /// The room.
        room: RoomName,
        /// Name and version in the room's database.
        stored: String,
        /// Name and version that were asked for.
        wanted: String,
    },

    /// A new room could not be created with the schema, or a room not be migrated to it; nothing was changed.
    #[error("schema {schema} can't be applied to room {room}: {source}")]
    SchemaRefused {
        /// The room.
        room: RoomName,
        /// The schema's name.
        schema: SchemaName,
        /// What SQLite or the engine said. Shared, because it is said again to clients that come again soon.
        source: Arc<crr::Error>,
    },

    /// The layer has as many rooms open as it may.
    #[error("as many rooms are open as may be (max_rooms is {limit}): try again later")]
    TooManyRooms {
        /// The limit.
        limit: usize,
    },

    /// Rooms are opened faster than they may be.
    #[error("too many rooms are being opened (rooms_per_second): try again later")]
    OpenedTooFast,

    /// The room's writer has been busy for longer than `queue_wait`.
    #[error("try again later: room {room} has been busy for too long (queue_wait)")]
    Busy {
        /// The room.
        room: RoomName,
    },

    /// The layer is shutting down, or the room is.
    #[error("the server is going away: connect again")]
    GoingAway,

    /// A changeset can't be applied: it names what the schema lacks, is malformed, or breaks a bound or a constraint.
    #[error("a changeset for room {room} is refused: {source}")]
    Changeset {
        /// The room.
        room: RoomName,
        /// What the engine said.
        source: Arc<crr::Error>,
    },

    /// A client comes as a site that is not its own: the server's, or one that another identity has written from in this room.
    #[error("room {room}: this site id is not yours: log in as who it is, or begin with a new database")]
    SiteTaken {
        /// The room.
        room: RoomName,
    },

    /// A changeset has more changes than it may, or larger ones.
    #[error("a changeset for room {room} is refused: {reason}")]
    ChangesetTooLarge {
        /// The room.
        room: RoomName,
        /// What is too large, and the setting that says so.
        reason: String,
    },

    /// The engine failed on the room's database.
    #[error("room {room}: {source}")]
    Engine {
        /// The room.
        room: RoomName,
        /// What the engine said.
        source: Arc<crr::Error>,
    },

    /// SQLite failed on the room's database.
    #[error("room {room}: {source}")]
    Sqlite {
        /// The room.
        room: RoomName,
        /// What SQLite said.
        source: Box<rusqlite::Error>,
    },

    /// The room's file can't be opened as a database of this engine.
    #[error("room {room} can't be opened: {reason}")]
    Unusable {
        /// The room.
        room: RoomName,
        /// What SQLite or the engine said.
        reason: String,
    },

    /// A file or folder can't be used.
    #[error("room {room}: {action}: {source}")]
    Io {
        /// The room.
        room: RoomName,
        /// What was being done.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },

    /// The room is written by another process: only that one can run the application's transactions.
    #[error("room {room} is written by another process: write it there")]
    NotPrimary {
        /// The room.
        room: RoomName,
    },

    /// The process that writes the room could not be reached for as long as `queue_wait`.
    #[error("room {room}: {source}")]
    PrimaryUnavailable {
        /// The room.
        room: RoomName,
        /// Why.
        source: PrimaryUnavailable,
    },

    /// The process that writes the room refused it.
    #[error("room {room}: its primary refuses: {}", refusal.reason)]
    RefusedByPrimary {
        /// The room.
        room: RoomName,
        /// What clients are told.
        refusal: Refusal,
    },

    /// A room in memory has no file that could be an earlier one, or be replaced.
    #[error("room {room} lives in memory: it has no file")]
    NoFile {
        /// The room.
        room: RoomName,
    },

    /// The room's file is damaged, as far as is known; a while after it was found to be, it is looked at again.
    #[error("room {room} has a damaged file: see what the log says of it")]
    Damaged {
        /// The room.
        room: RoomName,
    },

    /// A file can't be put in the place of a room's database.
    #[error("the file can't be room {room}: {reason}")]
    UnfitFile {
        /// The room.
        room: RoomName,
        /// What is wrong with it.
        reason: String,
    },

    /// Nothing of the client was refused that could be set aside.
    #[error("room {room}: no changes of site {site} are refused here")]
    NotRefused {
        /// The room.
        room: RoomName,
        /// The client.
        site: crr::SiteId,
    },

    /// The room's database is behind what its clients were shown: the file was replaced or went back in time.
    #[error("room {room} went back in time: its database ends at {stored}, but {shown} was shown to clients")]
    WentBack {
        /// The room.
        room: RoomName,
        /// The highest db_version in the file.
        stored: i64,
        /// The highest db_version that clients were shown.
        shown: i64,
    },

    /// The room's file was removed, or another one put in its place, while the room was open.
    #[error("room {room}: its file was removed or replaced while it was open")]
    FileReplaced {
        /// The room.
        room: RoomName,
    },

    /// A closure given to [`SyncHandle`](crate::SyncHandle) panicked; its transaction was rolled back.
    #[error("room {room}: the closure panicked, its transaction was rolled back")]
    Panicked {
        /// The room.
        room: RoomName,
    },
}

impl Error {
    /// How a connection that met this error is closed. The text is safe to show: it names no path and no value.
    pub(crate) fn close(&self) -> Close {
        match self {
            Self::SchemaUnknown { .. } | Self::SchemaNotResident { .. } => Close::schema(&self.to_string()),
            // What to do comes first, since a reason is short.
            Self::SchemaMismatch { stored, wanted, .. } => {
                Close::schema(&format!("bring the schema up to date: the room has {stored}, not {wanted}"))
            }
            Self::SchemaRefused { schema, source, .. } => {
                Close::schema(&format!("schema {schema} refused: {}", refusal(source)))
            }
            Self::TooManyRooms { .. } | Self::OpenedTooFast | Self::Busy { .. } => Close::try_again(&self.to_string()),
            Self::NotPrimary { .. } | Self::PrimaryUnavailable { .. } => {
                Close::try_again("the room's primary can't be reached, or the copy here is late: try again later")
            }
            Self::RefusedByPrimary { refusal, .. } => Close::as_the_primary(refusal),
            Self::GoingAway => Close::going_away(),
            Self::WentBack { .. } | Self::FileReplaced { .. } => Close::forked(),
            Self::RoomName(_) | Self::NoSuchRoom { .. } | Self::NoFile { .. } => Close::policy(&self.to_string()),
            Self::SiteTaken { .. } => Close::site_taken(),
            Self::Changeset { source, .. } => Close::policy(&format!("changes refused: {source}")),
            Self::ChangesetTooLarge { reason, .. } => Close::too_big(reason),
            Self::Engine { .. } | Self::Sqlite { .. } => match self.fault() {
                Some(Fault::Locked) => Close::locked(),
                Some(Fault::Full) => Close::try_again("the server's disk is full: try again later"),
                Some(Fault::Interrupted) => Close::going_away(),
                Some(Fault::NoAccess) => Close::unwritable(),
                Some(Fault::Damaged) => Close::damaged(),
                Some(Fault::System) | None => Close::internal("the room's database failed; the server's log says why"),
            },
            Self::Damaged { .. } => Close::damaged(),
            Self::Io { .. }
            | Self::Unusable { .. }
            | Self::UnfitFile { .. }
            | Self::NotRefused { .. }
            | Self::Panicked { .. } => Close::internal("the room's database failed; the server's log says why"),
        }
    }

    /// What is wrong with the room's file or the machine, if that is what failed.
    pub(crate) fn fault(&self) -> Option<Fault> {
        let code = match self {
            Self::Engine { source, .. } => source.sqlite_code(),
            Self::Sqlite { source, .. } => source.sqlite_extended_error_code(),
            _ => None,
        };
        code.and_then(Fault::of_code)
    }

    /// The same error once more, if a client with another schema would fare better.
    pub(crate) fn about_the_schema(&self) -> Option<Self> {
        match self {
            Self::SchemaUnknown { schema, reason } => {
                Some(Self::SchemaUnknown { schema: schema.clone(), reason: reason.clone() })
            }
            Self::SchemaNotResident { schema, wanted, resident } => {
                Some(Self::SchemaNotResident { schema: schema.clone(), wanted: *wanted, resident: *resident })
            }
            Self::SchemaMismatch { room, stored, wanted } => {
                let (stored, wanted) = (stored.clone(), wanted.clone());
                Some(Self::SchemaMismatch { room: room.clone(), stored, wanted })
            }
            Self::SchemaRefused { room, schema, source } => {
                let (schema, source) = (schema.clone(), source.clone());
                Some(Self::SchemaRefused { room: room.clone(), schema, source })
            }
            _ => None,
        }
    }

    /// Whether a copy that its primary says is there may have this wrong because it has not come as far yet. (Of a room that was just
    /// being created, the engine's tables are missing, and a reader can't make them.)
    pub(crate) fn is_of_a_late_copy(&self) -> bool {
        match self {
            Self::NoSuchRoom { .. } | Self::SchemaMismatch { .. } => true,
            Self::Sqlite { .. } => self.fault() == Some(Fault::NoAccess),
            _ => false,
        }
    }

    /// Whether a changeset is to blame, and would fail again.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Changeset { .. } | Self::SiteTaken { .. } | Self::ChangesetTooLarge { .. } => true,
            Self::RefusedByPrimary { refusal, .. } => [Close::POLICY, Close::TOO_BIG].contains(&refusal.code),
            _ => false,
        }
    }

    /// A schema that could not be applied, unless it isn't the schema that is to blame.
    pub(crate) fn schema_refused(room: &RoomName, schema: &SchemaName, source: crr::Error) -> Self {
        if source.sqlite_code().is_some_and(|code| Fault::of_code(code).is_some()) {
            return Self::engine(room, source);
        }
        Self::SchemaRefused { room: room.clone(), schema: schema.clone(), source: Arc::new(source) }
    }

    pub(crate) fn engine(room: &RoomName, source: crr::Error) -> Self {
        Self::engine_shared(room, Arc::new(source))
    }

    /// The same error for everybody whom it met.
    pub(crate) fn engine_shared(room: &RoomName, source: Arc<crr::Error>) -> Self {
        Self::Engine { room: room.clone(), source }
    }

    pub(crate) fn sqlite(room: &RoomName, source: rusqlite::Error) -> Self {
        Self::Sqlite { room: room.clone(), source: Box::new(source) }
    }
}

/// Why a schema is refused, for its clients: what is most telling comes first, since a reason is short.
fn refusal(source: &crr::Error) -> String {
    match source {
        crr::Error::MigrationRefused { reasons } => reasons.clone(),
        crr::Error::MigrationFailed { step, reason, .. } => format!("{reason} (at: {step})"),
        crr::Error::InvalidSchema { reason, .. } => reason.clone(),
        _ => "it can't be applied here; the server's log says why".to_owned(),
    }
}
