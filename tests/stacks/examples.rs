//! The examples run, and do what the README says of them.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower_sqlite_sync_wire::{Change, Value, schema_version};

use crate::fixture::{Client, ClientOptions, SCHEMA, cell, cells, soon, until};
use crate::http2::Browser;
use crate::process::Example;
use crate::session::{exchange, exchange_with, page, sync, syncs};

#[tokio::test]
async fn axum_serves_its_page_and_its_rooms() {
    let example = Example::start("axum", SCHEMA).await;
    assert_eq!(page(example.address, "/").await, (200, "hello".into()));
    syncs(example.address, ClientOptions::default()).await;
}

#[cfg(unix)]
#[tokio::test]
async fn axum_leaves_nothing_in_the_log_of_a_room_when_it_is_interrupted() {
    let mut example = Example::start("axum", SCHEMA).await;
    syncs(example.address, ClientOptions::default()).await;
    let rooms = example.folder().join("dbs");
    assert!(rooms.join("r-wal").exists());
    assert!(example.interrupt().await.success());
    assert!(rooms.join("r").exists() && !rooms.join("r-wal").exists());
}

#[tokio::test]
async fn the_server_counts_what_goes_on_and_says_that_it_is_well() {
    let server = Example::launch("server", SCHEMA, |command| {
        command.args(["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--token", "secret"])
    })
    .await;
    let metrics = server.said.iter().find_map(|line| line.strip_prefix("metrics on http://")?.strip_suffix("/metrics"));
    let metrics = metrics.unwrap().parse().unwrap();
    assert_eq!(page(server.address, "/healthz").await, (200, "ok\n".into()));
    assert_eq!(page(server.address, "/metrics").await.0, 404, "not for everybody");

    let options = || ClientOptions { token: Some("secret"), ..Default::default() };
    let mut author = Client::connect_with(server.address, "r", 1, options()).await;
    author.enter().await;
    author.push(0, &[cell(1, "b", Value::Integer(1), 1), cell(2, "b", Value::Integer(1), 1)]).await;
    let mut reader = Client::connect_with(server.address, "r", 2, options()).await;
    reader.enter().await;
    assert_eq!(reader.gather(2).await.len(), 2);
    assert!(Client::try_connect(server.address, "r", 3, ClientOptions::default()).await.is_err());
    author.push(1, &[Change { table: "nowhere", ..cell(3, "b", Value::Integer(1), 2) }]).await;
    author.closed().await;

    let expected = [
        "sqlite_sync_connections 1",
        "sqlite_sync_rooms 1",
        "sqlite_sync_changes_in_total 2",
        "sqlite_sync_changes_out_total 2",
        "sqlite_sync_refused_total{reason=\"http 401\"} 1",
        "sqlite_sync_refused_total{reason=\"close 1008\"} 1",
        "sqlite_sync_refused_total{reason=\"changeset\"} 1",
        "sqlite_sync_batch_changesets_sum 2",
        "sqlite_sync_commit_seconds_count 2",
        "sqlite_sync_queue_seconds_count 2",
    ];
    let mut text = String::new();
    // The last connection may be on its way out.
    until("the metrics", async || {
        text = page(metrics, "/metrics").await.1;
        text.lines().any(|line| line == expected[0])
    })
    .await;
    for line in expected {
        assert!(text.lines().any(|shown| shown == line), "{line} in {text}");
    }
    let messages = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap().parse().unwrap()
    };
    assert!(messages("sqlite_sync_feed_hits_total") + messages("sqlite_sync_catch_ups_total") >= 1, "{text}");
}

#[tokio::test]
async fn hyper_serves_its_page_and_its_rooms_over_http_1_and_http_2() {
    let example = Example::start("hyper", SCHEMA).await;
    assert_eq!(page(example.address, "/").await, (200, "hello".into()));
    assert_eq!(page(example.address, "/none").await, (404, "there is no such page".into()));
    syncs(example.address, ClientOptions::default()).await;

    let mut browser = Browser::connect(example.address).await;
    assert_eq!(browser.get("/").await.text, "hello");
    let mut author = browser.open("two", 1, ClientOptions::default()).await;
    let mut reader = browser.open("two", 2, ClientOptions::default()).await;
    sync(&mut author, &mut reader).await;
}

#[tokio::test]
async fn hyper_does_not_wait_for_ever_for_a_request() {
    let example = Example::start("hyper", SCHEMA).await;
    let starts = ["", "G", "GET / HTTP/1.1\r\nHost:", "PRI * HT"].map(async |start| {
        let mut io = TcpStream::connect(example.address).await.unwrap();
        io.write_all(start.as_bytes()).await.unwrap();
        let mut response = String::new();
        soon("the end", io.read_to_string(&mut response)).await.unwrap();
        assert!(response.is_empty() || response.starts_with("HTTP/1.1 408"), "{start}: {response}");
    });
    futures_util::future::join_all(starts).await;
}

#[tokio::test]
async fn custom_auth_lets_in_by_token_and_by_cookie_and_guests_may_only_look() {
    let example = Example::start("custom_auth", SCHEMA).await;
    let log_in = async |name: &str, password: &str| {
        let form = format!("name={name}&password={password}");
        let lines = format!(
            "POST /login HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n",
            form.len()
        );
        let (head, _body) = exchange_with(example.address, &lines, &form).await;
        let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")?.split(';').next());
        cookie.map(|cookie| &*cookie.to_owned().leak())
    };
    assert_eq!(log_in("ada", "guess").await, None);
    let cookie = log_in("ada", "lovelace").await.unwrap();
    let (head, token) = exchange(example.address, &format!("GET /token HTTP/1.1\r\nCookie: {cookie}\r\n")).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let token: &str = token.leak();
    assert!(exchange(example.address, "GET /token HTTP/1.1\r\n").await.0.starts_with("HTTP/1.1 401"));

    let enter = async |room: &str, n: u8, options: ClientOptions| {
        Client::try_connect(example.address, room, n, options).await.map_err(|refused| refused.to_string())
    };
    let api = ClientOptions { path: "/api/sync", ..Default::default() };
    let web = ClientOptions { path: "/web/sync", ..Default::default() };
    let here: &str = format!("http://{}", example.address).leak();
    let origin = ("origin", here);

    // By token and by cookie, the same user comes to the same room.
    let mut application = enter("ada-todos", 1, ClientOptions { token: Some(token), ..api }).await.unwrap();
    let headers: &[_] = vec![origin, ("cookie", cookie)].leak();
    let mut page = enter("ada-todos", 2, ClientOptions { headers, ..web }).await.unwrap();
    sync(&mut application, &mut page).await;

    // Other users' rooms are closed, and so is everything to those who can't say who they are.
    for (room, options, status) in [
        ("grace-todos", ClientOptions { token: Some(token), ..api }, "403"),
        ("grace-todos", ClientOptions { headers, ..web }, "403"),
        ("ada-todos", api, "401"),
        ("ada-todos", ClientOptions { headers: vec![origin].leak(), ..web }, "401"),
        ("public-news", ClientOptions { token: Some("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEifQ."), ..api }, "401"),
        (
            "ada-todos",
            ClientOptions { headers: vec![("origin", "http://evil.example"), ("cookie", cookie)].leak(), ..web },
            "403",
        ),
    ] {
        let refused = enter(room, 3, options).await.err().unwrap();
        assert!(refused.contains(status), "{room}: {refused}");
    }

    // Guests see what is public, and change nothing.
    let mut author = enter("public-news", 1, ClientOptions { token: Some(token), ..api }).await.unwrap();
    let mut guest = enter("public-news", 2, api).await.unwrap();
    sync(&mut author, &mut guest).await;
    guest.push(0, &[cell(2, "b", Value::Text("graffiti"), 1)]).await;
    let mut second = enter("public-news", 3, ClientOptions { headers: vec![origin].leak(), ..web }).await.unwrap();
    second.enter().await;
    assert_eq!(cells(&second.changes().await), ["1.b='hello'"]);
    author.push(1, &[cell(3, "b", Value::Text("news"), 2)]).await;
    assert_eq!(cells(&second.changes().await), ["3.b='news'"], "and nothing of the guest's before it");

    exchange(example.address, &format!("POST /logout HTTP/1.1\r\nCookie: {cookie}\r\n")).await;
    for client in [&mut application, &mut page, &mut author] {
        assert_eq!(client.closed().await, (1008, "logged out".to_owned()));
    }
    let refused = enter("ada-todos", 3, ClientOptions { headers, ..web }).await.err().unwrap();
    assert!(refused.contains("401"), "{refused}");
    enter("ada-todos", 1, ClientOptions { token: Some(token), ..api }).await.expect("the token is still good");
}

#[tokio::test]
async fn server_side_writes_reach_clients_live_and_what_clients_write_is_counted() {
    let schema = include_str!("../../schemas/main.sql");
    let example = Example::start("server_side_writes", schema).await;
    assert_eq!(page(example.address, "/").await, (200, "hello".into()));
    let mut client = Client::connect_with(example.address, "news", 1, ClientOptions::default()).await;
    client.announce_schema("main.sql", schema_version(schema), &[]).await;
    client.start_streaming().await;
    let sees = async |client: &mut Client, wanted: &str| loop {
        let changes = client.changes().await;
        if changes.changes.iter().any(|change| matches!(change.val, Value::Text(text) if text.starts_with(wanted))) {
            return;
        }
    };
    for _second in 0..2 {
        sees(&mut client, "up for ").await;
    }
    // Row `x`, as the primary key is packed.
    let title = Change { table: "todo", pk: &[1, 0x0b, 1, b'x'], ..cell(1, "title", Value::Text("hello"), 1) };
    let done = Change { cid: "done", val: Value::Number(1.0), seq: 1, ..title };
    client.push(0, &[title, done]).await;
    sees(&mut client, "2 changes by clients").await;
}

#[tokio::test]
async fn the_server_counts_clients_by_their_address_or_by_the_one_that_its_proxy_adds() {
    let one_each = ("TOWER_SQLITE_SYNC_MAX_ADDRESS_CONNECTIONS", "1");
    let listen = ["--listen", "127.0.0.1:0"];
    let enter = async |server: &Example, headers| {
        let options = ClientOptions { headers, ..Default::default() };
        Client::try_connect(server.address, "r", 1, options).await.map_err(|refused| refused.to_string())
    };
    let direct = Example::launch("server", SCHEMA, |command| command.args(listen).env(one_each.0, one_each.1)).await;
    let _first = enter(&direct, &[]).await.unwrap();
    let refused = enter(&direct, &[("x-forwarded-for", "192.0.2.1")]).await.err().unwrap();
    assert!(refused.contains("429"), "{refused}");

    let behind = Example::launch("server", SCHEMA, |command| {
        command.args(listen).arg("--behind-proxy").env(one_each.0, one_each.1)
    })
    .await;
    let _first = enter(&behind, &[("x-forwarded-for", "203.0.113.1, 192.0.2.1")]).await.unwrap();
    let _second = enter(&behind, &[("x-forwarded-for", "203.0.113.1, 192.0.2.2")]).await.unwrap();
    let refused = enter(&behind, &[("x-forwarded-for", "203.0.113.2, 192.0.2.1")]).await.err().unwrap();
    assert!(refused.contains("429"), "what a client makes up does not count: {refused}");
}

#[tokio::test]
async fn the_server_does_not_wait_for_ever_for_a_request() {
    let server = Example::launch("server", SCHEMA, |command| command.args(["--listen", "127.0.0.1:0"])).await;
    let starts =
        ["", "G", "GET / HTTP/1.1\r\nHost:", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET"].map(async |start| {
            let mut io = TcpStream::connect(server.address).await.unwrap();
            io.write_all(start.as_bytes()).await.unwrap();
            let mut response = String::new();
            soon("the end", io.read_to_string(&mut response)).await.unwrap();
        });
    futures_util::future::join_all(starts).await;
    syncs(server.address, ClientOptions::default()).await;
}

#[tokio::test]
async fn a_setting_without_a_value_in_the_environment_is_none() {
    let server = Example::launch("server", SCHEMA, |command| {
        let settings = ["PATH", "HEARTBEAT", "DB_FOLDER", "ORIGINS", "MEMORY"];
        command.args(["--listen", "127.0.0.1:0"]).envs(settings.map(|name| (format!("TOWER_SQLITE_SYNC_{name}"), "")))
    })
    .await;
    let elsewhere = ClientOptions { path: "/elsewhere", ..Default::default() };
    assert!(Client::try_connect(server.address, "r", 1, elsewhere).await.is_err());
    syncs(server.address, ClientOptions::default()).await;
    assert!(server.folder().join("dbs/r").exists());
    for refused in ["--token", "--listen", "--db-folder"] {
        let said = Example::fails("server", |command| command.args([refused, ""])).await;
        assert!(said.contains(refused), "{said}");
    }
}

#[tokio::test]
async fn examples_that_cannot_start_say_what_to_do() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = &taken.local_addr().unwrap().to_string();
    let check = |name: &str, said: &str, wanted: &str| {
        let is_sentence = said.starts_with("error: ") || said.contains("\nerror: ");
        assert!(is_sentence && said.contains(wanted), "{name}: {said}");
    };
    let schemas = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    let wanted = format!("can't listen on {address}: ");
    for name in ["axum", "hyper", "custom_auth", "tls"] {
        check(name, &Example::fails(name, |command| command.arg(address)).await, &wanted);
    }
    let server =
        Example::fails("server", |command| command.args(["--listen", address, "--schema-folder"]).arg(schemas)).await;
    check("server", &server, &wanted);
    check(
        "server_side_writes",
        &Example::fails("server_side_writes", |command| command.arg(address)).await,
        "schema folder",
    );
    let tls = Example::fails("tls", |command| command.args(["127.0.0.1:0", "no.pem", "no.key"])).await;
    check("tls", &tls, "no.pem can't be read: ");
    let litefs = |secret: &'static str, flag: &'static str| {
        Example::fails("litefs", move |command| {
            command.env("CLUSTER_SECRET", secret).args(["--folder", ".", flag, address])
        })
    };
    check("litefs", &litefs("short", "--listen").await, "--secret: ");
    check("litefs", &litefs("known to the nodes", "--forwards").await, "choose another address with --forwards");
    check("litefs", &litefs("", "--listen").await, "--secret");
}
