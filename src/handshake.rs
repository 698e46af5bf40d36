//! Is a request ours, and what does it ask for? Pure functions over its head.
//!
//! The client names the room, and a token if it has one, in the only request header that browsers let a page choose:
//! the WebSocket subprotocol. It offers one, made from the text `room=<room>` or `auth=<token>,room=<room>` in Latin-1,
//! by base64 without padding: `cm9vbT10ZXN0` is room `test`. The server must answer with the same subprotocol, or
//! browsers give up.
//!
//! We read it more leniently than `@vlcn.io/ws-server` 0.2.3: padding and the URL-safe letters are taken, and only the
//! first `=` of a pair separates, so tokens may hold `=`. As there, pairs come in any order, unknown ones are ignored,
//! and the last of two with one key counts.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::ext::Protocol;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::rejection::Rejection;

/// How a request asks for a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// `Upgrade: websocket` on an HTTP/1.1 `GET` (RFC 6455 §4.1).
    Http1,
    /// An extended `CONNECT` for the protocol `websocket` on HTTP/2 (RFC 8441 §4).
    Http2,
}

impl Transport {
    /// Recognises a request for a WebSocket, whatever its version or subprotocol. One that is not costs a comparison or
    /// two and one look at the headers.
    pub(crate) fn of<B>(request: &Request<B>) -> Option<Self> {
        // HTTP/1.0 is left out because there a server must ignore `Upgrade` (RFC 9110 §7.8).
        match (request.version(), request.method()) {
            (Version::HTTP_11, &Method::GET) => {
                let upgrade = has_token(request.headers(), UPGRADE, "websocket")
                    && has_token(request.headers(), CONNECTION, "upgrade");
                upgrade.then_some(Self::Http1)
            }
            (Version::HTTP_2, &Method::CONNECT) => {
                let protocol = request.extensions().get::<Protocol>()?;
                protocol.as_str().eq_ignore_ascii_case("websocket").then_some(Self::Http2)
            }
            _ => None,
        }
    }

    /// The refusal of a WebSocket that can't be had here. HTTP/2 has neither 426 nor the headers that belong to it
    /// (RFC 9113 §8.2.2).
    pub(crate) fn not_available(self, reason: impl Into<Cow<'static, str>>) -> Rejection {
        match self {
            Self::Http1 => Rejection::upgrade_required(reason),
            Self::Http2 => Rejection::new(StatusCode::NOT_IMPLEMENTED, reason),
        }
    }
}

/// A well-formed request for a room.
pub(crate) struct Handshake {
    /// The room's name as the client wrote it.
    pub(crate) room: String,
    /// The client's token, if it is not empty.
    pub(crate) token: Option<String>,
    /// The answer that lets the client in.
    pub(crate) accepted: Response<Bytes>,
}

impl Handshake {
    /// Reads the headers of a request that [`Transport::of`] recognised.
    ///
    /// # Errors
    ///
    /// 426, or 501 over HTTP/2, for another version of the WebSocket protocol, 400 for everything else.
    pub(crate) fn parse(transport: Transport, headers: &HeaderMap) -> Result<Self, Rejection> {
        if !matches!(Tokens::of(headers, SEC_WEBSOCKET_VERSION), Tokens::One(b"13")) {
            return Err(transport
                .not_available("use version 13 of the WebSocket protocol (RFC 6455)")
                .with_header(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")));
        }
        let mut accepted = match transport {
            Transport::Http1 => switching_protocols(headers)?,
            // 200 and nothing else: there is no key to sign (RFC 8441 §5).
            Transport::Http2 => Response::new(Bytes::new()),
        };
        let (subprotocol, offer) = subprotocol(headers)?;
        accepted.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
        Ok(Self { room: offer.room, token: offer.token, accepted })
    }
}

/// The 101 response of RFC 6455 §4.2.2, as yet without the subprotocol.
fn switching_protocols(headers: &HeaderMap) -> Result<Response<Bytes>, Rejection> {
    let Tokens::One(key) = Tokens::of(headers, SEC_WEBSOCKET_KEY) else {
        return Err(Rejection::bad_request("send one Sec-WebSocket-Key"));
    };
    if decode_base64(key).is_none_or(|nonce| nonce.len() != 16) {
        return Err(Rejection::bad_request("Sec-WebSocket-Key must be 16 bytes in base64"));
    }

    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = response.headers_mut();
    fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
    #[expect(clippy::expect_used, reason = "a digest in base64 is visible ASCII")]
    let accept = HeaderValue::try_from(derive_accept_key(key)).expect("base64 is a header value");
    fields.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

/// What the subprotocol says.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    room: String,
    token: Option<String>,
}

/// The one subprotocol offered, to be sent back byte for byte, and what it says.
fn subprotocol(headers: &HeaderMap) -> Result<(HeaderValue, Offer), Rejection> {
    const HOW: &str = "the base64, without padding, of `room=<room>` or `auth=<token>,room=<room>`";

    let bytes = match Tokens::of(headers, SEC_WEBSOCKET_PROTOCOL) {
        Tokens::One(bytes) => bytes,
        Tokens::None => {
            return Err(Rejection::bad_request(format!("say which room: send a Sec-WebSocket-Protocol, {HOW}")));
        }
        Tokens::Several => {
            return Err(Rejection::bad_request(format!("offer exactly one Sec-WebSocket-Protocol, {HOW}")));
        }
    };
    let undecodable = || Rejection::bad_request(format!("Sec-WebSocket-Protocol does not decode: it must be {HOW}"));
    let offer = Offer::parse(&decode_base64(bytes).ok_or_else(undecodable)?)
        .ok_or_else(|| Rejection::bad_request(format!("Sec-WebSocket-Protocol names no room: it must be {HOW}")))?;
    let mut echo = HeaderValue::from_bytes(bytes).map_err(|_invalid| undecodable())?;
    // It may hold the token: layers that log headers leave sensitive ones out.
    echo.set_sensitive(true);
    Ok((echo, offer))
}

impl Offer {
    /// `None` if no room is named. An empty name or token is none.
    fn parse(latin1: &[u8]) -> Option<Self> {
        let text: String = latin1.iter().copied().map(char::from).collect();
        let mut room = "";
        let mut token = "";
        for (key, value) in text.split(',').filter_map(|pair| pair.split_once('=')) {
            match key {
                "room" => room = value,
                "auth" => token = value,
                _ => {}
            }
        }
        let some = |value: &str| (!value.is_empty()).then(|| value.to_owned());
        Some(Self { room: some(room)?, token: some(token) })
    }
}

/// The standard alphabet with the URL-safe letters besides, padded or not, whatever the bits behind the last byte are.
fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    const FORGIVING: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );

    let standard: Vec<u8> = text
        .iter()
        .map(|letter| match letter {
            b'-' => b'+',
            b'_' => b'/',
            other => *other,
        })
        .collect();
    FORGIVING.decode(standard).ok()
}

/// What a comma-separated list header holds, over all its lines.
#[derive(Debug, PartialEq, Eq)]
enum Tokens<'a> {
    None,
    One(&'a [u8]),
    Several,
}

impl<'a> Tokens<'a> {
    fn of(headers: &'a HeaderMap, name: HeaderName) -> Self {
        let mut tokens = tokens(headers, name);
        match (tokens.next(), tokens.next()) {
            (None, _) => Self::None,
            (Some(only), None) => Self::One(only),
            (Some(_), Some(_)) => Self::Several,
        }
    }
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|candidate| candidate.eq_ignore_ascii_case(token.as_bytes()))
}

/// The elements of a list header (RFC 9110 §5.6.1). Empty ones are skipped, as recipients must.
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 6455 §1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn request(fields: &[(&'static str, &str)]) -> Request<()> {
        let mut request = Request::get("/sync").body(()).unwrap();
        for (name, value) in fields {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request.headers_mut().append(*name, value);
        }
        request
    }

    fn upgrade(subprotocols: &[&str]) -> Request<()> {
        let mut request = request(&[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
        ]);
        for subprotocol in subprotocols {
            let value = HeaderValue::from_bytes(subprotocol.as_bytes()).unwrap();
            request.headers_mut().append(SEC_WEBSOCKET_PROTOCOL, value);
        }
        request
    }

    fn parse(request: &Request<()>) -> Result<Handshake, Rejection> {
        Handshake::parse(Transport::of(request).unwrap(), request.headers())
    }

    fn offered(subprotocol: &str) -> (String, Option<String>) {
        let handshake = parse(&upgrade(&[subprotocol])).unwrap_or_else(|error| panic!("{subprotocol}: {error:?}"));
        (handshake.room, handshake.token)
    }

    fn refused(request: &Request<()>) -> Rejection {
        parse(request).err().unwrap()
    }

    #[test]
    fn an_upgrade_is_recognised_in_every_spelling_of_its_lists() {
        for (connection, upgrade) in [
            ("Upgrade", "websocket"),
            ("upgrade", "WebSocket"),
            ("keep-alive, Upgrade", "websocket"),
            ("keep-alive,\tupgrade ,", "h2c, websocket"),
        ] {
            let request = request(&[("connection", connection), ("upgrade", upgrade)]);
            assert_eq!(Transport::of(&request), Some(Transport::Http1), "{connection} / {upgrade}");
        }
        let two_lines = request(&[("connection", "keep-alive"), ("connection", "upgrade"), ("upgrade", "websocket")]);
        assert_eq!(Transport::of(&two_lines), Some(Transport::Http1));
    }

    #[test]
    fn words_that_only_contain_the_token_are_no_upgrade() {
        for fields in [
            &[][..],
            &[("upgrade", "websocket")],
            &[("connection", "upgrade")],
            &[("connection", "no-upgrade"), ("upgrade", "websocket")],
            &[("connection", "upgrades"), ("upgrade", "websocket")],
            &[("connection", "upgrade"), ("upgrade", "websockets")],
            &[("connection", "upgrade"), ("upgrade", "h2c")],
            &[("connection", "keep-alive upgrade"), ("upgrade", "websocket")],
        ] {
            assert_eq!(Transport::of(&request(fields)), None, "{fields:?}");
        }
    }

    #[test]
    fn other_methods_and_versions_are_no_upgrade() {
        let mut post = upgrade(&[]);
        *post.method_mut() = Method::POST;
        assert_eq!(Transport::of(&post), None);
        for version in [Version::HTTP_10, Version::HTTP_2] {
            let mut request = upgrade(&[]);
            *request.version_mut() = version;
            assert_eq!(Transport::of(&request), None, "{version:?}");
        }
    }

    fn extended_connect(protocol: &'static str) -> Request<()> {
        let mut request = Request::connect("https://localhost/sync").version(Version::HTTP_2).body(()).unwrap();
        request.extensions_mut().insert(Protocol::from_static(protocol));
        request.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("cm9vbT10ZXN0"));
        request
    }

    #[test]
    fn an_extended_connect_for_a_websocket_is_recognised_on_http_2_only() {
        for protocol in ["websocket", "WebSocket"] {
            assert_eq!(Transport::of(&extended_connect(protocol)), Some(Transport::Http2), "{protocol}");
        }
        assert_eq!(Transport::of(&extended_connect("connect-udp")), None);

        let mut tunnel = extended_connect("websocket");
        tunnel.extensions_mut().remove::<Protocol>();
        assert_eq!(Transport::of(&tunnel), None);
        let mut get = extended_connect("websocket");
        *get.method_mut() = Method::GET;
        assert_eq!(Transport::of(&get), None);
        let mut http1 = extended_connect("websocket");
        *http1.version_mut() = Version::HTTP_11;
        assert_eq!(Transport::of(&http1), None);
    }

    #[test]
    fn http_2_is_answered_200_with_the_subprotocol_and_needs_no_key() {
        let handshake = parse(&extended_connect("websocket")).unwrap();
        assert_eq!(handshake.room, "test");
        assert_eq!(handshake.accepted.status(), StatusCode::OK);
        let headers: Vec<_> = handshake.accepted.headers().iter().collect();
        assert_eq!(headers, [(&SEC_WEBSOCKET_PROTOCOL, &HeaderValue::from_static("cm9vbT10ZXN0"))]);
        assert!(handshake.accepted.body().is_empty());
    }

    #[test]
    fn http_2_is_refused_without_headers_that_it_does_not_have() {
        let mut request = extended_connect("websocket");
        request.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"));
        let response = refused(&request).into_response();
        assert_eq!(response.status(), StatusCode::NOT_IMPLEMENTED);
        assert_eq!(response.headers()[SEC_WEBSOCKET_VERSION], "13");
        assert!(!response.headers().contains_key(UPGRADE) && !response.headers().contains_key(CONNECTION));
    }

    #[test]
    fn the_acceptance_signs_the_key_and_echoes_the_subprotocol() {
        let response = parse(&upgrade(&["cm9vbT0+Pj4"])).unwrap().accepted;
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()[CONNECTION], "Upgrade");
        assert_eq!(response.headers()[UPGRADE], "websocket");
        // RFC 6455 §1.3.
        assert_eq!(response.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers()[SEC_WEBSOCKET_PROTOCOL], "cm9vbT0+Pj4");
        assert!(response.headers()[SEC_WEBSOCKET_PROTOCOL].is_sensitive());
        assert!(response.body().is_empty());
    }

    #[test]
    fn rooms_and_tokens_are_read_as_the_clients_write_them() {
        for (subprotocol, room, token) in [
            ("cm9vbT10ZXN0", "test", None),
            ("cm9vbT1teS1yb29t", "my-room", None),
            ("YXV0aD0xMjMscm9vbT10ZXN0", "test", Some("123")),
            ("YXV0aD10b2sscm9vbT1teS1yb29t", "my-room", Some("tok")),
            ("cm9vbT3p", "é", None),
            ("cm9vbT0+Pj4", ">>>", None),
            ("cm9vbT0-Pj4", ">>>", None),
            ("cm9vbT1hYmM/", "abc?", None),
            ("cm9vbT1hYmM_", "abc?", None),
            ("cm9vbT1h", "a", None),
            ("cm9vbT1hYg==", "ab", None),
            ("cm9vbT1hYg", "ab", None),
            ("cm9vbT1hYh", "ab", None),
        ] {
            assert_eq!(offered(subprotocol), (room.to_owned(), token.map(str::to_owned)), "{subprotocol}");
        }
    }

    #[test]
    fn pairs_come_in_any_order_and_the_last_of_a_key_counts() {
        for (text, room, token) in [
            ("room=r,auth=t", "r", Some("t")),
            ("room=a,room=b", "b", None),
            ("auth=,room=r", "r", None),
            ("v=2,room=r,flag", "r", None),
            ("auth=dG9r==,room=r", "r", Some("dG9r==")),
            ("room=a=b", "a=b", None),
        ] {
            let expected = Offer { room: room.to_owned(), token: token.map(str::to_owned) };
            assert_eq!(Offer::parse(text.as_bytes()), Some(expected), "{text}");
        }
        for text in ["", "room", "room=", "auth=t", "room=a,room=", "Room=a"] {
            assert_eq!(Offer::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn one_subprotocol_may_stand_among_empty_list_elements_only() {
        assert_eq!(parse(&upgrade(&["", " cm9vbT10ZXN0 ,"])).unwrap().room, "test");
        for several in [&["cm9vbT10ZXN0, cm9vbT10ZXN0"][..], &["cm9vbT10ZXN0", "cm9vbT10ZXN0"]] {
            let rejection = refused(&upgrade(several));
            assert_eq!(rejection.status(), StatusCode::BAD_REQUEST);
            assert!(rejection.reason().contains("exactly one"), "{}", rejection.reason());
        }
    }

    #[test]
    fn a_subprotocol_that_says_nothing_is_refused_with_what_to_send() {
        for (subprotocols, reason) in [
            (&[][..], "say which room"),
            (&[" , "], "say which room"),
            (&["cm9vb"], "does not decode"),
            (&["graphql-transport-ws!"], "does not decode"),
            (&["cm9vbT3é"], "does not decode"),
            (&["YXV0aD0xMjM"], "names no room"),
        ] {
            let rejection = refused(&upgrade(subprotocols));
            assert_eq!(rejection.status(), StatusCode::BAD_REQUEST);
            assert!(rejection.reason().contains(reason), "{subprotocols:?}: {}", rejection.reason());
            assert!(rejection.reason().contains("`room=<room>`"), "{}", rejection.reason());
        }
    }

    #[test]
    fn another_version_is_answered_with_ours() {
        for version in [None, Some("8"), Some("13, 8"), Some("013")] {
            let mut request = upgrade(&["cm9vbT10ZXN0"]);
            request.headers_mut().remove(SEC_WEBSOCKET_VERSION);
            if let Some(version) = version {
                request.headers_mut().insert(SEC_WEBSOCKET_VERSION, version.parse().unwrap());
            }
            let response = refused(&request).into_response();
            assert_eq!(response.status(), StatusCode::UPGRADE_REQUIRED, "{version:?}");
            assert_eq!(response.headers()[SEC_WEBSOCKET_VERSION], "13");
            assert_eq!(response.headers()[UPGRADE], "websocket");
        }
    }

    #[test]
    fn a_key_that_is_not_sixteen_bytes_is_refused() {
        for key in [None, Some(""), Some("c2hvcnQ="), Some("not base64, no"), Some("AAAAAAAAAAAAAAAAAAAAAAAA")] {
            let mut request = upgrade(&["cm9vbT10ZXN0"]);
            request.headers_mut().remove(SEC_WEBSOCKET_KEY);
            if let Some(key) = key {
                request.headers_mut().insert(SEC_WEBSOCKET_KEY, key.parse().unwrap());
            }
            let rejection = refused(&request);
            assert_eq!(rejection.status(), StatusCode::BAD_REQUEST, "{key:?}");
            assert!(rejection.reason().contains("Sec-WebSocket-Key"), "{}", rejection.reason());
        }
    }

    proptest! {
        #[test]
        fn what_a_client_encodes_is_what_we_read(
            room in "[\u{20}-\u{7e}\u{a0}-\u{ff}&&[^,]]{1,40}",
            token in proptest::option::of("[\u{20}-\u{7e}\u{a0}-\u{ff}&&[^,]]{1,40}"),
            padded: bool,
        ) {
            let mut text = token.iter().map(|token| format!("auth={token},")).collect::<String>();
            text.push_str(&format!("room={room}"));
            let latin1: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
            let mut subprotocol = base64::engine::general_purpose::STANDARD.encode(latin1);
            if !padded {
                subprotocol.truncate(subprotocol.trim_end_matches('=').len());
            }
            let handshake = parse(&upgrade(&[&subprotocol])).unwrap_or_else(|error| panic!("{error:?}"));
            prop_assert_eq!(&handshake.accepted.headers()[SEC_WEBSOCKET_PROTOCOL], &subprotocol);
            prop_assert_eq!((handshake.room, handshake.token), (room, token));
        }

        #[test]
        fn no_header_value_panics(value in proptest::collection::vec(0x20_u8..=0xff, 0..60)) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                for name in [SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION] {
                    let mut request = upgrade(&["cm9vbT10ZXN0"]);
                    request.headers_mut().insert(name, value.clone());
                    let _either = parse(&request);
                }
            }
        }
    }
}
