//! What an operator can set about LiteFS.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::config::{seconds, settings};
use crate::config_error::{ConfigError, SOME, TIMES, number, time};

/// The least bytes of a secret. What is shorter is tried out from one recorded handshake.
const MIN_SECRET_BYTES: usize = 16;

/// The largest frame: what is held of requests is counted up to here.
const LARGEST_FRAME: usize = 512 << 20;

/// How the nodes of a cluster on LiteFS find, trust and bound one another.
///
/// | setting | default | unit | what it is |
/// |---|---|---|---|
/// | `secret` | none | text | proves that a node belongs to the cluster; the same on all nodes, 16 bytes or more |
/// | `app_name` | none | text | the Fly.io app, if nodes are found by `<id>.vm.<app>.internal` |
/// | `port` | 9000 | | where every node takes forwarded writes |
/// | `addresses` | none | map | addresses of nodes by their id, for those that the rule doesn't find |
/// | `max_frame_bytes` | 134217728 | bytes | one forwarded request or answer |
/// | `max_links` | 64 | connections | from other nodes at a time |
/// | `link_requests` | 64 | requests | of one node that the primary works on at a time |
/// | `link_bytes` | 268435456 | bytes | of requests that a node holds: those that wait to be sent, and those of others that it works on |
/// | `pending_requests` | 1024 | requests | that a replica waits for at a time |
/// | `link_heartbeat` | 1 | seconds | between signs of life |
/// | `link_silence` | 5 | seconds | a connection that is silent for that long is lost |
/// | `link_handshake_timeout` | 5 | seconds | for a node to connect, and for both to prove that they know the secret |
/// | `request_timeout` | 60 | seconds | for the primary to work on a request, and for a replica to have its answer |
/// | `reconnect_first` | 0.1 | seconds | before the second attempt to connect; doubles from there |
/// | `reconnect_longest` | 5 | seconds | between two attempts to connect |
///
/// Numbers and times start at 1 and 0.001, times end at a year and frames at 512 MiB; `link_silence` is more than `link_heartbeat`,
/// `reconnect_longest` no less than `reconnect_first`. What is not so is refused with a [`ConfigError`] that names the setting.
///
/// ```
/// use tower_sqlite_sync::{LiteFsConfig, LiteFsSecret};
///
/// let secret = LiteFsSecret::new("a long text that all nodes have")?;
/// let config = LiteFsConfig::default().with_secret(secret).with_app_name("notes");
/// assert_eq!(config.address("148e4d"), "148e4d.vm.notes.internal:9000");
/// # Ok::<(), tower_sqlite_sync::LiteFsSecretError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Settings", into = "Settings")]
pub struct LiteFsConfig(Settings);

/// What was set, allowed or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    #[serde(skip_serializing)]
    secret: Option<LiteFsSecret>,
    app_name: Option<String>,
    port: u16,
    addresses: BTreeMap<String, SocketAddr>,
    max_frame_bytes: usize,
    max_links: usize,
    link_requests: usize,
    link_bytes: usize,
    pending_requests: usize,
    #[serde(with = "seconds")]
    link_heartbeat: Duration,
    #[serde(with = "seconds")]
    link_silence: Duration,
    #[serde(with = "seconds")]
    link_handshake_timeout: Duration,
    #[serde(with = "seconds")]
    request_timeout: Duration,
    #[serde(with = "seconds")]
    reconnect_first: Duration,
    #[serde(with = "seconds")]
    reconnect_longest: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            secret: None,
            app_name: None,
            port: 9000,
            addresses: BTreeMap::new(),
            max_frame_bytes: 128 << 20,
            max_links: 64,
            link_requests: 64,
            link_bytes: 256 << 20,
            pending_requests: 1024,
            link_heartbeat: Duration::from_secs(1),
            link_silence: Duration::from_secs(5),
            link_handshake_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(60),
            reconnect_first: Duration::from_millis(100),
            reconnect_longest: Duration::from_secs(5),
        }
    }
}

impl LiteFsConfig {
    /// Says whether nodes can work with these settings, each by itself and together. A configuration that serde has read is valid.
    ///
    /// # Errors
    ///
    /// The first setting that can't be what it is.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.0.validate()
    }

    /// What proves that a node belongs to the cluster. Without it nothing is forwarded.
    #[must_use]
    pub fn secret(&self) -> Option<&LiteFsSecret> {
        self.0.secret.as_ref()
    }

    /// Sets [`secret`](Self::secret).
    #[must_use]
    pub fn with_secret(mut self, secret: LiteFsSecret) -> Self {
        self.0.secret = Some(secret);
        self
    }

    /// The Fly.io app in whose private network the nodes are.
    #[must_use]
    pub fn app_name(&self) -> Option<&str> {
        self.0.app_name.as_deref()
    }

    /// Sets [`app_name`](Self::app_name).
    #[must_use]
    pub fn with_app_name(mut self, app_name: impl Into<String>) -> Self {
        self.0.app_name = Some(app_name.into());
        self
    }

    /// Sets the address of the node `id`, which [`address`](Self::address) then gives.
    #[must_use]
    pub fn with_address(mut self, id: impl Into<String>, address: SocketAddr) -> Self {
        self.0.addresses.insert(id.into(), address);
        self
    }

    /// Where the node `id`, as LiteFS names it in `.primary`, takes forwarded writes: host and port.
    ///
    /// That is the address set for it, or else `<id>.vm.<app_name>.internal`, or `<id>` if there is no app name; with the
    /// [`port`](Self::port) that is the same on all nodes.
    #[must_use]
    pub fn address(&self, id: &str) -> String {
        let port = self.0.port;
        match (self.0.addresses.get(id), &self.0.app_name) {
            (Some(address), _) => address.to_string(),
            (None, Some(app)) => format!("{id}.vm.{app}.internal:{port}"),
            (None, None) => match id.parse::<IpAddr>() {
                Ok(ip) => SocketAddr::new(ip, port).to_string(),
                Err(_) => format!("{id}:{port}"),
            },
        }
    }

    settings! {
        /// The port on which every node takes forwarded writes.
        port, with_port: u16;
        /// The largest forwarded request or answer, in bytes. More than `max_message_bytes`, or what clients may send can't be
        /// forwarded.
        max_frame_bytes, with_max_frame_bytes: usize;
        /// Connections from other nodes at a time.
        max_links, with_max_links: usize;
        /// Requests of one node that the primary works on at a time. While there are as many, it reads no more of them.
        link_requests, with_link_requests: usize;
        /// Bytes of requests that wait to be sent, and as much again of those that came and are worked on. One request is always
        /// let in.
        link_bytes, with_link_bytes: usize;
        /// Requests that a replica waits for at a time. Further ones wait for a place.
        pending_requests, with_pending_requests: usize;
        /// Time between two signs of life on a connection.
        link_heartbeat, with_link_heartbeat: Duration;
        /// A connection on which nothing comes for that long is lost.
        link_silence, with_link_silence: Duration;
        /// How long a node may take to connect and to prove that it knows the secret.
        link_handshake_timeout, with_link_handshake_timeout: Duration;
        /// How long the primary may work on a request, and a replica waits for the answer.
        request_timeout, with_request_timeout: Duration;
        /// Time before the second attempt to connect to the primary. It doubles with each further one.
        reconnect_first, with_reconnect_first: Duration;
        /// The longest time between two attempts to connect to the primary.
        reconnect_longest, with_reconnect_longest: Duration;
    }
}

impl Settings {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.port == 0 {
            return Err(ConfigError::new(
                "port",
                0,
                "other nodes have to know it: take the same number on all of them",
            ));
        }
        number("max_frame_bytes", self.max_frame_bytes, "bytes", 1 << 10..=LARGEST_FRAME)?;
        number("max_links", self.max_links, "connections", SOME)?;
        number("link_requests", self.link_requests, "requests", SOME)?;
        number("link_bytes", self.link_bytes, "bytes", SOME)?;
        number("pending_requests", self.pending_requests, "requests", SOME)?;
        time("link_heartbeat", self.link_heartbeat, TIMES)?;
        time("link_silence", self.link_silence, TIMES)?;
        if self.link_silence <= self.link_heartbeat {
            let advice = "take more than link_heartbeat, or every connection that has nothing to say is taken for lost";
            return Err(ConfigError::new("link_silence", self.link_silence.as_secs_f64(), advice));
        }
        time("link_handshake_timeout", self.link_handshake_timeout, TIMES)?;
        time("request_timeout", self.request_timeout, TIMES)?;
        time("reconnect_first", self.reconnect_first, TIMES)?;
        time("reconnect_longest", self.reconnect_longest, self.reconnect_first..=*TIMES.end())
    }
}

impl TryFrom<Settings> for LiteFsConfig {
    type Error = ConfigError;

    fn try_from(settings: Settings) -> Result<Self, ConfigError> {
        settings.validate().map(|()| Self(settings))
    }
}

impl From<LiteFsConfig> for Settings {
    fn from(config: LiteFsConfig) -> Self {
        config.0
    }
}

/// What all nodes of a cluster know and nobody else. It is never shown and never written.
#[derive(Clone, PartialEq, Eq)]
pub struct LiteFsSecret(Arc<str>);

impl LiteFsSecret {
    /// Takes a text of at least 16 bytes. It should be random.
    ///
    /// # Errors
    ///
    /// [`LiteFsSecretError`] if it is shorter.
    pub fn new(secret: &str) -> Result<Self, LiteFsSecretError> {
        if secret.len() < MIN_SECRET_BYTES {
            return Err(LiteFsSecretError(()));
        }
        Ok(Self(Arc::from(secret)))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for LiteFsSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LiteFsSecret(..)")
    }
}

impl<'de> Deserialize<'de> for LiteFsSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The secret is too short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the secret of the LiteFS nodes has fewer than {MIN_SECRET_BYTES} bytes: take a longer, random one")]
pub struct LiteFsSecretError(());

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "open sesame, please";

    #[test]
    fn a_node_is_found_by_its_id_or_in_the_app_or_where_it_was_said_to_be() {
        let config = LiteFsConfig::default();
        assert_eq!(config.address("node-a"), "node-a:9000");
        assert_eq!(config.address("fdaa::3"), "[fdaa::3]:9000");
        let config = config.with_app_name("notes").with_port(20202);
        assert_eq!(config.address("148e4d"), "148e4d.vm.notes.internal:20202");
        let config = config.with_address("148e4d", ([127, 0, 0, 1], 7).into());
        assert_eq!(config.address("148e4d"), "127.0.0.1:7");
    }

    #[test]
    fn the_secret_is_read_and_never_shown() {
        let text = format!(r#"{{"secret": "{SECRET}", "port": 7, "addresses": {{"a": "127.0.0.1:1"}}}}"#);
        let config: LiteFsConfig = serde_json::from_str(&text).unwrap();
        assert_eq!(config.secret(), Some(&LiteFsSecret::new(SECRET).unwrap()));
        assert_eq!((config.port(), config.app_name()), (7, None));
        assert_eq!(config.address("a"), "127.0.0.1:1");
        assert!(!format!("{config:?}").contains("sesame"));
        assert!(!serde_json::to_string(&config).unwrap().contains("sesame"));
    }

    #[test]
    fn a_short_secret_is_refused_without_being_shown() {
        let error = serde_json::from_str::<LiteFsConfig>(r#"{"secret": "sesame"}"#).unwrap_err().to_string();
        assert!(error.contains("fewer than 16 bytes") && !error.contains("sesame"), "{error}");
    }

    #[test]
    fn what_is_left_out_keeps_its_default() {
        let config = LiteFsConfig::default().with_link_silence(Duration::from_secs(7));
        assert_eq!(serde_json::from_str::<LiteFsConfig>(r#"{"link_silence": 7}"#).unwrap(), config);
        assert!(serde_json::from_str::<LiteFsConfig>(r#"{"silence": 7}"#).is_err());
    }

    #[test]
    fn what_no_cluster_can_work_with_is_refused_by_name() {
        LiteFsConfig::default().validate().unwrap();
        let zeros = ["port", "max_frame_bytes", "max_links", "link_requests", "link_bytes", "pending_requests"];
        let times = ["link_heartbeat", "link_silence", "link_handshake_timeout", "request_timeout"];
        let reconnects = ["reconnect_first", "reconnect_longest"];
        let times = times.iter().chain(&reconnects);
        let endless = times.clone().map(|name| (name, "1e300"));
        let together = [(&"link_silence", "1"), (&"reconnect_longest", "0.05")];
        for (name, value) in zeros.iter().chain(times).map(|name| (name, "0")).chain(endless).chain(together) {
            let text = format!(r#"{{"{name}": {value}}}"#);
            let error = serde_json::from_str::<LiteFsConfig>(&text).unwrap_err().to_string();
            assert!(error.starts_with(name) && error.contains("can't be"), "{text}: {error}");
        }
    }
}
