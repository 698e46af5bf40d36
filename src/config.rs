//! Everything an operator can set, with its default, in one table.
//!
//! | setting | default | allowed | unit | what it bounds |
//! |---|---|---|---|---|
//! | `db_folder` | `./dbs` |  | path | where the room databases live |
//! | `memory` | `false` | | | rooms live in memory and are gone when they close |
//! | `schema_folder` | `./schemas` |  | path | the schema files that clients may ask for |
//! | `path` | `^/sync(/\|$)` |  | regex | which upgrades are ours; matched against the path, without the query |
//! | `wide_room_names` | `false` | | | admits the room names that `@vlcn.io/ws-server` admitted |
//! | `durability` | `full` | `full`, `os` | | what happens to a change before clients are shown it: see [`Durability`] |
//! | `origins` | `same-host` | `same-host`, `any`, a list | | which web pages may connect, see [`Origins`] |
//! | `refuse` | `close` | `close`, `revert` | | what becomes of changes that are not allowed, see [`Refuse`] |
//! | `hook_calls` | 256 | from 1 | requests | asked about at a time; further ones wait their turn, within `upgrade_timeout` |
//! | `upgrade_timeout` | 10 | 0.001 – year | seconds | for the hook, and from the response that lets a client in to its socket |
//! | `announce_timeout` | 10 | 0.001 – year | seconds | from the upgraded socket to the client's announce |
//! | `heartbeat` | 30 | 0.001 – year | seconds | between pings; a peer that is silent for two of them is closed |
//! | `slow_reader_timeout` | 60 | 0.001 – year | seconds | a peer whose socket takes nothing for that long is closed (1013) |
//! | `max_message_bytes` | 104857600 | from 1024 | bytes | one message from a client |
//! | `max_message_changes` | 2000000 | from 1 | changes | in one message from a client; one with more is closed with 1009 |
//! | `max_value_bytes` | 16777216 | from 1 | bytes | one value from a client, text or blob; 1009 |
//! | `max_key_bytes` | 1048576 | from 1 | bytes | one packed primary key from a client; 1009 |
//! | `uploads_bytes` | 536870912 | any | bytes | messages of all clients together that are incomplete or wait for a place in a queue; who sends more is closed with 1013 |
//! | `sending_bytes` | 268435456 | any | bytes | on their way to all clients together; beyond that, clients are sent less at a time |
//! | `max_frame_bytes` | 1048576 | 1024 – 1073741824 | bytes | changes in one message to a client, and in one db_version of a merge |
//! | `max_connections` | 10000 | from 1 | connections | open at a time; more are answered 503 |
//! | `max_room_connections` | 5000 | from 1 | connections | open at a time to one room; more are answered 503 |
//! | `max_address_connections` | 1000 | any | connections | open at a time from one [address](crate::SyncLayer::remote_address), an IPv6 /64 being one; more are answered 429 |
//! | `address_refusals` | 10 | any | a second | of one address, and ten times as many at once; until then its requests are answered 429 |
//! | `max_rooms` | 1000 | from 1 | rooms | open at a time; if all are in use, clients of further rooms are closed with 1013 |
//! | `rooms_per_second` | 1000 | from 1 | rooms | opened for clients, and as many at once; who would wait more than 5 seconds is closed with 1013 |
//! | `room_opens` | 16 | from 1 | rooms | being opened at a time; further ones wait their turn, for `queue_wait`, then 1013 |
//! | `awake_rooms` | 128 | any | rooms | without work at the moment whose databases stay open, at least; of others they are closed until there is some |
//! | `room_idle` | 60 | 0 – year | seconds | an unused room stays open that long |
//! | `feed_window_bytes` | 8388608 | any | bytes | encoded changes a room keeps for its live connections |
//! | `queue_changesets` | 256 | from 1 | messages | waiting for one room's writer |
//! | `queue_bytes` | 134217728 | from 1 | bytes | waiting for one room's writer |
//! | `queues_bytes` | 536870912 | from 1 | bytes | waiting for the writers of all rooms together, not counting 1 MiB for each room |
//! | `queue_wait` | 30 | 0 – year | seconds | a changeset waits that long for a place in the queue, then 1013 |
//! | `fork_uploads` | 4 | from 1 | clients | of a room that [forked](crate::SyncHandle::fork), asked at a time for what they have of it |
//! | `notify_interval` | 0 | 0 – year | seconds | least time between two messages of changes to one client |
//! | `watch_files` | `true` | | | shows clients what other processes write into the files of open rooms, as the file system tells of it |
//! | `poll_files` | 0 | 0 – year | seconds | looks into the files of open rooms that often, where the file system tells nothing; 0 is never |
//! | `busy_timeout` | 5 | 0 – 2000000 | seconds | wait for another process that holds a room's write lock |
//! | `shutdown_grace` | 10 | 0 – year | seconds | a shutdown waits that long for clients to close, and then for rooms to commit what is queued |
//!
//! Retries are the clients' affair: every 429 and 503 has a `Retry-After`, and vlcn's clients come back after one to three
//! seconds whatever the answer. A client that is connected and silent is legitimate for as long as it answers pings, so there
//! is no time limit for that.
//!
//! A [`SyncConfig`] is built by its methods, or read from JSON, TOML, the environment or anything else that serde
//! reads. Times are numbers of seconds, fractions allowed, and a year has 31,536,000 of them.
//!
//! What is not allowed is refused with a [`ConfigError`] that says what is: when a configuration is read, by
//! [`SyncConfig::validate`], and, as a panic, by [`SyncLayer::new`](crate::SyncLayer::new). A `max_connections` of 0 and a
//! `heartbeat` of `Duration::MAX` are errors, and neither a server that lets nobody in nor one that stops at its first client.
//!
//! ```
//! use tower_sqlite_sync::SyncConfig;
//!
//! let config: SyncConfig = serde_json::from_str(
//!     r#"{ "db_folder": "/var/lib/rooms", "path": "^/rooms$", "heartbeat": 20 }"#,
//! )?;
//! assert_eq!(config.path().as_str(), "^/rooms$");
//! assert_eq!(config.heartbeat().as_secs(), 20);
//! # Ok::<(), serde_json::Error>(())
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regex::Regex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Durability;
use crate::config_error::{ConfigError, SOME, TIMES, TIMES_OR_NONE, number, time};
use crate::grant::Refuse;
use crate::origin::Origins;

/// The smallest message in which a client can announce itself, and in which changes are worth being sent, in bytes.
const LEAST_MESSAGE: usize = 1 << 10;

/// The largest message that is sent: no client takes more than 2 GiB, and a single db_version may be as much again.
const LARGEST_FRAME: usize = 1 << 30;

/// The longest wait for a lock, about 23 days: SQLite counts it in 31 bits of milliseconds.
const LONGEST_BUSY: Duration = Duration::from_secs(2_000_000);

/// What a [`SyncLayer`](crate::SyncLayer) serves, from where, and within which limits.
///
/// ```
/// use std::time::Duration;
/// use tower_sqlite_sync::SyncConfig;
///
/// let config = SyncConfig::default()
///     .with_db_folder("/var/lib/rooms")
///     .with_schema_folder("/etc/rooms/schemas")
///     .with_heartbeat(Duration::from_secs(20));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Settings", into = "Settings")]
pub struct SyncConfig(Settings);

/// What was set, allowed or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    db_folder: PathBuf,
    memory: bool,
    schema_folder: PathBuf,
    path: PathPattern,
    wide_room_names: bool,
    durability: Durability,
    origins: Origins,
    refuse: Refuse,
    hook_calls: usize,
    #[serde(with = "seconds")]
    upgrade_timeout: Duration,
    #[serde(with = "seconds")]
    announce_timeout: Duration,
    #[serde(with = "seconds")]
    heartbeat: Duration,
    #[serde(with = "seconds")]
    slow_reader_timeout: Duration,
    max_message_bytes: usize,
    max_message_changes: usize,
    max_value_bytes: usize,
    max_key_bytes: usize,
    uploads_bytes: usize,
    sending_bytes: usize,
    max_frame_bytes: usize,
    max_connections: usize,
    max_room_connections: usize,
    max_address_connections: usize,
    address_refusals: u32,
    max_rooms: usize,
    rooms_per_second: u32,
    room_opens: usize,
    awake_rooms: usize,
    #[serde(with = "seconds")]
    room_idle: Duration,
    feed_window_bytes: usize,
    queue_changesets: usize,
    queue_bytes: usize,
    queues_bytes: usize,
    #[serde(with = "seconds")]
    queue_wait: Duration,
    fork_uploads: usize,
    #[serde(with = "seconds")]
    notify_interval: Duration,
    watch_files: bool,
    #[serde(with = "seconds")]
    poll_files: Duration,
    #[serde(with = "seconds")]
    busy_timeout: Duration,
    #[serde(with = "seconds")]
    shutdown_grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            db_folder: PathBuf::from("./dbs"),
            memory: false,
            schema_folder: PathBuf::from("./schemas"),
            path: PathPattern::default(),
            wide_room_names: false,
            durability: Durability::Full,
            origins: Origins::SameHost,
            refuse: Refuse::Close,
            hook_calls: 256,
            upgrade_timeout: Duration::from_secs(10),
            announce_timeout: Duration::from_secs(10),
            heartbeat: Duration::from_secs(30),
            slow_reader_timeout: Duration::from_secs(60),
            max_message_bytes: 100 << 20,
            max_message_changes: 2_000_000,
            max_value_bytes: 16 << 20,
            max_key_bytes: 1 << 20,
            uploads_bytes: 512 << 20,
            sending_bytes: 256 << 20,
            max_frame_bytes: 1 << 20,
            max_connections: 10_000,
            max_room_connections: 5_000,
            max_address_connections: 1_000,
            address_refusals: 10,
            max_rooms: 1_000,
            rooms_per_second: 1000,
            room_opens: 16,
            awake_rooms: 128,
            room_idle: Duration::from_secs(60),
            feed_window_bytes: 8 << 20,
            queue_changesets: 256,
            queue_bytes: 128 << 20,
            queues_bytes: 512 << 20,
            queue_wait: Duration::from_secs(30),
            fork_uploads: 4,
            notify_interval: Duration::ZERO,
            watch_files: true,
            poll_files: Duration::ZERO,
            busy_timeout: Duration::from_secs(5),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}

/// Writes a getter and a `with_` method for each plain setting, from one line of documentation.
macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident, $with:ident: $type:ty;)*) => {
        $(
            $(#[$doc])*
            #[must_use]
            pub fn $name(&self) -> $type {
                self.0.$name
            }

            #[doc = concat!("Sets [`", stringify!($name), "`](Self::", stringify!($name), ").")]
            #[must_use]
            pub fn $with(mut self, value: $type) -> Self {
                self.0.$name = value;
                self
            }
        )*
    };
}

pub(crate) use settings;

impl SyncConfig {
    /// Says whether a layer can work with these settings, each by itself and together. A configuration that serde has read is valid.
    ///
    /// ```
    /// use tower_sqlite_sync::SyncConfig;
    ///
    /// let error = SyncConfig::default().with_max_rooms(0).validate().unwrap_err();
    /// assert_eq!(error.to_string(), "max_rooms can't be 0: it is a number of rooms from 1 up");
    /// ```
    ///
    /// # Errors
    ///
    /// The first setting that can't be what it is.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.0.validate()
    }

    /// The folder of the room databases: room `r` is the file `r` in it. Created when the first room is opened.
    #[must_use]
    pub fn db_folder(&self) -> &Path {
        &self.0.db_folder
    }

    /// Keeps rooms as files in this folder, and so not in memory.
    #[must_use]
    pub fn with_db_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.0.db_folder = folder.into();
        self.0.memory = false;
        self
    }

    /// The folder of the schema files. A client names one of them and the version (the hash of its text) it has.
    ///
    /// They are read when they are needed, so a new text counts at once. A text counts once nobody writes its file any more and if it
    /// makes a table a CRR; to be sure that no part of it is taken for the whole, write it beside the file and rename it.
    #[must_use]
    pub fn schema_folder(&self) -> &Path {
        &self.0.schema_folder
    }

    /// Sets [`schema_folder`](Self::schema_folder).
    #[must_use]
    pub fn with_schema_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.0.schema_folder = folder.into();
        self
    }

    /// Which request paths are ours.
    #[must_use]
    pub fn path(&self) -> &PathPattern {
        &self.0.path
    }

    /// Sets [`path`](Self::path).
    #[must_use]
    pub fn with_path(mut self, path: PathPattern) -> Self {
        self.0.path = path;
        self
    }

    /// Which web pages may open a session. Others are answered 403.
    #[must_use]
    pub fn origins(&self) -> &Origins {
        &self.0.origins
    }

    /// Sets [`origins`](Self::origins).
    #[must_use]
    pub fn with_origins(mut self, origins: Origins) -> Self {
        self.0.origins = origins;
        self
    }

    settings! {
        /// Whether rooms live in memory: shared by their connections, gone [`room_idle`](Self::room_idle) after the
        /// last one.
        memory, with_memory: bool;
        /// Whether room names beyond the safe set are admitted, as `@vlcn.io/ws-server` did.
        wide_room_names, with_wide_room_names: bool;
        /// What happens to a change before clients are shown it.
        durability, with_durability: Durability;
        /// What becomes of changesets that are not allowed, unless their [`Grant`](crate::Grant) says otherwise.
        refuse, with_refuse: Refuse;
        /// Requests that the hook is asked about at a time.
        hook_calls, with_hook_calls: usize;
        /// How long the hook may take to decide, and then the HTTP server to hand over the socket.
        upgrade_timeout, with_upgrade_timeout: Duration;
        /// How long a client may take to announce itself.
        announce_timeout, with_announce_timeout: Duration;
        /// Time between two pings. A peer that sends no byte for twice that time is closed.
        heartbeat, with_heartbeat: Duration;
        /// How long a peer's socket may take nothing of what is sent.
        slow_reader_timeout, with_slow_reader_timeout: Duration;
        /// The largest message accepted, in bytes. Clients send everything they have in one message.
        max_message_bytes, with_max_message_bytes: usize;
        /// Changes in one message from a client.
        max_message_changes, with_max_message_changes: usize;
        /// The largest value, text or blob, that a client may send, in bytes. What server code writes is not bounded by it, but should
        /// be: clients may have to bring it back after a [fork](crate::SyncHandle::fork).
        max_value_bytes, with_max_value_bytes: usize;
        /// The largest primary key that a client may send, packed, in bytes.
        max_key_bytes, with_max_key_bytes: usize;
        /// Bytes that messages of all clients may take before they are complete and have a place in a room's queue, not counting
        /// 256 KiB for each client. At least one message of `max_message_bytes` can always come.
        uploads_bytes, with_uploads_bytes: usize;
        /// Bytes of changes that may be on their way to all clients together, not counting 64 KiB for each client. If they don't take
        /// them, others are sent 64 KiB at a time, and larger values later; and those who take nothing for 5 seconds are closed, if
        /// [`slow_reader_timeout`](Self::slow_reader_timeout) is not shorter.
        sending_bytes, with_sending_bytes: usize;
        /// Bytes of changes in one message to a client. A db_version is never split: a larger one that is already
        /// in a file goes out whole.
        max_frame_bytes, with_max_frame_bytes: usize;
        /// Connections open at a time.
        max_connections, with_max_connections: usize;
        /// Connections to one room open at a time.
        max_room_connections, with_max_room_connections: usize;
        /// Connections from one address open at a time, if [`SyncLayer::remote_address`](crate::SyncLayer::remote_address) says
        /// where they come from. An IPv6 network of 64 bits is one address: it is what one customer has.
        max_address_connections, with_max_address_connections: usize;
        /// Connections from one address that may end with a refusal (401, 403, 1002 to 1009, 4400) in a second, on average; ten times
        /// as many may at once. Whoever is beyond that is answered 429, before anything is looked up for it.
        address_refusals, with_address_refusals: u32;
        /// Rooms open at a time. A room takes about five file descriptors while it is [awake](Self::awake_rooms), and up to nine while
        /// clients catch up.
        max_rooms, with_max_rooms: usize;
        /// Rooms opened for clients in a second, on average; as many may be at once.
        rooms_per_second, with_rooms_per_second: u32;
        /// Rooms being opened at a time.
        room_opens, with_room_opens: usize;
        /// Rooms whose databases stay open, at least, while nothing happens in them: those in which something happened last. The
        /// databases of other rooms are closed until there is work. Clients don't notice, but for a millisecond or two. If rooms are
        /// woken within ten seconds, more stay awake; but with 0, no database stays open without work.
        awake_rooms, with_awake_rooms: usize;
        /// How long a room without connections stays open.
        room_idle, with_room_idle: Duration;
        /// Encoded changes that a room keeps for its live connections, in bytes. A connection that falls behind
        /// them reads the database.
        feed_window_bytes, with_feed_window_bytes: usize;
        /// Changesets that may wait for one room's writer.
        queue_changesets, with_queue_changesets: usize;
        /// Bytes of changesets that may wait for one room's writer.
        queue_bytes, with_queue_bytes: usize;
        /// Bytes of changesets that may wait for the writers of all rooms together, not counting 1 MiB for each room.
        queues_bytes, with_queues_bytes: usize;
        /// How long a changeset waits for a place in the writer's queue.
        queue_wait, with_queue_wait: Duration;
        /// Clients of a room that are asked at a time for everything they have of it, after it [forked](crate::SyncHandle::fork).
        /// The others go on receiving meanwhile.
        fork_uploads, with_fork_uploads: usize;
        /// Least time between two messages of changes to one client; zero sends at once.
        notify_interval, with_notify_interval: Duration;
        /// Whether what other processes write into the files of open rooms is shown to their clients as the file system tells of
        /// it: within some 20 ms, and within 200 where otherwise only our own commits are told of, if none of them shows it sooner.
        /// If it can't be watched, they are looked into every second.
        watch_files, with_watch_files: bool;
        /// How often the files of open rooms are looked into for what other processes wrote. For file systems that tell
        /// nothing, as network file systems; zero is never.
        poll_files, with_poll_files: Duration;
        /// How long a room waits for another process that holds its write lock.
        busy_timeout, with_busy_timeout: Duration;
        /// How long a shutdown waits for clients to answer the close.
        shutdown_grace, with_shutdown_grace: Duration;
    }
}

impl Settings {
    fn validate(&self) -> Result<(), ConfigError> {
        time("upgrade_timeout", self.upgrade_timeout, TIMES)?;
        time("announce_timeout", self.announce_timeout, TIMES)?;
        time("heartbeat", self.heartbeat, TIMES)?;
        time("slow_reader_timeout", self.slow_reader_timeout, TIMES)?;
        number("max_message_bytes", self.max_message_bytes, "bytes", LEAST_MESSAGE..=usize::MAX)?;
        number("max_frame_bytes", self.max_frame_bytes, "bytes", LEAST_MESSAGE..=LARGEST_FRAME)?;
        number("max_connections", self.max_connections, "connections", SOME)?;
        number("max_rooms", self.max_rooms, "rooms", SOME)?;
        time("room_idle", self.room_idle, TIMES_OR_NONE)?;
        number("queue_changesets", self.queue_changesets, "messages", SOME)?;
        number("queue_bytes", self.queue_bytes, "bytes", SOME)?;
        time("queue_wait", self.queue_wait, TIMES_OR_NONE)?;
        number("fork_uploads", self.fork_uploads, "clients", SOME)?;
        number("hook_calls", self.hook_calls, "requests", SOME)?;
        number("max_message_changes", self.max_message_changes, "changes", SOME)?;
        number("max_value_bytes", self.max_value_bytes, "bytes", SOME)?;
        number("max_key_bytes", self.max_key_bytes, "bytes", SOME)?;
        number("max_room_connections", self.max_room_connections, "connections", SOME)?;
        number("rooms_per_second", usize::try_from(self.rooms_per_second).unwrap_or(usize::MAX), "rooms", SOME)?;
        number("room_opens", self.room_opens, "rooms", SOME)?;
        number("queues_bytes", self.queues_bytes, "bytes", SOME)?;
        time("notify_interval", self.notify_interval, TIMES_OR_NONE)?;
        time("poll_files", self.poll_files, TIMES_OR_NONE)?;
        time("busy_timeout", self.busy_timeout, Duration::ZERO..=LONGEST_BUSY)?;
        time("shutdown_grace", self.shutdown_grace, TIMES_OR_NONE)
    }
}

impl TryFrom<Settings> for SyncConfig {
    type Error = ConfigError;

    fn try_from(settings: Settings) -> Result<Self, ConfigError> {
        settings.validate().map(|()| Self(settings))
    }
}

impl From<SyncConfig> for Settings {
    fn from(config: SyncConfig) -> Self {
        config.0
    }
}

/// A regular expression over request paths. It is not anchored by itself: `^/sync$` matches that path only.
///
/// ```
/// use tower_sqlite_sync::PathPattern;
///
/// let path: PathPattern = "^/v[12]/sync$".parse()?;
/// assert!(path.matches("/v1/sync"));
/// assert!(!path.matches("/v3/sync"));
/// # Ok::<(), tower_sqlite_sync::PathPatternError>(())
/// ```
#[derive(Clone)]
pub struct PathPattern(Regex);

impl PathPattern {
    /// Whether a request path (without its query) is ours.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        self.0.is_match(path)
    }

    /// The expression as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Default for PathPattern {
    fn default() -> Self {
        #[expect(clippy::expect_used, reason = "a constant expression, covered by a test")]
        Self(Regex::new("^/sync(/|$)").expect("the default path pattern compiles"))
    }
}

/// The text is not a regular expression.
#[derive(Debug, thiserror::Error)]
#[error("the path pattern is not a regular expression: {0}")]
pub struct PathPatternError(String);

impl std::str::FromStr for PathPattern {
    type Err = PathPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Regex::new(text).map(Self).map_err(|error| PathPatternError(error.to_string()))
    }
}

impl fmt::Debug for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PathPattern").field(&self.as_str()).finish()
    }
}

impl PartialEq for PathPattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Serialize for PathPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for PathPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Durations as numbers of seconds, which every configuration format can hold.
pub(crate) mod seconds {
    use super::{Deserialize, Deserializer, Duration, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(value.as_secs_f64())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        if seconds.is_nan() || seconds < 0.0 {
            return Err(serde::de::Error::custom("a time is a number of seconds from 0 up"));
        }
        // What is too much for a duration is too much for any setting, whose check says its name.
        Ok(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_path_is_sync_and_what_is_below_it() {
        let path = PathPattern::default();
        for ours in ["/sync", "/sync/", "/sync/room"] {
            assert!(path.matches(ours), "{ours}");
        }
        for other in ["/", "/synchronise", "/api/sync"] {
            assert!(!path.matches(other), "{other}");
        }
    }

    #[test]
    fn a_config_survives_json() {
        let config = SyncConfig::default().with_notify_interval(Duration::from_millis(250)).with_memory(true);
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<SyncConfig>(&text).unwrap(), config);
    }

    #[test]
    fn what_is_left_out_keeps_its_default_and_what_is_unknown_is_refused() {
        let config: SyncConfig = serde_json::from_str(r#"{"max_rooms": 3}"#).unwrap();
        assert_eq!(config, SyncConfig::default().with_max_rooms(3));
        let error = serde_json::from_str::<SyncConfig>(r#"{"max_room": 3}"#).unwrap_err();
        assert!(error.to_string().contains("max_room"), "{error}");
    }

    #[test]
    fn times_and_patterns_that_make_no_sense_are_refused() {
        assert!(serde_json::from_str::<SyncConfig>(r#"{"heartbeat": -1}"#).is_err());
        assert!(serde_json::from_str::<SyncConfig>(r#"{"path": "("}"#).is_err());
    }

    #[test]
    fn what_no_layer_can_work_with_is_refused_by_name_wherever_it_comes_from() {
        let times = ["upgrade_timeout", "announce_timeout", "heartbeat", "slow_reader_timeout"];
        let times_or_none =
            ["room_idle", "queue_wait", "notify_interval", "poll_files", "busy_timeout", "shutdown_grace"];
        let numbers = ["max_message_bytes", "max_frame_bytes", "max_connections", "max_rooms"];
        let queues = ["queue_changesets", "queue_bytes", "fork_uploads"];
        let zeros = times.iter().chain(&numbers).chain(&queues).map(|name| (name, "0"));
        let endless =
            times.iter().chain(&times_or_none).flat_map(|name| [(name, "1e300"), (name, "18446744073709551615")]);
        for (name, value) in zeros.chain(endless).chain([(&"max_frame_bytes", "2000000000")]) {
            let error =
                serde_json::from_str::<SyncConfig>(&format!(r#"{{"{name}": {value}}}"#)).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("it is a number of"), "{name} {value}: {error}");
        }
        let config = SyncConfig::default();
        for config in [
            config.clone().with_heartbeat(Duration::MAX),
            config.clone().with_busy_timeout(crate::config_error::YEAR),
            config.clone().with_queue_changesets(0),
        ] {
            config.validate().unwrap_err();
        }
        config.validate().unwrap();
    }

    #[test]
    fn what_means_at_once_or_without_limit_is_allowed() {
        for name in ["room_idle", "queue_wait", "busy_timeout", "shutdown_grace", "uploads_bytes", "feed_window_bytes"]
        {
            serde_json::from_str::<SyncConfig>(&format!(r#"{{"{name}": 0}}"#)).unwrap();
        }
        for name in
            ["max_connections", "max_rooms", "max_message_bytes", "queue_changesets", "queue_bytes", "fork_uploads"]
        {
            serde_json::from_str::<SyncConfig>(&format!(r#"{{"{name}": {}}}"#, usize::MAX)).unwrap();
        }
    }
}
