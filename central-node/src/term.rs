//! Terms: what events can be found by. Of each packet the distinct terms are kept, as numbers, in an index that leads to the
//! packets which may hold a match; the events themselves decide. So the index costs per distinct value and packet, not per event.
//! Pure.

use std::collections::HashSet;

use sensor_proto::packet::OpenedPacket;
use sensor_proto::v1;
use sensor_proto::v1::event::Body;

/// What a term is of. The numbers are stored: never renumbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TermKind {
    /// Public identity of the acting process: 16 bytes.
    UniquePid = 1,
    /// Path of the acting process's program.
    ProcessPath = 2,
    /// Name of the acting process.
    ProcessName = 3,
    /// Path of a file that the event is about.
    Path = 4,
    /// A digest, whichever kind.
    Hash = 5,
    /// An address of either end.
    Address = 6,
    /// A port of either end.
    Port = 7,
    /// Name of the acting user.
    User = 8,
    /// Number of the acting user.
    UserId = 9,
}

/// What an event can be found by: calls `each` with every value. The only place that knows where in an event they stand;
/// index and search both ask it.
pub fn visit<'a>(
    event: &'a v1::Event,
    packet: &'a OpenedPacket,
    each: &mut impl FnMut(TermKind, &'a [u8]),
) {
    if let Some(reference) = &event.process {
        if let Some(unique_pid) = &reference.unique_pid {
            each(TermKind::UniquePid, unique_pid);
        }
        if let Some(process) = packet.referred(reference) {
            visit_process(process, event.credentials.is_none(), each);
        }
    }
    if let Some(credentials) = &event.credentials {
        visit_user(credentials, each);
    }
    match &event.body {
        // The program that is executed, with its hashes, is the image of the acting process.
        Some(Body::Exec(_)) => {
            let row = event
                .process
                .as_ref()
                .and_then(|process| packet.referred(process));
            if let Some(row) = row {
                for file in row.image.iter().chain(&row.script_chain) {
                    visit_file(file, each);
                }
            }
        }
        Some(Body::Exit(_)) | None => {}
        Some(Body::Fork(fork)) => {
            if let Some(unique_pid) = fork.child.as_ref().and_then(|c| c.unique_pid.as_ref()) {
                each(TermKind::UniquePid, unique_pid);
            }
        }
        Some(Body::FileCreate(create)) => {
            if let Some(file) = &create.file {
                visit_file(file, each);
            }
            if let Some(from) = &create.linked_from {
                each(TermKind::Path, from);
            }
        }
        Some(Body::Connect(connect)) => {
            for end in connect.local.iter().chain(&connect.remote) {
                visit_endpoint(end, each);
            }
        }
        Some(Body::ModuleLoad(load)) => {
            if let Some(file) = &load.file {
                visit_file(file, each);
            }
        }
        Some(Body::Patch(patch)) => match &patch.part {
            Some(v1::patch::Part::File(part)) => {
                if let Some(file) = &part.file {
                    visit_file(file, each);
                }
            }
            Some(v1::patch::Part::ClosedFile(file)) => visit_file(file, each),
            Some(v1::patch::Part::Connect(part)) => {
                if let Some(local) = &part.local {
                    visit_endpoint(local, each);
                }
            }
            Some(v1::patch::Part::Process(part)) => {
                if let Some(credentials) = &part.credentials {
                    visit_user(credentials, each);
                }
            }
            None => {}
        },
        Some(Body::Aggregate(aggregate)) => {
            // A sample's sample does not exist; depth is bounded by not looking for one.
            if let Some(sample) = &aggregate.sample
                && !matches!(sample.body, Some(Body::Aggregate(_)))
            {
                visit(sample, packet, each);
            }
        }
    }
}

fn visit_process<'a>(
    process: &'a v1::Process,
    its_user: bool,
    each: &mut impl FnMut(TermKind, &'a [u8]),
) {
    if let Some(path) = process.image.as_ref().and_then(|image| image.path.as_ref()) {
        each(TermKind::ProcessPath, path);
    }
    if let Some(name) = process.name() {
        each(TermKind::ProcessName, name);
    }
    if let Some(credentials) = process.credentials.as_ref().filter(|_| its_user) {
        visit_user(credentials, each);
    }
}

fn visit_user<'a>(credentials: &'a v1::Credentials, each: &mut impl FnMut(TermKind, &'a [u8])) {
    for user in [
        &credentials.real_user,
        &credentials.effective_user,
        &credentials.login_user,
    ]
    .into_iter()
    .flatten()
    {
        if let Some(name) = &user.name {
            each(TermKind::User, name.as_bytes());
        }
    }
}

fn visit_file<'a>(file: &'a v1::FileInfo, each: &mut impl FnMut(TermKind, &'a [u8])) {
    if let Some(path) = &file.path {
        each(TermKind::Path, path);
    }
    if let Some(hashes) = &file.hashes {
        for hash in [&hashes.md5, &hashes.sha1, &hashes.sha256]
            .into_iter()
            .flatten()
        {
            each(TermKind::Hash, hash);
        }
    }
}

fn visit_endpoint<'a>(end: &'a v1::Endpoint, each: &mut impl FnMut(TermKind, &'a [u8])) {
    if let Some(address) = &end.address {
        each(TermKind::Address, address);
    }
    if let Some(path) = &end.unix_path {
        each(TermKind::Path, path);
    }
}

/// Numbers that an event can be found by: ports and user ids.
pub fn visit_numbers<'a>(
    event: &'a v1::Event,
    packet: &'a OpenedPacket,
    each: &mut impl FnMut(TermKind, u32),
) {
    let row = || {
        event
            .process
            .as_ref()
            .and_then(|process| packet.referred(process))
            .and_then(|row| row.credentials.as_ref())
    };
    if let Some(credentials) = event.credentials.as_ref().or_else(row) {
        for user in [
            &credentials.real_user,
            &credentials.effective_user,
            &credentials.login_user,
        ]
        .into_iter()
        .flatten()
        {
            each(TermKind::UserId, user.id);
        }
    }
    let ends = match &event.body {
        Some(Body::Connect(connect)) => [connect.local.as_ref(), connect.remote.as_ref()],
        Some(Body::Patch(v1::Patch {
            part: Some(v1::patch::Part::Connect(part)),
            ..
        })) => [part.local.as_ref(), None],
        Some(Body::Aggregate(aggregate)) => {
            if let Some(sample) = &aggregate.sample
                && !matches!(sample.body, Some(Body::Aggregate(_)))
            {
                visit_numbers(sample, packet, each);
            }
            [None, None]
        }
        Some(_) | None => [None, None],
    };
    for port in ends.into_iter().flatten().filter_map(|end| end.port) {
        each(TermKind::Port, port);
    }
}

/// The number under which a value stands in the index: 47 bits of FNV-1a over kind and value, mixed. Values that meet in one
/// number only cost a look at a packet that has no match.
#[must_use]
pub fn number(kind: TermKind, value: &[u8]) -> i64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let kind = kind as u8;
    for byte in std::iter::once(&kind).chain(value) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
    }
    hash ^= hash >> 29;
    hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^= hash >> 32;
    i64::try_from(hash >> 17).unwrap_or_default()
}

/// The distinct terms of a packet, ascending.
#[must_use]
pub fn of(packet: &OpenedPacket) -> Vec<i64> {
    let mut values: HashSet<(TermKind, &[u8])> = HashSet::new();
    let mut numbers: HashSet<(TermKind, u32)> = HashSet::new();
    for event in packet.events() {
        visit(event, packet, &mut |kind, value| {
            values.insert((kind, value));
        });
        visit_numbers(event, packet, &mut |kind, value| {
            numbers.insert((kind, value));
        });
    }
    let mut terms: Vec<i64> = values
        .into_iter()
        .map(|(kind, value)| number(kind, value))
        .collect();
    terms.extend(
        numbers
            .into_iter()
            .map(|(kind, value)| number(kind, &value.to_be_bytes())),
    );
    terms.sort_unstable();
    terms.dedup();
    terms
}
