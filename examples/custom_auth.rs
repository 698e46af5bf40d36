//! Two ways to log in, each with a hook of its own, to the same rooms: a JSON Web Token for applications, a session cookie for pages.
//!
//! `cargo run --example custom_auth`, or with another address than 127.0.0.1:8080 as its argument. Who may do what:
//!
//! - rooms whose name starts with a user's and a dash, such as `ada-todos`, are that user's alone;
//! - in rooms whose name starts with `public-`, users write and everybody else, guests, may look.
//!
//! Who was let in stays until the token expires or the user logs out: then all connections of the user are closed. Who still has a
//! token, or another session, comes back with it.

use std::collections::HashMap;
use std::error::Error;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Form, State};
use axum::routing::{any, get, post};
use axum::{Router, response::AppendHeaders};
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, StatusCode};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tower_sqlite_sync::{
    AuthRequest, Authorize, ConnectionFilter, Denied, Grant, RoomName, SyncConfig, SyncHandle, SyncLayer,
};

/// How long a token is good for a login.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let tokens = Tokens::new();
    let sessions = Sessions::default();

    // Clones of a layer share the rooms, and each may have its own hook. Inside `nest`, a layer needs a route at its path.
    let sync = SyncLayer::new(SyncConfig::default());
    let rooms = sync.handle();
    let door = || Router::new().route("/sync", any(async || (StatusCode::UPGRADE_REQUIRED, "this is for WebSockets")));
    let app = Router::new()
        .route("/login", post(log_in))
        .route("/logout", post(log_out))
        .route("/token", get(token))
        .nest("/api", door().layer(sync.clone().authorize(tokens.clone())))
        .nest("/web", door().layer(sync.authorize(sessions.clone())))
        .with_state(Accounts { tokens, sessions, rooms: rooms.clone() });

    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|error| format!("can't listen on {address}: {error}; give another address as the argument"))?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            tokio::signal::ctrl_c().await.ok();
            rooms.shutdown().await;
        })
        .await?;
    Ok(())
}

/// The rule, whichever way a user came. Nobody, `None`, is a guest.
fn grant(user: Option<&str>, room: &RoomName) -> Result<Grant, Denied> {
    let owner = room.as_str().split_once('-').map(|(owner, _rest)| owner);
    match (owner, user) {
        // With an identity, a device's copy of the room is one user's, and `log_out` finds the connection.
        (Some("public"), Some(user)) => Ok(Grant::read_write().with_identity(user)),
        (Some("public"), None) => Ok(Grant::read_only()),
        (owner, Some(user)) if owner == Some(user) => Ok(Grant::read_write().with_identity(user)),
        (_, Some(_)) => Err(Denied::forbidden("this room is somebody else's")),
        (_, None) => Err(Denied::unauthorized("log in first")),
    }
}

/// The first hook, for applications: the client's `authToken` is a JSON Web Token.
#[derive(Clone)]
struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
}

/// What a token says of its bearer.
#[derive(Serialize, Deserialize)]
struct Claims {
    /// The user's name.
    sub: String,
    /// When it expires, in seconds since 1970.
    exp: u64,
}

impl Tokens {
    /// Signs with a key of this process: tokens end with it. One that is to live longer belongs in the server's configuration.
    fn new() -> Self {
        let key = random();
        Self { encoding: EncodingKey::from_secret(&key), decoding: DecodingKey::from_secret(&key) }
    }

    fn issue(&self, user: &str) -> Result<String, jsonwebtoken::errors::Error> {
        let expires = SystemTime::now() + TOKEN_LIFE;
        let exp = expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        encode(&Header::new(Algorithm::HS256), &Claims { sub: user.to_owned(), exp }, &self.encoding)
    }
}

impl Authorize for Tokens {
    async fn authorize(&self, request: AuthRequest) -> Result<Grant, Denied> {
        let Some(token) = request.token() else {
            return grant(None, request.room());
        };
        // The algorithm is ours to choose, never the token's. Expired tokens are refused too.
        let claims = decode::<Claims>(token, &self.decoding, &Validation::new(Algorithm::HS256))
            .map_err(|_why| Denied::unauthorized("the token is not ours or has expired: get another at /token"))?
            .claims;
        Ok(grant(Some(&claims.sub), request.room())?.with_expiry(UNIX_EPOCH + Duration::from_secs(claims.exp)))
    }
}

/// The second hook, for pages: browsers send the session's cookie along.
#[derive(Clone, Default)]
struct Sessions(Arc<Mutex<HashMap<String, String>>>);

impl Sessions {
    fn open(&self, user: String) -> String {
        let id: String = random().iter().map(|byte| format!("{byte:02x}")).collect();
        self.locked().insert(id.clone(), user);
        id
    }

    fn user(&self, headers: &HeaderMap) -> Option<String> {
        self.locked().get(session_id(headers)?).cloned()
    }

    /// The user whose session it was.
    fn close(&self, headers: &HeaderMap) -> Option<String> {
        self.locked().remove(session_id(headers)?)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Authorize for Sessions {
    async fn authorize(&self, request: AuthRequest) -> Result<Grant, Denied> {
        // Browsers send cookies also when a page of another site opens the WebSocket. By `SyncConfig::origins`, such pages are
        // refused before they come here.
        grant(self.user(request.headers()).as_deref(), request.room())
    }
}

fn session_id(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    cookies.flat_map(|line| line.split(';')).find_map(|cookie| cookie.trim().strip_prefix("session="))
}

/// What the pages need.
#[derive(Clone)]
struct Accounts {
    tokens: Tokens,
    sessions: Sessions,
    rooms: SyncHandle,
}

#[derive(Deserialize)]
struct Login {
    name: String,
    password: String,
}

/// Who has an account. A real server has hashes of passwords, in a database.
const USERS: [(&str, &str); 2] = [("ada", "lovelace"), ("grace", "hopper")];

async fn log_in(
    State(accounts): State<Accounts>,
    Form(login): Form<Login>,
) -> Result<AppendHeaders<[(http::HeaderName, String); 1]>, StatusCode> {
    if !USERS.contains(&(&login.name, &login.password)) {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let id = accounts.sessions.open(login.name);
    // Over TLS, add `Secure`.
    Ok(AppendHeaders([(SET_COOKIE, format!("session={id}; HttpOnly; SameSite=Strict; Path=/"))]))
}

/// In this order: whoever comes back is asked for the session that is closed.
async fn log_out(State(accounts): State<Accounts>, headers: HeaderMap) {
    if let Some(user) = accounts.sessions.close(&headers) {
        accounts.rooms.disconnect(&ConnectionFilter::default().identity(user), 1008, "logged out");
    }
}

/// A token for an application of the user who is logged in.
async fn token(State(accounts): State<Accounts>, headers: HeaderMap) -> Result<String, StatusCode> {
    let user = accounts.sessions.user(&headers).ok_or(StatusCode::UNAUTHORIZED)?;
    accounts.tokens.issue(&user).map_err(|error| {
        tracing::error!(%error, "no token");
        StatusCode::INTERNAL_SERVER_ERROR
    })
}

/// Bytes that nobody can guess.
fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    #[expect(clippy::expect_used, reason = "without randomness nobody can be let in")]
    getrandom::fill(&mut bytes).expect("the system has randomness");
    bytes
}
