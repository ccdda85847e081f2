//! Network family.

use sensor_common::map::Connecting;
use sensor_common::record::{ConnectRecord, Parsed, connect_result};
use sensor_proto::field::connect as number;
use sensor_proto::v1;

use super::Absences;

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const ECONNREFUSED: u32 = 111;
const ETIMEDOUT: u32 = 110;
const ENETUNREACH: u32 = 101;
const EHOSTUNREACH: u32 = 113;
const ENETDOWN: u32 = 100;
const EHOSTDOWN: u32 = 112;

/// Body of a connect event.
#[must_use]
pub fn connect(record: &Parsed<'_, ConnectRecord>) -> v1::Connect {
    let head = &record.head;
    let mut absent = Absences::default();
    let family = family(head.family);
    let unix = family == v1::AddressFamily::Unix;
    let mut body = v1::Connect {
        family: family.into(),
        socket_type: socket_type(head.socket_type).into(),
        transport: if unix {
            v1::Transport::Unix
        } else {
            transport(head.protocol)
        }
        .into(),
        protocol: (!unix).then_some(head.protocol.into()),
        direction: v1::Direction::Outbound.into(),
        result: result(head.result, head.error).into(),
        errno: (head.error != 0).then_some(head.error),
        duration_ns: has_handshake(unix, head.protocol).then(|| {
            head.header
                .time_boot_ns
                .saturating_sub(head.started_boot_ns)
        }),
        ..v1::Connect::default()
    };
    if !unix && head.local_port != 0 {
        body.local = Some(endpoint(head.family, &head.local_address, head.local_port));
    }
    if head.remote_unknown != 0 {
        absent.note(number::REMOTE, v1::AbsentReason::NotOnThisBackend);
    } else if unix {
        body.remote = Some(unix_endpoint(record));
    } else {
        body.remote = Some(endpoint(
            head.family,
            &head.remote_address,
            head.remote_port,
        ));
    }
    if body.local.is_none() {
        absent.note(number::LOCAL, v1::AbsentReason::NotSet);
    }
    body.absent = absent.into_vec();
    body
}

/// Body of a connect event for an attempt that has had no result for a while.
#[must_use]
pub fn in_progress(attempt: &Connecting) -> v1::Connect {
    let mut absent = Absences::default();
    absent.note(number::LOCAL, v1::AbsentReason::Pending);
    v1::Connect {
        family: family(attempt.family).into(),
        socket_type: v1::SocketType::Stream.into(),
        transport: v1::Transport::Tcp.into(),
        protocol: Some(6),
        direction: v1::Direction::Outbound.into(),
        remote: Some(endpoint(
            attempt.family,
            &attempt.remote_address,
            attempt.remote_port,
        )),
        result: v1::ConnectResult::InProgress.into(),
        absent: absent.into_vec(),
        ..v1::Connect::default()
    }
}

fn unix_endpoint(record: &Parsed<'_, ConnectRecord>) -> v1::Endpoint {
    let path = record.text(0);
    // An abstract name starts with NUL and may hold any byte; a path ends at its first NUL.
    let name = match path.bytes.split_first() {
        Some((0, name)) => name,
        _ => path
            .bytes
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default(),
    };
    v1::Endpoint {
        unix_path: (!path.text.absent() && !name.is_empty()).then(|| name.to_vec()),
        unix_abstract: path.bytes.first() == Some(&0) && !name.is_empty(),
        ..v1::Endpoint::default()
    }
}

fn endpoint(family: u16, address: &[u8; 16], port: u16) -> v1::Endpoint {
    let bytes = if family == AF_INET {
        address.get(..4)
    } else {
        address.get(..)
    };
    v1::Endpoint {
        address: bytes.map(<[u8]>::to_vec),
        port: Some(port.into()),
        ..v1::Endpoint::default()
    }
}

fn family(family: u16) -> v1::AddressFamily {
    match family {
        AF_UNIX => v1::AddressFamily::Unix,
        AF_INET => v1::AddressFamily::Inet,
        AF_INET6 => v1::AddressFamily::Inet6,
        _ => v1::AddressFamily::Unspecified,
    }
}

fn socket_type(socket_type: u16) -> v1::SocketType {
    match socket_type {
        1 => v1::SocketType::Stream,
        2 => v1::SocketType::Datagram,
        3 => v1::SocketType::Raw,
        5 => v1::SocketType::Seqpacket,
        6 => v1::SocketType::Dccp,
        _ => v1::SocketType::Unspecified,
    }
}

/// IPPROTO_* (linux/in.h).
/// Whether connecting such a socket asks the other end, which takes time: TCP, DCCP, SCTP, multipath TCP.
fn has_handshake(unix: bool, protocol: u16) -> bool {
    !unix && matches!(protocol, 6 | 33 | 132 | 262)
}

fn transport(protocol: u16) -> v1::Transport {
    match protocol {
        1 => v1::Transport::Icmp,
        6 => v1::Transport::Tcp,
        17 => v1::Transport::Udp,
        33 => v1::Transport::Dccp,
        58 => v1::Transport::Icmpv6,
        132 => v1::Transport::Sctp,
        136 => v1::Transport::Udplite,
        255 => v1::Transport::Raw,
        262 => v1::Transport::Mptcp,
        _ => v1::Transport::Unspecified,
    }
}

fn result(result: u32, error: u32) -> v1::ConnectResult {
    match result {
        connect_result::ESTABLISHED => v1::ConnectResult::Established,
        connect_result::IN_PROGRESS => v1::ConnectResult::InProgress,
        connect_result::ABORTED => v1::ConnectResult::Aborted,
        connect_result::FAILED => match error {
            ECONNREFUSED => v1::ConnectResult::Refused,
            ETIMEDOUT => v1::ConnectResult::TimedOut,
            ENETUNREACH | EHOSTUNREACH | ENETDOWN | EHOSTDOWN => v1::ConnectResult::Unreachable,
            _ => v1::ConnectResult::Failed,
        },
        _ => v1::ConnectResult::Unspecified,
    }
}

#[cfg(test)]
mod tests {
    use sensor_common::record::{Header, RecordKind, RecordRef, Text};
    use zerocopy::{FromBytes, IntoBytes};

    use super::*;

    fn parsed(fill: impl FnOnce(&mut ConnectRecord), path: &[u8]) -> v1::Connect {
        let mut head = ConnectRecord::read_from_bytes(&[0; size_of::<ConnectRecord>()]).unwrap();
        head.header = Header {
            kind: RecordKind::Connect as u16,
            size: u32::try_from(size_of::<ConnectRecord>() + path.len()).unwrap(),
            time_boot_ns: 150,
            ..Header::default()
        };
        head.started_boot_ns = 100;
        head.path = Text {
            len: u32::try_from(path.len()).unwrap(),
            true_len: u32::try_from(path.len()).unwrap(),
        };
        fill(&mut head);
        let mut bytes = head.as_bytes().to_vec();
        bytes.extend_from_slice(path);
        let RecordRef::Connect(record) = RecordRef::parse(&bytes).unwrap() else {
            panic!("wrong kind")
        };
        connect(&record)
    }

    #[test]
    fn a_refused_tcp_connect_keeps_both_ends() {
        let body = parsed(
            |head| {
                head.family = AF_INET;
                head.protocol = 6;
                head.socket_type = 1;
                head.result = connect_result::FAILED;
                head.error = ECONNREFUSED;
                head.remote_address[..4].copy_from_slice(&[127, 0, 0, 1]);
                head.remote_port = 81;
                head.local_port = 40_000;
            },
            b"",
        );
        assert_eq!(body.result(), v1::ConnectResult::Refused);
        assert_eq!(body.transport(), v1::Transport::Tcp);
        assert_eq!(body.duration_ns, Some(50));
        let remote = body.remote.unwrap();
        assert_eq!(remote.address.as_deref(), Some(&[127, 0, 0, 1][..]));
        assert_eq!(remote.port, Some(81));
        assert_eq!(body.local.unwrap().port, Some(40_000));
    }

    #[test]
    fn abstract_names_keep_their_bytes_and_paths_end_at_nul() {
        let unix = |path: &[u8]| {
            parsed(
                |head| {
                    head.family = AF_UNIX;
                    head.result = connect_result::ESTABLISHED;
                },
                path,
            )
            .remote
            .unwrap()
        };
        let named = unix(b"/run/x\0garbage");
        assert_eq!(named.unix_path.as_deref(), Some(&b"/run/x"[..]));
        assert!(!named.unix_abstract);
        let hidden = unix(b"\0a\0b");
        assert_eq!(hidden.unix_path.as_deref(), Some(&b"a\0b"[..]));
        assert!(hidden.unix_abstract);
    }

    #[test]
    fn an_unknown_destination_is_absent_with_its_reason() {
        for family in [AF_INET, AF_UNIX] {
            let body = parsed(
                |head| {
                    head.family = family;
                    head.result = connect_result::FAILED;
                    head.error = ENETUNREACH;
                    head.remote_unknown = 1;
                },
                b"",
            );
            assert_eq!(body.remote, None);
            assert_eq!(body.result(), v1::ConnectResult::Unreachable);
            assert!(body.absent.iter().any(|gap| gap.field == number::REMOTE
                && gap.reason() == v1::AbsentReason::NotOnThisBackend));
        }
    }
}
