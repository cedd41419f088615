use http::header::FORWARDED;

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
    ] {
        let lines = [(FORWARDED.as_str(), text)].map(|(_, text)| ("forwarded", text));
        assert_eq!(found(&client_ip, "10.0.0.1", &lines), expected, "CLIENTIP-20 to 24: {text}");
    }
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
