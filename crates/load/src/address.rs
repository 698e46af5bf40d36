//! Where a server is.

use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// A `ws://` URL, looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// As the `Host` header says it.
    pub(crate) host: String,
    pub(crate) socket: SocketAddr,
    /// Path and query.
    pub(crate) path: String,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let rest = url.strip_prefix("ws://").ok_or("a URL starts with ws:// here; there is no TLS")?;
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let host = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        let mut found = host.to_socket_addrs().map_err(|error| format!("{host}: {error}"))?;
        let socket = found.next().ok_or_else(|| format!("{host} has no address"))?;
        Ok(Self { host: authority.to_owned(), socket, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_host_port_and_path() {
        let parsed = |url: &str| url.parse::<Address>().map(|it| (it.host, it.socket.to_string(), it.path));
        let of = |host: &str, socket: &str, path: &str| Ok((host.to_owned(), socket.to_owned(), path.to_owned()));
        assert_eq!(parsed("ws://127.0.0.1:8080/sync"), of("127.0.0.1:8080", "127.0.0.1:8080", "/sync"));
        assert_eq!(parsed("ws://127.0.0.1"), of("127.0.0.1", "127.0.0.1:80", "/"));
        assert_eq!(parsed("ws://[::1]:9/a/b?c=d"), of("[::1]:9", "[::1]:9", "/a/b?c=d"));
        assert_eq!(parsed("ws://127.0.0.1:1?x"), of("127.0.0.1:1", "127.0.0.1:1", "/?x"));
        for wrong in ["http://127.0.0.1/", "127.0.0.1:80", "ws://", "wss://127.0.0.1/sync"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
