use http::header::FORWARDED;
use http::uri::{Authority, Scheme};

use super::*;

fn request(peer: &str, lines: &[(&'static str, &str)]) -> (HeaderMap, Extensions) {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, value.parse().unwrap());
    }
    let mut extensions = Extensions::new();
    extensions.insert(PeerAddr(SocketAddr::new(peer.parse().unwrap(), 1)));
    (headers, extensions)
}

fn trusted() -> [Network; 2] {
    ["10.0.0.0/8", "2001:db8:aaaa::/48"].map(|text| Network::parse(text).unwrap())
}

/// The client, with a star where a proxy hides it.
fn found(client_ip: &ClientIp, peer: &str, lines: &[(&'static str, &str)]) -> String {
    let (headers, extensions) = request(peer, lines);
    let found = client_ip.find(&headers, &extensions).unwrap();
    assert_eq!(found.peer, peer.parse::<IpAddr>().unwrap().to_canonical());
    format!("{}{}", found.client, if found.opaque { "*" } else { "" })
}

const XFF: &str = "x-forwarded-for";

#[test]
fn headers_of_strangers_are_never_believed() {
    let lines = [(XFF, "6.6.6.6"), ("forwarded", "for=6.6.6.6"), ("x-real-ip", "6.6.6.6")];
    for client_ip in [
        ClientIp::default(),
        ClientIp::default().behind_x_forwarded_for(trusted()),
        ClientIp::default().behind_forwarded(trusted()),
        ClientIp::default().behind_header(HeaderName::from_static("x-real-ip"), trusted()),
    ] {
        assert_eq!(found(&client_ip, "203.0.113.9", &lines), "203.0.113.9", "CLIENTIP-1");
    }
    assert_eq!(found(&ClientIp::default(), "10.0.0.1", &lines), "10.0.0.1", "CLIENTIP-1");
}

#[test]
fn the_client_is_the_first_from_the_right_that_is_no_proxy() {
    let client_ip = ClientIp::default().behind_x_forwarded_for(trusted());
    for (lines, expected, why) in [
        (&["6.6.6.6, 203.0.113.9, 10.0.0.2"][..], "203.0.113.9", "CLIENTIP-3"),
        (&["10.0.0.3, 10.0.0.2"], "10.0.0.3", "CLIENTIP-3: all trusted"),
        (&["6.6.6.6", "203.0.113.9,10.0.0.2"], "203.0.113.9", "CLIENTIP-6"),
        (&[], "10.0.0.1", "no header"),
        (&["1.1.1.1, garbage, 10.0.0.2"], "10.0.0.2*", "CLIENTIP-5"),
        (&["1.1.1.1, unknown"], "10.0.0.1*", "CLIENTIP-5"),
        (&["1.1.1.1,"], "10.0.0.1*", "CLIENTIP-31: an empty entry"),
        (&["::ffff:203.0.113.9"], "203.0.113.9", "CLIENTIP-32"),
        (&["[2001:db8::1]:443"], "2001:db8::1", "CLIENTIP-30"),
        (&["2001:DB8:0::1"], "2001:db8::1", "CLIENTIP-33"),
        (&["203.0.113.9:5678"], "203.0.113.9", "CLIENTIP-30"),
        (&["\"203.0.113.9\""], "203.0.113.9", "CLIENTIP-30"),
    ] {
        let lines: Vec<_> = lines.iter().map(|&line| (XFF, line)).collect();
        assert_eq!(found(&client_ip, "10.0.0.1", &lines), expected, "{why}: {lines:?}");
        assert_eq!(found(&client_ip, "::ffff:10.0.0.1", &lines), expected, "CLIENTIP-32: {why}");
    }
    for text in ["010.0.0.1", "1.2.3", "0x7f.1", "2130706433", "host.example", "fe80::1%eth0"] {
        assert_eq!(found(&client_ip, "10.0.0.1", &[(XFF, text)]), "10.0.0.1*", "CLIENTIP-31");
    }
    let other = [("x-real-ip", "1.2.3.4"), (XFF, "203.0.113.9")];
    assert_eq!(found(&client_ip, "10.0.0.1", &other), "203.0.113.9", "CLIENTIP-2");
}

#[test]
fn forwarded_is_read_as_rfc_7239_writes_it() {
    let client_ip = ClientIp::default().behind_forwarded(trusted());
    for (text, expected) in [
        ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
        ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
        ("for=192.0.2.43, for=198.51.100.17", "198.51.100.17"),
        ("for=192.0.2.43, for=10.0.0.7", "192.0.2.43"),
        ("for=\"192.0.2.43:47011\"", "192.0.2.43"),
        ("for=\"[2001:db8::1]:_x\"", "2001:db8::1"),
        ("for=\"1\\92.0.2.1\"", "192.0.2.1"),
        (";for=192.0.2.1;", "192.0.2.1"),
        ("for=\"a,b\";by=_x, for=1.2.3.4", "1.2.3.4"),
        ("for=1.1.1.1, for=_gazonk", "10.0.0.1*"),
        ("for=1.1.1.1, for=unknown", "10.0.0.1*"),
        ("for=1.1.1.1, proto=https", "10.0.0.1*"),
        ("for=1.1.1.1;for=2.2.2.2", "10.0.0.1*"),
        ("for=2001:db8::1", "10.0.0.1*"),
        ("for=[::1]", "10.0.0.1*"),
        ("for=\"2001:db8::1\"", "10.0.0.1*"),
        ("for=192.0.2.1:80", "10.0.0.1*"),
        ("for=\"192.0.2.1:123456\"", "10.0.0.1*"),
        ("for=_", "10.0.0.1*"),
        ("for=\"192.0.2.1", "10.0.0.1*"),
        ("for", "10.0.0.1*"),
        ("for=192.0.2.1;=x", "10.0.0.1*"),
        ("for=192.0.2.1;host=api.example:8443", "192.0.2.1"),
    ] {
        let lines = [(FORWARDED.as_str(), text)].map(|(_, text)| ("forwarded", text));
        assert_eq!(found(&client_ip, "10.0.0.1", &lines), expected, "CLIENTIP-20 to 24: {text}");
    }
}

/// A client could once choose its address: what its proxy appended stood behind the quote that the
/// client had opened, and what the client had written before it was believed.
#[test]
fn a_quote_that_a_client_opens_does_not_hide_what_its_proxy_appends() {
    let client_ip = ClientIp::default().behind_forwarded(trusted());
    let long = format!("x=\"{}, for=6.6.6.6;x=\"", "y".repeat(4096 - 60));
    for sent in [
        "for=6.6.6.6;x=\"",
        "for=6.6.6.6;x=\"\\",
        "for=6.6.6.6;\"",
        "for=6.6.6.6;x=y\"",
        "for=6.6.6.6;x=\"\"y\"",
        // Cut within the quotes, what is quoted would seem to be outside of them.
        &long,
    ] {
        for (appended, client) in [
            ("for=203.0.113.9", "203.0.113.9"),
            ("for=\"[2001:db8::9]:443\"", "2001:db8::9"),
            ("for=203.0.113.9, for=10.0.0.2;by=\"_x\"", "203.0.113.9"),
            ("for=203.0.113.9;x=\"a,b, c\";y=z", "203.0.113.9"),
        ] {
            let line = format!("{sent}, {appended}");
            let found = found(&client_ip, "10.0.0.1", &[("forwarded", &line)]);
            assert_eq!(found, client, "attack 27, CLIENTIP-23: {line}");
        }
    }
    for line in [
        "for=6.6.6.6;x=y, z",
        "for=6.6.6.6;x=\", for=203.0.113.9;for=203.0.113.9",
        "for=203.0.113.9;x=\",,,,,,,,,,, for=6.6.6.6;y=\"",
    ] {
        let found = found(&client_ip, "10.0.0.1", &[("forwarded", line)]);
        assert_eq!(found, "10.0.0.1*", "CLIENTIP-5: {line}");
    }
}

/// Half an address was once read as another one.
#[test]
fn an_address_that_the_bound_cuts_is_not_read() {
    let client_ip = ClientIp::default().behind_x_forwarded_for(trusted());
    let proxies = ",10.0.0.2";
    for cut in 0..12 {
        let padding = " ".repeat(4096 - proxies.len() - cut);
        let line = format!("203.0.113.9{padding}{proxies}");
        let found = found(&client_ip, "10.0.0.1", &[(XFF, &line)]);
        let whole = line.len() <= 4096;
        assert_eq!(found, if whole { "203.0.113.9" } else { "10.0.0.2*" }, "CLIENTIP-8: {cut}");
    }
}

#[test]
fn a_number_of_proxies_is_counted_from_the_right() {
    let name = "forwarded";
    for (hops, lines, expected, why) in [
        (1, &[(XFF, "6.6.6.6, 198.51.100.7")][..], "198.51.100.7", "CLIENTIP-4"),
        (2, &[(XFF, "6.6.6.6, 198.51.100.7, 10.0.0.2")], "198.51.100.7", "CLIENTIP-4"),
        (2, &[(XFF, "6.6.6.6, 198.51.100.7"), (XFF, "10.0.0.2")], "198.51.100.7", "CLIENTIP-6"),
        (2, &[(XFF, "6.6.6.6")], "203.0.113.1*", "CLIENTIP-4: fewer entries"),
        (1, &[], "203.0.113.1*", "CLIENTIP-4: fewer entries"),
        (1, &[(XFF, "6.6.6.6, unknown")], "203.0.113.1*", "CLIENTIP-5"),
        (2, &[(XFF, "198.51.100.7, unknown")], "198.51.100.7", "the other was not asked"),
        (0, &[(XFF, "6.6.6.6")], "203.0.113.1", "no proxy"),
        (40, &[(XFF, "6.6.6.6")], "203.0.113.1*", "CLIENTIP-8"),
        (1, &[(name, "for=6.6.6.6"), (XFF, "198.51.100.7")], "198.51.100.7", "CLIENTIP-2"),
    ] {
        let client_ip = ClientIp::default().behind_x_forwarded_for_hops(hops);
        assert_eq!(found(&client_ip, "203.0.113.1", lines), expected, "{why}: {hops} {lines:?}");
    }
    let client_ip = ClientIp::default().behind_forwarded_hops(2);
    let line = "for=6.6.6.6, for=\"[2001:db8::1]:443\", for=10.0.0.2";
    assert_eq!(found(&client_ip, "203.0.113.1", &[(name, line)]), "2001:db8::1", "CLIENTIP-4");
}

#[test]
fn a_host_and_a_scheme_are_those_that_a_proxy_vouches_for() {
    let asked = |client_ip: &ClientIp, peer: &str, lines: &[(&'static str, &str)]| {
        let (headers, extensions) = request(peer, lines);
        let ForwardedOrigin { scheme, authority } = client_ip.origin(&headers, &extensions);
        let part = |text: Option<&str>| text.unwrap_or("-").to_owned();
        let scheme = part(scheme.as_ref().map(Scheme::as_str));
        format!("{scheme} {}", part(authority.as_ref().map(Authority::as_str)))
    };
    let [proto, host, element] = ["x-forwarded-proto", "x-forwarded-host", "forwarded"];
    let spoofed = [(proto, "http"), (host, "evil.example"), (element, "for=6.6.6.6;proto=http")];
    let forwarded = ClientIp::default().behind_forwarded(trusted());
    let xff = ClientIp::default().behind_x_forwarded_for(trusted());
    for client_ip in [&ClientIp::default(), &forwarded, &xff] {
        assert_eq!(asked(client_ip, "203.0.113.9", &spoofed), "- -", "CLIENTIP-9: a stranger");
    }
    assert_eq!(asked(&ClientIp::default(), "10.0.0.1", &spoofed), "- -", "CLIENTIP-9");
    for (lines, expected) in [
        (&[(proto, "https"), (host, "api.example:8443")][..], "https api.example:8443"),
        (&[(proto, "http, HTTPS"), (host, "evil.example,api.example")], "https api.example"),
        (&[(proto, "http"), (proto, "https")], "https -"),
        (&[(proto, "ftp"), (host, "evil@api.example")], "- -"),
        (&[(proto, "http,"), (host, "a b")], "- -"),
        (&[(element, "for=192.0.2.1;proto=https;host=api.example")], "- -"),
    ] {
        assert_eq!(asked(&xff, "10.0.0.1", lines), expected, "CLIENTIP-9: {lines:?}");
    }
    for (line, expected) in [
        ("for=192.0.2.1;proto=https;host=api.example", "https api.example"),
        ("for=6.6.6.6;proto=http, for=192.0.2.1;proto=https", "https -"),
        (
            "for=192.0.2.1;Proto=https;host=\"api.example:8443\", for=10.0.0.2;proto=http",
            "https api.example:8443",
        ),
        ("for=6.6.6.6;proto=http, proto=https", "- -"),
        ("proto=https", "- -"),
    ] {
        let lines = [(element, line), (proto, "http")];
        assert_eq!(asked(&forwarded, "10.0.0.1", &lines), expected, "CLIENTIP-9: {line}");
    }
    let hops = ClientIp::default().behind_forwarded_hops(1);
    let line = "for=6.6.6.6;proto=http, for=192.0.2.1;proto=https";
    assert_eq!(asked(&hops, "203.0.113.1", &[(element, line)]), "https -", "CLIENTIP-9");
    let none = ClientIp::default().behind_x_forwarded_for_hops(0);
    assert_eq!(asked(&none, "203.0.113.1", &spoofed), "- -", "CLIENTIP-9");
}

#[test]
fn a_header_of_one_address_has_one() {
    let name = HeaderName::from_static("cf-connecting-ip");
    let client_ip = ClientIp::default().behind_header(name, trusted());
    let ask = |values: &[&str]| {
        let lines: Vec<_> = values.iter().map(|&value| ("cf-connecting-ip", value)).collect();
        found(&client_ip, "10.0.0.1", &lines)
    };
    assert_eq!(ask(&["192.0.2.1"]), "192.0.2.1");
    assert_eq!(ask(&["1.1.1.1, 2.2.2.2"]), "10.0.0.1*", "CLIENTIP-7");
    assert_eq!(ask(&["1.1.1.1", "2.2.2.2"]), "10.0.0.1*", "CLIENTIP-7");
    assert_eq!(ask(&[]), "10.0.0.1");
}

#[test]
fn a_megabyte_of_addresses_is_read_from_the_right_and_not_to_the_end() {
    let client_ip = ClientIp::default().behind_x_forwarded_for(trusted());
    let long = format!("6.6.6.6,{}", "10.9.9.9,".repeat(100_000));
    let long = long.trim_end_matches(',');
    assert_eq!(found(&client_ip, "10.0.0.1", &[(XFF, long)]), "10.9.9.9", "CLIENTIP-8");
    let client_ip = ClientIp::default().behind_forwarded(trusted());
    let long = "for=10.9.9.9,".repeat(100_000);
    assert_eq!(found(&client_ip, "10.0.0.1", &[("forwarded", &long)]), "10.0.0.1*", "CLIENTIP-8");
}

#[test]
fn without_a_peer_there_is_no_address() {
    let client_ip = ClientIp::default().behind_x_forwarded_for(trusted());
    let headers = HeaderMap::from_iter([(
        HeaderName::from_static(XFF),
        http::HeaderValue::from_static("192.0.2.1"),
    )]);
    assert_eq!(client_ip.find(&headers, &Extensions::new()), None, "CLIENTIP-35");
}

#[test]
fn networks_are_prefixes_without_bits_behind_them() {
    let contains = |network: &str, address: &str| {
        Network::parse(network).unwrap().contains(address.parse().unwrap())
    };
    assert!(contains("10.0.0.0/8", "10.255.0.1"));
    assert!(!contains("10.0.0.0/8", "11.0.0.1"));
    assert!(contains("10.0.0.0/8", "::ffff:10.1.1.1"), "CLIENTIP-32");
    assert!(contains("0.0.0.0/0", "203.0.113.9") && !contains("0.0.0.0/0", "::1"));
    assert!(contains("::/0", "::1") && contains("192.0.2.1", "192.0.2.1"));
    assert!(!contains("192.0.2.1", "192.0.2.2"));
    for text in ["10.0.0.1/8", "10.0.0.0/33", "::/129", "x", "", "10.0.0.0/", "10.0.0.0/-1"] {
        assert!(Network::parse(text).is_err(), "{text}");
    }
}

/// It was a network in which no address ever was: those that are looked for are not mapped any more.
#[test]
fn a_network_of_mapped_addresses_is_one_of_ipv4() {
    for (mapped, network) in [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ("::ffff:192.0.2.1/128", "192.0.2.1"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
    ] {
        assert_eq!(Network::parse(mapped), Network::parse(network), "CLIENTIP-32: {mapped}");
    }
    let network = Network::parse("::ffff:10.0.0.0/104").unwrap();
    for address in ["10.1.1.1", "::ffff:10.1.1.1"] {
        assert!(network.contains(address.parse().unwrap()), "CLIENTIP-32: {address}");
    }
    assert!(!network.contains("11.0.0.1".parse().unwrap()));
    assert_eq!(network.to_string(), "10.0.0.0/8");
    // Shorter ones have bits behind their prefix, and longer ones there are none.
    for text in ["::ffff:0:0/95", "::ffff:10.0.0.0/8", "::ffff:10.0.0.1/104", "::ffff:0:0/129"] {
        assert!(Network::parse(text).is_err(), "{text}");
    }
}
