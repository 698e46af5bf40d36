//! The HTTP answer to a request for a room that does not get one.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, Entry, RETRY_AFTER, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

/// A status, a reason for people to read, and the headers that the status calls for.
#[derive(Debug, Clone)]
pub(crate) struct Rejection {
    status: StatusCode,
    reason: Cow<'static, str>,
    // Not a `HeaderMap`: it would make every `Result` with a rejection in it 128 bytes large.
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Rejection {
    pub(crate) fn new(status: StatusCode, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason: reason.into(), headers: Vec::new() }
    }

    pub(crate) fn bad_request(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }

    /// 426, with the two headers that belong to it (RFC 9110 §15.5.22 and §7.8).
    pub(crate) fn upgrade_required(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UPGRADE_REQUIRED, reason)
            .with_header(CONNECTION, HeaderValue::from_static("Upgrade"))
            .with_header(UPGRADE, HeaderValue::from_static("websocket"))
    }

    /// 503, for a cause that passes by itself.
    pub(crate) fn unavailable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, reason).with_header(RETRY_AFTER, HeaderValue::from_static("5"))
    }

    /// 429, for one who may come back after a while.
    pub(crate) fn too_many(reason: impl Into<Cow<'static, str>>, wait: Duration) -> Self {
        // Whole seconds (RFC 9110 §10.2.3), and none too few.
        let seconds = HeaderValue::from(wait.as_secs().saturating_add(1));
        Self::new(StatusCode::TOO_MANY_REQUESTS, reason).with_header(RETRY_AFTER, seconds)
    }

    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }

    /// The response: the reason is its body, with a line break for those who read it in a terminal.
    pub(crate) fn into_response(self) -> Response<Bytes> {
        let mut text = self.reason.into_owned();
        text.push('\n');
        let mut response = Response::new(Bytes::from(text));
        *response.status_mut() = self.status;
        *response.headers_mut() = headers(self.headers);
        response
    }
}

fn headers(given: Vec<(HeaderName, HeaderValue)>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(given.len().saturating_add(1));
    for (name, value) in given {
        headers.append(name, value);
    }
    if let Entry::Vacant(content_type) = headers.entry(CONTENT_TYPE) {
        content_type.insert(HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::WWW_AUTHENTICATE;

    #[test]
    fn the_reason_is_a_plain_text_body() {
        let response = Rejection::bad_request("say which room").into_response();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(response.body(), "say which room\n");
    }

    #[test]
    fn headers_are_kept_also_several_of_a_name_and_another_content_type() {
        let response = Rejection::new(StatusCode::UNAUTHORIZED, "{}")
            .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Basic"))
            .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
            .with_header(RETRY_AFTER, HeaderValue::from_static("1"))
            .with_header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .into_response();
        let schemes: Vec<_> = response.headers().get_all(WWW_AUTHENTICATE).iter().collect();
        assert_eq!(schemes, ["Basic", "Bearer"]);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        let types: Vec<_> = response.headers().get_all(CONTENT_TYPE).iter().collect();
        assert_eq!(types, ["application/json"]);
    }
}
