//! Which web pages may open a session.
//!
//! A browser lets a page of any site open a WebSocket to any server, and sends the server's cookies along; there is nothing like the
//! preflights and the blocked answers of `fetch`. But it says in `Origin` where the page comes from, and pages can't change that
//! (RFC 6455 §10.2).

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Uri};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest name of a host (RFC 1035 §2.3.4).
const LONGEST_HOST: usize = 253;

/// The pages that may open a session. Clients that are no pages send no `Origin`, and are always let in as far as this goes.
///
/// In settings it is `"same-host"`, `"any"`, a list of origins, or a text with commas between them.
///
/// ```
/// use tower_sqlite_sync::{Origins, SyncConfig};
///
/// let origins: Origins = "https://app.example.com, https://localhost:5173".parse()?;
/// let config = SyncConfig::default().with_origins(origins);
/// # Ok::<(), tower_sqlite_sync::OriginError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Origins {
    /// Pages from the host that the request is for, whatever their scheme and port.
    ///
    /// Proxies that end TLS or listen on another port change those on the way, and to browsers all ports of a host have the same
    /// cookies, anyway. A proxy that changes the host itself makes all pages look foreign: have it pass on `Host`, or list the
    /// origins. List them too where pages come from another host than the server's.
    #[default]
    SameHost,
    /// Pages from anywhere. Only where no cookie, client certificate or place in a network decides about who gets in: tokens in
    /// `authToken` are safe, since other sites' pages don't have them.
    Any,
    /// Pages from these origins, and no others.
    Listed(Vec<Origin>),
}

impl Origins {
    /// Whether a request may open a session, as far as the page goes that sent it.
    ///
    /// # Errors
    ///
    /// Why not, and what to do about it.
    pub(crate) fn admit(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Cow<'static, str>> {
        let mut origins = headers.get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else { return Ok(()) };
        let origin = match origins.next() {
            None => origin.to_str().ok().and_then(|origin| origin.parse::<Origin>().ok()),
            Some(_) => None,
        };
        let server = || host(uri, headers);
        let admitted = match self {
            Self::Any => return Ok(()),
            Self::SameHost => origin
                .as_ref()
                .and_then(Origin::host)
                .is_some_and(|page| server().is_some_and(|server| server.host().eq_ignore_ascii_case(page.host()))),
            Self::Listed(origins) => origin.as_ref().is_some_and(|origin| origins.contains(origin)),
        };
        if admitted { Ok(()) } else { Err(self.refusal(origin.as_ref(), server().as_ref())) }
    }

    /// What a developer reads whose page is refused. Often it is one of `localhost` and the server the other, `127.0.0.1`.
    fn refusal(&self, origin: Option<&Origin>, server: Option<&Authority>) -> Cow<'static, str> {
        match (self, origin, server) {
            (Self::SameHost, Some(Origin(Some(page))), Some(server))
                if [page.authority.host(), server.host()].iter().all(|host| host.len() <= LONGEST_HOST) =>
            {
                let (from, to) = (page.authority.host(), server.host());
                format!(
                    "pages of the host {from} may not connect to the host {to}: use the same name for both, or list the page's \
                     origin in the server's setting `origins`"
                )
                .into()
            }
            (Self::Listed(_), Some(origin @ Origin(Some(page))), _)
                if page.scheme.len().saturating_add(page.authority.as_str().len()) <= LONGEST_HOST =>
            {
                format!("pages of {origin} may not connect: that origin isn't in the server's setting `origins`").into()
            }
            _ => "pages of this origin may not connect: the server's setting `origins` says which may".into(),
        }
    }
}

/// The host that a request is for. HTTP/2, and HTTP/1.1 through proxies, have it in the URI.
fn host(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    uri.authority().cloned().or_else(|| headers.get(HOST)?.to_str().ok()?.parse().ok())
}

impl FromStr for Origins {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "same-host" => Ok(Self::SameHost),
            "any" => Ok(Self::Any),
            list => list.split(',').map(|origin| origin.trim().parse()).collect::<Result<_, _>>().map(Self::Listed),
        }
    }
}

/// Where a page comes from: scheme, host and port, as browsers send it in `Origin`; or `null`, as they say of pages that come from
/// nowhere, such as files and sandboxed frames.
///
/// ```
/// use tower_sqlite_sync::Origin;
///
/// let origin: Origin = "https://App.example.com:443".parse()?;
/// assert_eq!(origin.to_string(), "https://app.example.com");
/// # Ok::<(), tower_sqlite_sync::OriginError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin(Option<Page>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Page {
    scheme: String,
    /// Without the scheme's own port.
    authority: Authority,
}

impl Origin {
    fn host(&self) -> Option<&Authority> {
        self.0.as_ref().map(|page| &page.authority)
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "null" {
            return Ok(Self(None));
        }
        let page = || {
            let text = text.to_ascii_lowercase();
            let (scheme, rest) = text.split_once("://")?;
            let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
            let authority: Authority = rest.parse().ok()?;
            if !scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                || !scheme.bytes().all(is_scheme)
                || authority.host().is_empty()
                || rest.contains('@')
                || rest.ends_with(':')
            {
                return None;
            }
            let own_port = match scheme {
                "http" => Some(80),
                "https" => Some(443),
                _ => None,
            };
            let authority = match authority.port_u16() {
                port if port.is_some() && port == own_port => authority.host().parse().ok()?,
                _ => authority,
            };
            Some(Page { scheme: scheme.to_owned(), authority })
        };
        page().map(|page| Self(Some(page))).ok_or_else(|| OriginError { origin: text.to_owned() })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(Page { scheme, authority }) => write!(f, "{scheme}://{authority}"),
            None => f.write_str("null"),
        }
    }
}

/// The text is not an origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin:?} is not an origin: write it as https://example.com or http://localhost:5173, without a path")]
pub struct OriginError {
    origin: String,
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameHost => f.write_str("same-host"),
            Self::Any => f.write_str("any"),
            Self::Listed(origins) => {
                let origins: Vec<String> = origins.iter().map(Origin::to_string).collect();
                f.write_str(&origins.join(","))
            }
        }
    }
}

impl Serialize for Origins {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Origins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "`same-host`, `any`, or origins such as https://example.com")]
        enum Written {
            Text(String),
            List(Vec<String>),
        }
        let origins = match Written::deserialize(deserializer)? {
            Written::Text(text) => text.parse(),
            Written::List(list) => list.iter().map(|origin| origin.parse()).collect::<Result<_, _>>().map(Self::Listed),
        };
        origins.map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn admits(origins: &Origins, uri: &str, fields: &[(HeaderName, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        origins.admit(&uri.parse().unwrap(), &headers).is_ok()
    }

    #[test]
    fn pages_of_the_same_host_are_let_in_whatever_proxies_make_of_scheme_and_port() {
        let same = |origin: &str, host: &str| admits(&Origins::SameHost, "/sync", &[(ORIGIN, origin), (HOST, host)]);
        for (origin, host) in [
            ("https://app.example", "app.example"),
            ("https://App.Example", "app.example:8080"),
            ("http://localhost:5173", "localhost:8080"),
            ("http://[::1]:5173", "[::1]:8080"),
        ] {
            assert!(same(origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("https://evil.example", "app.example"),
            ("https://app.example.evil.example", "app.example"),
            ("https://evilapp.example", "app.example"),
            ("https://app.example@evil.example", "app.example"),
            ("https://app.example/@evil", "app.example"),
            ("null", "app.example"),
            ("", "app.example"),
            ("app.example", "app.example"),
            ("https://", ""),
            ("null", "null"),
            ("https://\u{e9}", "\u{e9}"),
        ] {
            assert!(!same(origin, host), "{origin} {host}");
        }
    }

    #[test]
    fn a_page_of_another_host_is_told_which_both_are() {
        let refusal = |origins: &Origins, origin: &str| {
            let headers =
                [(ORIGIN, origin), (HOST, "127.0.0.1:8080")].map(|(name, value)| (name, value.parse().unwrap()));
            origins.admit(&"/sync".parse().unwrap(), &HeaderMap::from_iter(headers)).unwrap_err()
        };
        let told = refusal(&Origins::SameHost, "http://localhost:5173");
        assert!(told.contains("host localhost may not connect to the host 127.0.0.1"), "{told}");
        let listed = || Origins::Listed(Vec::new());
        let told = refusal(&listed(), "http://localhost:5173");
        assert!(told.starts_with("pages of http://localhost:5173 may not connect: that origin isn't in"), "{told}");
        for (origins, origin) in [
            (Origins::SameHost, "null".to_owned()),
            (Origins::SameHost, format!("http://{}", "a".repeat(LONGEST_HOST + 1))),
            (listed(), "null".to_owned()),
            (listed(), format!("{}://a", "a".repeat(LONGEST_HOST))),
        ] {
            let told = refusal(&origins, &origin);
            assert!(told.starts_with("pages of this origin may not connect"), "{told}");
        }
    }

    #[test]
    fn the_host_is_in_the_uri_if_it_is_there() {
        let at = |uri: &str, fields: &[(HeaderName, &str)]| admits(&Origins::SameHost, uri, fields);
        let origin = (ORIGIN, "https://app.example");
        assert!(at("https://app.example/sync", std::slice::from_ref(&origin)));
        assert!(!at("https://app.example/sync", &[(ORIGIN, "https://evil.example"), (HOST, "evil.example")]));
        assert!(!at("/sync", &[origin]), "without a host nothing is the same");
    }

    #[test]
    fn who_says_nothing_is_no_page_and_who_says_it_twice_is_none_that_we_know() {
        for origins in [Origins::SameHost, Origins::Listed(Vec::new())] {
            assert!(admits(&origins, "/sync", &[(HOST, "app.example")]));
        }
        let twice = [(ORIGIN, "https://app.example"), (ORIGIN, "https://app.example"), (HOST, "app.example")];
        assert!(!admits(&Origins::SameHost, "/sync", &twice));
        assert!(!admits(&"https://app.example".parse().unwrap(), "/sync", &twice));
        assert!(admits(&Origins::Any, "/sync", &twice));
    }

    #[test]
    fn listed_origins_are_compared_whole() {
        let listed: Origins = "https://app.example,http://localhost:5173,null".parse().unwrap();
        let admitted = |origin: &str| admits(&listed, "/sync", &[(ORIGIN, origin), (HOST, "api.example")]);
        for origin in ["https://app.example", "https://app.example:443", "http://localhost:5173", "null"] {
            assert!(admitted(origin), "{origin}");
        }
        for origin in ["http://app.example", "https://app.example:8443", "http://localhost", "https://api.example"] {
            assert!(!admitted(origin), "{origin}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused_with_what_one_looks_like() {
        for text in
            ["", "app.example", "https://app.example/", "https://a@b", "://a", "https://", "https://a:", "1:// a"]
        {
            let error = text.parse::<Origin>().unwrap_err();
            assert!(error.to_string().contains("https://example.com"), "{text}");
        }
        assert!("https://a,".parse::<Origins>().is_err());
    }

    #[test]
    fn settings_take_a_text_or_a_list() {
        let read = |json: &str| serde_json::from_str::<Origins>(json).map_err(|error| error.to_string());
        assert_eq!(read(r#""any""#), Ok(Origins::Any));
        assert_eq!(read(r#""same-host""#), Ok(Origins::SameHost));
        let both = read(r#"["https://a", "https://b"]"#).unwrap();
        assert_eq!(read(r#""https://a, https://b""#).as_ref(), Ok(&both));
        assert_eq!(read(&serde_json::to_string(&both).unwrap()), Ok(both));
        assert!(read(r#""everything""#).unwrap_err().contains("not an origin"));
        assert!(read("7").unwrap_err().contains("same-host"));
    }
}
