//! Both ends over loopback.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower_sqlite_sync_wire as wire;

use super::frame::{FrameReader, FrameWriter, Kind};
use super::{LinkError, PrimaryLink, Turn, handshake, serve};
use crate::litefs::position::TxId;
use crate::litefs::request::{Answer, Request};
use crate::litefs::{LiteFsConfig, LiteFsSecret};

const LONG: Duration = Duration::from_secs(60);

fn secret() -> LiteFsSecret {
    LiteFsSecret::new("the same for everybody").unwrap()
}

fn config() -> LiteFsConfig {
    LiteFsConfig::default()
        .with_reconnect_first(Duration::from_millis(5))
        .with_reconnect_longest(Duration::from_millis(20))
}

/// A request that its schema version tells from others.
fn numbered(number: i64) -> Request {
    Request::OpenRoom { room: "a".to_owned(), schema_name: "s".to_owned(), schema_version: number }
}

fn number(request: &Request) -> u64 {
    match request {
        Request::OpenRoom { schema_version, .. } => u64::try_from(*schema_version).unwrap(),
        Request::Apply { changes, .. } => changes.len() as u64,
    }
}

fn opened(number: u64) -> Answer {
    Answer::Opened { txid: TxId(number) }
}

async fn echo(request: Request) -> Answer {
    opened(number(&request))
}

/// A primary, until it is dropped.
struct Primary {
    address: SocketAddr,
    shutdown: CancellationToken,
    serving: AbortOnDropHandle<()>,
}

impl Primary {
    async fn start<F: Future<Output = Answer> + Send + 'static>(
        handler: impl Fn(Request) -> F + Send + Sync + 'static,
    ) -> Self {
        Self::with(([127, 0, 0, 1], 0).into(), config(), handler).await
    }

    async fn with<F: Future<Output = Answer> + Send + 'static>(
        address: SocketAddr,
        config: LiteFsConfig,
        handler: impl Fn(Request) -> F + Send + Sync + 'static,
    ) -> Self {
        Self::in_turns(address, config, move |request, _turn| handler(request)).await
    }

    async fn in_turns<F: Future<Output = Answer> + Send + 'static>(
        address: SocketAddr,
        config: LiteFsConfig,
        handler: impl Fn(Request, Turn) -> F + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, secret(), config, handler, shutdown.clone()));
        Self { address, shutdown, serving: AbortOnDropHandle::new(serving) }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.serving.await.unwrap();
    }

    /// A connection that has proven that it knows the secret.
    async fn connect(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        handshake::call(&mut stream, &secret(), LONG).await.unwrap();
        stream
    }
}

fn link_to(address: SocketAddr, config: LiteFsConfig) -> PrimaryLink {
    let link = PrimaryLink::new(secret(), config);
    link.retarget(Some(address.to_string()));
    link
}

async fn ask(link: &PrimaryLink, number: i64) -> Result<Answer, LinkError> {
    link.request(numbered(number), Instant::now() + LONG).await
}

/// The next frame that is no ping.
async fn next(reader: &mut FrameReader<impl tokio::io::AsyncRead + Unpin>) -> io::Result<(Kind, u64, Bytes)> {
    loop {
        let head = reader.head().await?;
        let body = reader.body(head).await?;
        if head.kind != Kind::Ping {
            return Ok((head.kind, head.id, body));
        }
    }
}

/// A primary that does nothing by itself: its next connection, with the handshake done.
async fn accept(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    handshake::answer(&mut stream, &secret(), LONG).await.unwrap();
    stream
}

async fn mute_primary() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_about_a_room_are_begun_in_the_order_in_which_they_were_sent() {
    const REQUESTS: i64 = 200;
    let begun = Arc::new(Mutex::new(Vec::new()));
    let record = begun.clone();
    let primary = Primary::in_turns(([127, 0, 0, 1], 0).into(), config(), move |request, turn| {
        let record = record.clone();
        async move {
            let number = number(&request);
            for _ in 0..number % 7 {
                tokio::task::yield_now().await;
            }
            record.lock().unwrap().push(number);
            drop(turn);
            opened(number)
        }
    })
    .await;
    let (read, write) = primary.connect().await.into_split();
    let mut writer = FrameWriter::new(write, LONG);
    let asking = async {
        for number in 0..REQUESTS {
            writer.frame(Kind::Request, number.unsigned_abs(), numbered(number).encode()).await.unwrap();
        }
    };
    let mut reader = FrameReader::new(read, LONG);
    let answered = async {
        for _ in 0..REQUESTS {
            assert_eq!(next(&mut reader).await.unwrap().0, Kind::Response);
        }
    };
    tokio::join!(asking, answered);
    assert_eq!(*begun.lock().unwrap(), (0..REQUESTS.unsigned_abs()).collect::<Vec<_>>());
}

#[tokio::test]
async fn answers_come_in_any_order_and_each_reaches_the_one_who_asked() {
    const REQUESTS: u64 = 50;
    // The last one is answered first.
    let turn = Arc::new(watch::Sender::new(REQUESTS - 1));
    let primary = Primary::start(move |request| {
        let turn = turn.clone();
        async move {
            let number = number(&request);
            turn.subscribe().wait_for(|turn| *turn == number).await.unwrap();
            turn.send_replace(number.wrapping_sub(1));
            opened(number)
        }
    })
    .await;
    let link = Arc::new(link_to(primary.address, config()));
    let mut asked = JoinSet::new();
    for number in 0..REQUESTS {
        let link = link.clone();
        asked.spawn(async move { (number, ask(&link, number.cast_signed()).await.unwrap()) });
    }
    for (number, answer) in asked.join_all().await {
        assert_eq!(answer, opened(number));
    }
}

#[tokio::test]
async fn a_request_of_40_mib_arrives_whole() {
    let primary = Primary::start(echo).await;
    let link = link_to(primary.address, config());
    let blob = vec![7; 1 << 20];
    let change = wire::Change {
        table: "t",
        pk: &[1, 9, 1],
        cid: "c",
        val: wire::Value::Blob(&blob),
        col_version: 1,
        db_version: 1,
        site: None,
        cl: 1,
        seq: 0,
    };
    let request = Request::Apply {
        room: "a".to_owned(),
        sender: wire::SiteId::from_bytes([1; 16]),
        since: wire::Position::START,
        schema_version: 1,
        changes: (0..40).map(|_| change).collect(),
        rights: Arc::default(),
        is_refused: false,
    };
    assert_eq!(link.request(request, Instant::now() + LONG).await.unwrap(), opened(40));
}

#[tokio::test]
async fn two_requests_in_one_segment_and_one_in_many_are_all_answered() {
    let primary = Primary::start(echo).await;
    let stream = primary.connect().await;
    stream.set_nodelay(true).unwrap();
    let (read, mut write) = stream.into_split();
    let frame = |id: u64| {
        let body = numbered(5).encode();
        let len = u32::try_from(body.len() + 9).unwrap().to_be_bytes();
        [&len[..], &[2], &id.to_be_bytes(), &body].concat()
    };
    write.write_all(&[frame(1), frame(2)].concat()).await.unwrap();
    for byte in frame(3) {
        write.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut reader = FrameReader::new(read, LONG);
    let mut answered = HashSet::new();
    for _ in 0..3 {
        let (kind, id, body) = next(&mut reader).await.unwrap();
        assert_eq!((kind, Answer::decode(body).unwrap()), (Kind::Response, opened(5)));
        answered.insert(id);
    }
    assert_eq!(answered, HashSet::from([1, 2, 3]));
}

#[tokio::test]
async fn what_waits_for_an_answer_is_lost_with_its_connection() {
    let (listener, address) = mute_primary().await;
    let link = link_to(address, config());
    let hang_up = async {
        let mut reader = FrameReader::new(accept(&listener).await, LONG);
        next(&mut reader).await.unwrap();
        next(&mut reader).await.unwrap();
    };
    let (first, second, ()) = tokio::join!(ask(&link, 1), ask(&link, 2), hang_up);
    assert!(matches!((first, second), (Err(LinkError::Lost), Err(LinkError::Lost))));
}

#[tokio::test]
async fn a_primary_that_says_nothing_is_given_up() {
    let (listener, address) = mute_primary().await;
    let link = link_to(address, config().with_link_silence(Duration::from_millis(200)));
    let (asked, _silent) = tokio::join!(ask(&link, 1), accept(&listener));
    assert!(matches!(asked, Err(LinkError::Lost)));
}

#[tokio::test]
async fn a_replica_that_says_nothing_is_hung_up_on() {
    let config = config().with_link_silence(Duration::from_millis(200));
    let primary = Primary::with(([127, 0, 0, 1], 0).into(), config, echo).await;
    let mut reader = FrameReader::new(primary.connect().await, LONG);
    assert!(next(&mut reader).await.is_err());
}

#[tokio::test]
async fn a_primary_that_comes_back_is_found_again() {
    let primary = Primary::start(echo).await;
    let address = primary.address;
    let link = link_to(address, config());
    assert_eq!(ask(&link, 1).await.unwrap(), opened(1));
    primary.stop().await;
    let restart = async {
        // The link has noticed once a request has failed.
        while link.request(numbered(2), Instant::now() + Duration::from_millis(50)).await.is_ok() {}
        Primary::with(address, config(), echo).await
    };
    let _primary = restart.await;
    loop {
        match ask(&link, 3).await {
            Ok(answer) => break assert_eq!(answer, opened(3)),
            Err(error) => assert!(matches!(error, LinkError::Lost | LinkError::Unreachable(_)), "{error}"),
        }
    }
}

#[tokio::test]
async fn a_node_with_another_secret_is_not_let_in() {
    let primary = Primary::start(|_| async { panic!("nobody may ask") }).await;
    let link = PrimaryLink::new(LiteFsSecret::new("something else, wrong").unwrap(), config());
    link.retarget(Some(primary.address.to_string()));
    let error = ask(&link, 1).await.unwrap_err();
    assert!(matches!(&error, LinkError::Unreachable(reason) if reason.contains("the same secret?")), "{error}");
}

#[tokio::test]
async fn garbage_on_the_port_is_hung_up_on_and_disturbs_nobody() {
    let primary = Primary::start(echo).await;
    let link = link_to(primary.address, config());
    let mut stranger = TcpStream::connect(primary.address).await.unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // The end may be a reset: what it has sent was not all read.
    assert_eq!(stranger.read(&mut [0; 8]).await.unwrap_or(0), 0);
    let mut node = primary.connect().await;
    node.write_all(&[0xff; 100]).await.unwrap();
    let mut reader = FrameReader::new(node, LONG);
    assert!(next(&mut reader).await.is_err(), "garbage after the handshake ends that connection");
    assert_eq!(ask(&link, 1).await.unwrap(), opened(1));
}

#[tokio::test]
async fn a_peer_that_never_proves_anything_is_hung_up_on() {
    let config = config().with_link_handshake_timeout(Duration::from_millis(100));
    let primary = Primary::with(([127, 0, 0, 1], 0).into(), config, echo).await;
    let mut stranger = TcpStream::connect(primary.address).await.unwrap();
    assert_eq!(stranger.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_request_that_is_never_answered_ends_at_its_deadline_and_holds_up_no_other() {
    let primary = Primary::start(|request| async move {
        if number(&request) == 0 { std::future::pending().await } else { echo(request).await }
    })
    .await;
    let link = link_to(primary.address, config());
    let never = link.request(numbered(0), Instant::now() + Duration::from_millis(100)).await;
    assert!(matches!(never, Err(LinkError::Deadline)));
    assert_eq!(ask(&link, 1).await.unwrap(), opened(1));
}

#[tokio::test]
async fn a_handler_that_takes_too_long_or_panics_fails_its_request_only() {
    let config = config().with_request_timeout(Duration::from_millis(100));
    let primary = Primary::with(([127, 0, 0, 1], 0).into(), config.clone(), |request| async move {
        match number(&request) {
            0 => std::future::pending().await,
            1 => panic!("a handler's fault"),
            _ => echo(request).await,
        }
    })
    .await;
    let link = link_to(primary.address, config);
    let (slow, panicked, fine) = tokio::join!(ask(&link, 0), ask(&link, 1), ask(&link, 2));
    assert!(matches!(slow, Ok(Answer::Failed { code: 1013, .. })));
    assert!(matches!(panicked, Ok(Answer::Failed { code: 1011, .. })));
    assert_eq!(fine.unwrap(), opened(2));
}

#[tokio::test]
async fn a_flood_is_read_no_faster_than_it_is_worked_on() {
    const REQUESTS: u64 = 2_000;
    let (working, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = most.clone();
    let primary = Primary::with(([127, 0, 0, 1], 0).into(), config().with_link_requests(4), move |request| {
        let (working, most) = (working.clone(), most.clone());
        async move {
            most.fetch_max(working.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            working.fetch_sub(1, Ordering::SeqCst);
            echo(request).await
        }
    })
    .await;
    let (read, write) = primary.connect().await.into_split();
    let flood = async {
        let mut writer = FrameWriter::new(write, LONG);
        for id in 0..REQUESTS {
            writer.frame(Kind::Request, id, numbered(1).encode()).await.unwrap();
        }
        writer
    };
    let answers = async {
        let mut reader = FrameReader::new(read, LONG);
        for _ in 0..REQUESTS {
            next(&mut reader).await.unwrap();
        }
    };
    tokio::join!(flood, answers);
    assert!((1..=4).contains(&seen.load(Ordering::SeqCst)));
}

#[tokio::test]
async fn what_is_too_large_fails_alone() {
    let small = config().with_max_frame_bytes(100);
    let primary = Primary::with(([127, 0, 0, 1], 0).into(), small.clone(), echo).await;
    let large = Request::OpenRoom { room: "a".repeat(200), schema_name: "s".to_owned(), schema_version: 1 };
    let link = link_to(primary.address, small);
    let refused = link.request(large.clone(), Instant::now() + LONG).await;
    assert!(matches!(refused, Err(LinkError::TooLarge { limit: 100, .. })));
    // One whose own limit is higher is told, and goes on.
    let link = link_to(primary.address, config());
    let refused = link.request(large, Instant::now() + LONG).await;
    assert!(matches!(refused, Err(LinkError::Refused { reason }) if reason.contains("limit of 100")));
    assert_eq!(ask(&link, 1).await.unwrap(), opened(1));
}

#[tokio::test]
async fn requests_follow_the_primary() {
    let (mute, old) = mute_primary().await;
    let new = Primary::start(echo).await;
    let link = PrimaryLink::new(secret(), config());
    assert!(matches!(ask(&link, 1).await, Err(LinkError::NoPrimary)));
    link.retarget(Some(old.to_string()));
    let promote = async {
        let mut reader = FrameReader::new(accept(&mute).await, LONG);
        next(&mut reader).await.unwrap();
        link.retarget(Some(new.address.to_string()));
    };
    let (lost, ()) = tokio::join!(ask(&link, 1), promote);
    assert!(matches!(lost, Err(LinkError::Lost)));
    assert_eq!(ask(&link, 2).await.unwrap(), opened(2));
}

#[tokio::test]
async fn a_shutdown_answers_what_is_in_work() {
    let (begun, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begin, end) = (begun.clone(), finish.clone());
    let primary = Primary::start(move |request| {
        let (begin, end) = (begin.clone(), end.clone());
        async move {
            begin.notify_one();
            end.notified().await;
            echo(request).await
        }
    })
    .await;
    let link = link_to(primary.address, config());
    let stop = async {
        begun.notified().await;
        primary.shutdown.cancel();
        finish.notify_one();
        primary.stop().await;
    };
    let (answer, ()) = tokio::join!(ask(&link, 1), stop);
    assert_eq!(answer.unwrap(), opened(1));
}
