use proptest::prelude::*;

use super::*;

/// A request without its length and header.
fn written(write: impl FnOnce(&mut Request)) -> Vec<u8> {
    let mut request = Request::new(METADATA, 4, 7);
    write(&mut request);
    let bytes = request.finish();
    let length = i32::try_from(bytes.len() - 4).unwrap();
    assert_eq!(bytes[..4], length.to_be_bytes());
    let head = b"\0\x03\0\x04\0\0\0\x07\0\x06sensor";
    assert_eq!(&bytes[4..20], head);
    bytes[20..].to_vec()
}

#[test]
fn requests_are_those_of_the_protocol() {
    let asked = written(|request| metadata_request(request, "events"));
    assert_eq!(asked, b"\0\0\0\x01\0\x06events\0");
    let asked = written(|request| produce_request(request, "t", 2, b"batch"));
    assert_eq!(
        asked,
        b"\xff\xff\xff\xff\0\0\x75\x30\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\x02\0\0\0\x05batch"
    );
}

fn put(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn versions_are_chosen() {
    let answer = |produce: (i16, i16), metadata: (i16, i16)| {
        let mut bytes = put(&[&[0, 0], &2_i32.to_be_bytes()]);
        for (api, (from, to)) in [(PRODUCE, produce), (METADATA, metadata)] {
            for number in [api, from, to] {
                bytes.extend(number.to_be_bytes());
            }
        }
        versions(&bytes)
    };
    assert_eq!(answer((0, 2), (0, 4)).unwrap_err().word, PROTOCOL);
    assert_eq!(answer((9, 13), (0, 4)).unwrap_err().word, PROTOCOL);
    assert_eq!(answer((3, 13), (5, 9)).unwrap_err().word, PROTOCOL);
    for ((from, to), chosen) in [((0, 3), 3), ((3, 12), 8), ((8, 9), 8), ((0, 5), 5)] {
        let known = answer((from, to), (0, 12)).unwrap();
        assert_eq!(known.produce, chosen, "{from}..={to}");
    }
    let mut refused = put(&[&35_i16.to_be_bytes()]);
    refused.extend([0; 4]);
    assert_eq!(versions(&refused).unwrap_err().word, PROTOCOL);
}

#[test]
fn a_list_is_no_longer_than_its_frame() {
    let announced = put(&[&[0; 4], &i32::MAX.to_be_bytes(), &[0; 64]]);
    let fault = Metadata::read(&announced, "events").unwrap_err();
    assert_eq!(fault.word, PROTOCOL, "{fault}");
    let mut reader = Reader::new(&announced[4..]);
    assert_eq!(reader.list(Reader::i32), Err(WireError::Short));
    let mut reader = Reader::new(&[0xff, 0xff, 0xff, 0xfe]);
    assert_eq!(reader.list(Reader::i32), Err(WireError::Length(-2)));
}

#[test]
fn advertised_addresses_must_be_some() {
    let member = |host: &str, port| Member {
        node: 1,
        host: host.to_owned(),
        port,
    };
    let at = |host: &str, port| member(host, port).address().map(|at| at.to_string());
    assert_eq!(at("broker.example", 9092).unwrap(), "broker.example:9092");
    assert_eq!(at("2001:db8::1", 9093).unwrap(), "[2001:db8::1]:9093");
    for (host, port) in [
        ("", 1),
        ("a b", 1),
        ("a", 0),
        ("a", 65536),
        ("a", -1),
        ("::g", 1),
    ] {
        let fault = at(host, port).unwrap_err();
        assert_eq!(fault.word, PROTOCOL, "{fault}");
    }
}

proptest! {
    #[test]
    fn no_answer_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), version in 3_i16..=8) {
        drop(versions(&bytes));
        drop(Metadata::read(&bytes, "events"));
        drop(Produced::read(&bytes, version, "events", 0));
    }
}
