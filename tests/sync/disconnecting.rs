//! Server code closes connections, and whoever isn't meant doesn't notice.

use tower_sqlite_sync::{AuthRequest, ConnectionFilter, Denied, Grant};

use crate::fixture::{Client, ClientOptions, Server, cells};

#[tokio::test]
async fn connections_are_found_by_room_identity_and_site_and_closed_with_what_is_said() {
    let server = Server::with_layer(|layer| {
        layer.authorize(async |request: AuthRequest| {
            let grant = Grant::read_write();
            Ok::<_, Denied>(request.token().map_or(grant.clone(), |name| grant.with_identity(name)))
        })
    })
    .await;
    let join = async |room: &str, n: u8, token: Option<&'static str>| {
        Client::join_with(&server, room, n, ClientOptions { token, ..Default::default() }).await
    };
    let mut bystander = join("a", 1, Some("grace")).await;
    let mut in_a = join("a", 2, Some("ada")).await;
    let mut in_b = join("b", 3, Some("ada")).await;
    let mut nameless = join("a", 4, None).await;
    let options = ClientOptions { token: Some("ada"), ..Default::default() };
    let mut unannounced = Client::connect_with(server.address, "c", 5, options).await;

    let all = ConnectionFilter::default;
    let close = |which: ConnectionFilter| server.rooms.disconnect(&which, 4001, "come back as somebody else");
    assert_eq!(close(all().identity("nobody")), 0);
    assert_eq!(close(all().identity("ada").room("a")), 1);
    assert_eq!(in_a.closed().await, (4001, "come back as somebody else".to_owned()));
    assert_eq!(close(all().site(crr::SiteId::from_bytes([4; 16]))), 1);
    assert_eq!(nameless.closed().await.0, 4001);
    assert_eq!(server.rooms.disconnect(&all().identity("ada"), 7, &"é".repeat(200)), 2);
    for client in [&mut in_b, &mut unannounced] {
        assert_eq!(client.closed().await, (1008, "é".repeat(61)));
    }
    server.write("a", "INSERT INTO foo VALUES (1, 1)").await;
    assert_eq!(cells(&bystander.changes().await), ["1.b=1"]);
    assert_eq!(close(all()), 1);
    bystander.closed().await;
}
