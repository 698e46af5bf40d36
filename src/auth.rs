//! Who may enter a room, and with which rights: the application's hook, what it sees and what it answers.

use std::borrow::Cow;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};

use crate::grant::Grant;
use crate::rejection::Rejection;
use crate::room::RoomName;

/// Decides whether a request may enter a room. Given to [`SyncLayer::authorize`](crate::SyncLayer::authorize).
///
/// Asynchronous closures from an [`AuthRequest`] implement it. The hook runs before the WebSocket exists, once a
/// connection, after the request's form and its room name were checked; so a refusal is an HTTP response. A panic in it
/// is answered with 500 and ends that request only (unless the program is built with `panic = "abort"`). If it takes
/// longer than [`SyncConfig::upgrade_timeout`](crate::SyncConfig::upgrade_timeout), it is dropped and the answer is 503.
///
/// ```
/// use tower_sqlite_sync::{AuthRequest, Denied, Grant, SyncConfig, SyncLayer};
///
/// let layer = SyncLayer::new(SyncConfig::default()).authorize(|request: AuthRequest| async move {
///     match request.token() {
///         Some("writer") => Ok(Grant::read_write()),
///         _ if request.room().as_str() == "lobby" => Ok(Grant::read_only()),
///         _ => Err(Denied::unauthorized("log in, and put the token into the client's `authToken`")),
///     }
/// });
/// ```
///
/// A type of its own is for hooks with state that are easier to name:
///
/// ```
/// use std::collections::HashMap;
/// use tower_sqlite_sync::{AuthRequest, Authorize, Denied, Grant};
///
/// struct Members(HashMap<String, Grant>);
///
/// impl Authorize for Members {
///     async fn authorize(&self, request: AuthRequest) -> Result<Grant, Denied> {
///         let token = request.token().ok_or_else(|| Denied::unauthorized("a token is needed"))?;
///         self.0.get(token).cloned().ok_or_else(|| Denied::forbidden("this token opens no room"))
///     }
/// }
/// ```
pub trait Authorize: Send + Sync + 'static {
    /// Answers one request with rights or with a refusal.
    fn authorize(&self, request: AuthRequest) -> impl Future<Output = Result<Grant, Denied>> + Send;
}

impl<F, Fut> Authorize for F
where
    F: Fn(AuthRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Grant, Denied>> + Send,
{
    fn authorize(&self, request: AuthRequest) -> impl Future<Output = Result<Grant, Denied>> + Send {
        self(request)
    }
}

/// What the hook knows of a request: the room and the token it names, and the HTTP request that brought them.
///
/// Its `Debug` form leaves out all that may be secret: the token, the query, headers and extensions.
pub struct AuthRequest {
    room: RoomName,
    token: Option<String>,
    uri: Uri,
    headers: HeaderMap,
    extensions: Extensions,
}

impl AuthRequest {
    /// Puts a request together from the head of an HTTP request; for tests of a hook.
    #[must_use]
    pub fn new(room: RoomName, token: Option<String>, head: Parts) -> Self {
        Self { room, token, uri: head.uri, headers: head.headers, extensions: head.extensions }
    }

    /// The room that the client wants to enter.
    #[must_use]
    pub fn room(&self) -> &RoomName {
        &self.room
    }

    /// The token that the client was configured with (`authToken` in vlcn's clients), if it is not empty.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The path of the request. Inside axum's `nest`, what is left of it; axum's `OriginalUri` among the
    /// [`extensions`](Self::extensions) has the whole.
    #[must_use]
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// The URI of the request, with its query.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The headers of the request. Browsers send cookies and `Origin` here, but let no page add a header.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// What the server and outer layers attached to the request, such as axum's `ConnectInfo` or a session.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

impl fmt::Debug for AuthRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthRequest").field("room", &self.room).field("path", &self.path()).finish_non_exhaustive()
    }
}

/// The hook's refusal, which becomes the HTTP response: a status, and a reason as its plain-text body.
///
/// The reason is logged and shown to whoever asks, so it must hold no secret. Browsers hide both from the page; a
/// client there only sees that the connection failed.
///
/// ```
/// use http::{HeaderValue, StatusCode, header::RETRY_AFTER};
/// use tower_sqlite_sync::Denied;
///
/// let denied = Denied::new(StatusCode::TOO_MANY_REQUESTS, "try again in a minute")
///     .with_header(RETRY_AFTER, HeaderValue::from_static("60"));
/// assert_eq!(denied.to_string(), "429 Too Many Requests: try again in a minute");
/// ```
#[derive(Clone)]
pub struct Denied(Rejection);

impl Denied {
    /// 401: the client has not said, or not proven, who it is.
    #[must_use]
    pub fn unauthorized(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, reason)
    }

    /// 403: the client is known, and may not enter this room.
    #[must_use]
    pub fn forbidden(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, reason)
    }

    /// Any refusal with a status from 300 up. A lower one would tell the client that it was let in; 403 is sent instead.
    #[must_use]
    pub fn new(status: StatusCode, reason: impl Into<Cow<'static, str>>) -> Self {
        let status = if status < StatusCode::MULTIPLE_CHOICES { StatusCode::FORBIDDEN } else { status };
        Self(Rejection::new(status, reason))
    }

    /// Adds a header to the response. Headers of one name add up, except that a `Content-Type` replaces plain text.
    #[must_use]
    pub fn with_header(self, name: HeaderName, value: HeaderValue) -> Self {
        Self(self.0.with_header(name, value))
    }

    /// The status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status()
    }

    /// The body of the response, but for its line break.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.0.reason()
    }

    pub(crate) fn into_rejection(self) -> Rejection {
        self.0
    }
}

impl fmt::Debug for Denied {
    /// Leaves out the headers: they may set cookies.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Denied").field("status", &self.status()).field("reason", &self.reason()).finish_non_exhaustive()
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status(), self.reason())
    }
}

impl std::error::Error for Denied {}

/// The hook as the layer keeps it: its type forgotten. Without one, everybody may do everything.
#[derive(Clone, Default)]
pub(crate) struct Hook(Option<Arc<dyn DynAuthorize>>);

impl Hook {
    pub(crate) fn new(hook: impl Authorize) -> Self {
        Self(Some(Arc::new(hook)))
    }

    /// Asks the hook.
    ///
    /// # Errors
    ///
    /// [`Panicked`] if the hook did, in its synchronous or its asynchronous part.
    pub(crate) async fn decide(&self, request: AuthRequest) -> Result<Result<Grant, Denied>, Panicked> {
        let Some(hook) = &self.0 else {
            return Ok(Ok(Grant::read_write()));
        };
        // Whatever state a panic leaves behind is behind the hook's own `&self`, so it guards it itself; ours is
        // dropped here.
        AssertUnwindSafe(async { hook.authorize_boxed(request).await })
            .catch_unwind()
            .await
            .map_err(|_payload| Panicked)
    }
}

/// The hook panicked. The payload is left out: it may quote a token, and the panic hook has reported it.
#[derive(Debug)]
pub(crate) struct Panicked;

/// [`Authorize`] with its future boxed.
trait DynAuthorize: Send + Sync {
    fn authorize_boxed<'a>(
        &'a self,
        request: AuthRequest,
    ) -> Pin<Box<dyn Future<Output = Result<Grant, Denied>> + Send + 'a>>;
}

impl<T: Authorize> DynAuthorize for T {
    fn authorize_boxed<'a>(
        &'a self,
        request: AuthRequest,
    ) -> Pin<Box<dyn Future<Output = Result<Grant, Denied>> + Send + 'a>> {
        Box::pin(self.authorize(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::Access;
    use http::Request;

    fn request(token: Option<&str>) -> AuthRequest {
        let (head, ()) = Request::get("/sync?key=s3cret").header("cookie", "s3cret").body(()).unwrap().into_parts();
        AuthRequest::new(RoomName::parse("lobby").unwrap(), token.map(str::to_owned), head)
    }

    #[tokio::test]
    async fn without_a_hook_everybody_may_read_and_write() {
        let grant = Hook::default().decide(request(None)).await.unwrap().unwrap();
        assert_eq!(grant.access(), Access::ReadWrite);
    }

    #[tokio::test]
    async fn a_closure_is_a_hook() {
        let hook = Hook::new(|request: AuthRequest| async move {
            match request.token() {
                Some("reader") => Ok(Grant::read_only()),
                _ => Err(Denied::forbidden("no")),
            }
        });
        assert_eq!(hook.decide(request(Some("reader"))).await.unwrap().unwrap(), Grant::read_only());
        assert_eq!(hook.decide(request(None)).await.unwrap().unwrap_err().status(), StatusCode::FORBIDDEN);
    }

    #[tokio::test]
    async fn a_hook_may_borrow_from_itself_while_it_waits() {
        struct Password(String);
        impl Authorize for Password {
            async fn authorize(&self, request: AuthRequest) -> Result<Grant, Denied> {
                tokio::task::yield_now().await;
                if request.token() == Some(&self.0) {
                    Ok(Grant::read_write())
                } else {
                    Err(Denied::unauthorized("wrong password"))
                }
            }
        }
        let hook = Hook::new(Password("open".to_owned()));
        assert!(hook.decide(request(Some("open"))).await.unwrap().is_ok());
        assert!(hook.decide(request(Some("shut"))).await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_panic_is_caught_before_and_after_the_first_await() {
        async fn late(_request: AuthRequest) -> Result<Grant, Denied> {
            tokio::task::yield_now().await;
            panic!("late")
        }
        fn early(_request: AuthRequest) -> std::future::Ready<Result<Grant, Denied>> {
            panic!("early")
        }
        assert!(Hook::new(late).decide(request(None)).await.is_err());
        assert!(Hook::new(early).decide(request(None)).await.is_err());
    }

    #[test]
    fn a_refusal_is_never_a_success() {
        for lets_in in [StatusCode::SWITCHING_PROTOCOLS, StatusCode::OK] {
            assert_eq!(Denied::new(lets_in, "").status(), StatusCode::FORBIDDEN);
        }
        assert_eq!(Denied::new(StatusCode::FOUND, "").status(), StatusCode::FOUND);
        assert_eq!(Denied::new(StatusCode::IM_A_TEAPOT, "").status(), StatusCode::IM_A_TEAPOT);
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let shown = format!("{:?}", request(Some("s3cret")));
        assert!(shown.contains("lobby") && shown.contains("/sync"), "{shown}");
        assert!(!shown.contains("s3cret"), "{shown}");

        let denied = Denied::forbidden("no").with_header(http::header::SET_COOKIE, HeaderValue::from_static("s3cret"));
        assert!(!format!("{denied:?}").contains("s3cret"));
    }
}
