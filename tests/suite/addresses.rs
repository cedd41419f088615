//! Whose address counts, through the layers: for every way to be told it.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderName, HeaderValue, Request};
use tonic::Code;
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;
use tower::{Layer, ServiceBuilder};
use tower_gate::rate_limit::RateLimit;
use tower_gate::store::memory::MemoryStore;
use tower_gate::{AuditLayer, ClientIp, ManualClock, Network, PeerAddr, Quota, RateLimitLayer};

use crate::grpc::{WhoAmI, call, connect_from, serve_grpc, unary};
use crate::support::{Answer, Probe, TestBody, Trail, anonymous, send};

const BURST: usize = 10;

/// Every header in which somebody could be told an address, a host or a scheme.
const HEADERS: [&str; 14] = [
    "cf-connecting-ip",
    "client-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded",
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-original-forwarded-for",
    "x-real-ip",
];

fn proxies() -> [Network; 2] {
    ["10.0.0.0/8", "2001:db8:aaaa::/48"].map(|text| Network::parse(text).unwrap())
}

/// A way to learn an address, and what the nearest proxy does to a request of this client.
struct Setting {
    name: &'static str,
    client_ip: ClientIp,
    peer: &'static str,
    proxy: fn(&mut Request<TestBody>, client: &str),
}

fn append(request: &mut Request<TestBody>, name: &'static str, entry: &str) {
    let headers = request.headers_mut();
    // On the line that is there, as most proxies do.
    let line = match headers.get(name) {
        Some(sent) => [sent.as_bytes(), b", ", entry.as_bytes()].concat(),
        None => entry.as_bytes().to_vec(),
    };
    headers.insert(name, HeaderValue::from_bytes(&line).unwrap());
}

fn node(client: &str) -> String {
    if client.contains(':') { format!("for=\"[{client}]:443\"") } else { format!("for={client}") }
}

fn settings() -> Vec<Setting> {
    let direct: fn(&mut Request<TestBody>, &str) = |_, _| {};
    let xff: fn(&mut Request<TestBody>, &str) = |request, client| {
        append(request, "x-forwarded-for", client);
    };
    let two: fn(&mut Request<TestBody>, &str) = |request, client| {
        append(request, "x-forwarded-for", client);
        request.headers_mut().append("x-forwarded-for", HeaderValue::from_static("10.0.0.2"));
    };
    let forwarded: fn(&mut Request<TestBody>, &str) = |request, client| {
        append(request, "forwarded", &node(client));
    };
    let single: fn(&mut Request<TestBody>, &str) = |request, client| {
        let value = HeaderValue::from_str(client).unwrap();
        request.headers_mut().insert("cf-connecting-ip", value);
    };
    let ip = ClientIp::default;
    let header = HeaderName::from_static("cf-connecting-ip");
    let socket = ClientIp::of_unix_socket();
    let local = [Network::parse("127.0.0.1").unwrap()];
    [
        ("peer", ip(), "198.51.100.7", direct),
        ("X-Forwarded-For", ip().behind_x_forwarded_for(proxies()), "10.0.0.1", xff),
        ("mapped peer", ip().behind_x_forwarded_for(proxies()), "::ffff:10.0.0.1", xff),
        ("IPv6 peer", ip().behind_x_forwarded_for(proxies()), "2001:db8:aaaa::1", xff),
        ("two proxies", ip().behind_x_forwarded_for(proxies()), "10.0.0.1", two),
        ("a stranger", ip().behind_x_forwarded_for(proxies()), "198.51.100.7", direct),
        ("Forwarded", ip().behind_forwarded(proxies()), "10.0.0.1", forwarded),
        ("a stranger", ip().behind_forwarded(proxies()), "198.51.100.7", direct),
        ("one address", ip().behind_header(header.clone(), proxies()), "10.0.0.1", single),
        ("a stranger", ip().behind_header(header, proxies()), "198.51.100.7", direct),
        ("one hop", ip().behind_x_forwarded_for_hops(1), "203.0.113.1", xff),
        ("two hops", ip().behind_x_forwarded_for_hops(2), "203.0.113.1", two),
        ("one hop", ip().behind_forwarded_hops(1), "203.0.113.1", forwarded),
        ("no hop", ip().behind_x_forwarded_for_hops(0), "198.51.100.7", direct),
        ("socket", socket.clone(), "", direct),
        ("proxy on a socket", socket.behind_x_forwarded_for(local), "", xff),
    ]
    .map(|(name, client_ip, peer, proxy)| Setting { name, client_ip, peer, proxy })
    .into()
}

impl Setting {
    fn service(&self, trail: &Trail) -> tower_gate::audit::Audit<RateLimit<Probe>> {
        let quota = Quota::per_hour(u32::try_from(BURST).unwrap());
        let limit = RateLimitLayer::by_address(MemoryStore::new(), quota)
            .with_client_ip(self.client_ip.clone())
            .with_clock(ManualClock::default());
        let audit = AuditLayer::new(trail.clone()).with_client_ip(self.client_ip.clone());
        audit.layer(limit.layer(Probe::default()))
    }

    /// A request to which its client has given these headers, as it reaches the server.
    fn request(&self, client: &str, sent: &[(HeaderName, HeaderValue)]) -> Request<TestBody> {
        let mut request = anonymous();
        request.headers_mut().extend(sent.iter().cloned());
        (self.proxy)(&mut request, client);
        if let Ok(peer) = self.peer.parse::<IpAddr>() {
            request.extensions_mut().insert(PeerAddr(SocketAddr::new(peer, 4711)));
        }
        request
    }
}

/// What an attacker writes into every header, another thing in every request.
fn forged(n: usize) -> Vec<(HeaderName, HeaderValue)> {
    let texts = [
        format!("198.18.0.{n}"),
        format!("for=198.18.0.{n}"),
        format!("for=198.18.0.{n};x=\""),
        format!("for=\"[2001:db8:{n:x}::1]\";proto=http, for=10.0.0.9"),
        format!("2001:db8:{n:x}::1, 10.0.0.9"),
        format!("198.18.0.{n},,unknown, _hidden"),
        format!("::ffff:198.18.0.{n}"),
        format!("{}198.18.0.{n}", "10.9.9.9,".repeat(600)),
        format!("\"198.18.0.{n}"),
        format!("host-{n}.example"),
    ];
    let value = HeaderValue::try_from(&texts[n % texts.len()]).unwrap();
    HEADERS.map(|name| (HeaderName::from_static(name), value.clone())).into()
}

fn passed(answer: &Answer) -> bool {
    assert!(matches!(answer.status.as_u16(), 200 | 429), "{answer:?}");
    answer.status == 200
}

#[tokio::test]
async fn whatever_a_client_writes_it_has_one_bucket() {
    for setting in settings() {
        for client in ["198.51.100.7", "2001:db8:1:2::7"] {
            let service = setting.service(&Trail::default());
            let mut passes = 0;
            for n in 0..100 {
                let answer = send(&service, setting.request(client, &forged(n))).await;
                passes += usize::from(passed(&answer));
                let said = format!("{:?} {:?}", answer.headers, answer.body);
                assert!(!said.contains("198.18") && !said.contains("x-forwarded"), "CLIENTIP-25");
            }
            assert_eq!(passes, BURST, "CLIENTIP-43, attack 27: {}", setting.name);
        }
    }
}

#[tokio::test]
async fn a_client_of_another_network_has_another_bucket_and_one_of_the_same_has_not() {
    for setting in settings().into_iter().filter(|setting| setting.name == "Forwarded") {
        let service = setting.service(&Trail::default());
        let mut passes = 0;
        for host in 0..=u16::MAX {
            let client = format!("2001:db8:1:2::{host:x}");
            passes += usize::from(passed(&send(&service, setting.request(&client, &[])).await));
        }
        assert_eq!(passes, BURST, "attack 28, CLIENTIP-40");
        for client in ["2001:db8:1:3::1", "192.0.2.1", "192.0.2.2"] {
            let answer = send(&service, setting.request(client, &[])).await;
            assert_eq!(answer.header("ratelimit"), "\"address\";r=9;t=360", "attack 28: {client}");
        }
    }
}

#[tokio::test]
async fn the_trail_tells_a_client_from_the_proxy_in_front_of_it() {
    let client = "198.51.100.7";
    for setting in settings() {
        let trail = Trail::default();
        send(&setting.service(&trail), setting.request(client, &forged(0))).await;
        let event = trail.event();
        let told = [event.address, event.peer].map(|address| address.map(|ip| ip.to_string()));
        let [address, peer] = told.each_ref().map(Option::as_deref);
        let expected = match (setting.name, setting.peer) {
            ("socket", _) => [Some("127.0.0.1"), None],
            ("proxy on a socket", _) => [Some(client), Some("127.0.0.1")],
            (_, peer) if peer == client => [Some(client), None],
            (_, peer) => [Some(client), Some(peer.trim_start_matches("::ffff:"))],
        };
        assert_eq!([address, peer], expected, "CLIENTIP-34, 51: {}", setting.name);
    }
}

/// Over real connections, of which a client may open as many as it likes.
#[tokio::test]
async fn an_address_has_one_bucket_at_a_tonic_server() {
    let peer = ClientIp::from_extensions(|extensions| {
        extensions.get::<TcpConnectInfo>()?.remote_addr().map(|peer| peer.ip())
    });
    let (trail, burst) = (Trail::default(), 3);
    let layers = ServiceBuilder::new()
        .layer(AuditLayer::new(trail.clone()).with_client_ip(peer.clone()))
        .layer(
            RateLimitLayer::by_address(MemoryStore::new(), Quota::per_hour(burst))
                .with_clock(ManualClock::default())
                .with_client_ip(peer),
        );
    let routes = Routes::new(WhoAmI).into_axum_router().layer(layers);
    let server = serve_grpc(routes).await;
    let hosts = ["127.0.0.1", "127.0.0.2"].map(|text| text.parse::<IpAddr>().unwrap());
    for host in hosts {
        for n in 0..burst {
            let channel = connect_from(host, server).await;
            let answer = call(&channel, "/test.WhoAmI/Ask", &[]).await;
            assert_eq!(answer.unwrap(), "nobody", "CLIENTIP-43: {host}, connection {n}");
        }
        for forged in ["for=203.0.113.9", "for=203.0.113.10"] {
            let mut request = tonic::Request::new(());
            request.metadata_mut().insert("forwarded", forged.parse().unwrap());
            let channel = connect_from(host, server).await;
            let refused = unary(&channel, "/test.WhoAmI/Ask", request).await.unwrap_err();
            assert_eq!(refused.code(), Code::ResourceExhausted, "attack 27: {host}, {forged}");
            assert_eq!(refused.metadata().get("grpc-retry-pushback-ms").unwrap(), "1200000");
        }
    }
    let addresses: Vec<_> = trail.events().iter().filter_map(|event| event.address).collect();
    assert_eq!(addresses, [[hosts[0]; 5], [hosts[1]; 5]].concat(), "AUDIT-12");
}
