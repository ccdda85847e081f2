//! Packets as an agent seals them, with made-up events.

use std::collections::BTreeMap;

use sensor_proto::identity::unique_pid;
use sensor_proto::packet::{Digest, Label, PackError, Packer};
use sensor_proto::v1;
use sensor_proto::v1::event::Body;
use uuid::Uuid;

use crate::packet::digest;

/// Events of one packet, with the processes that they refer to.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The events, in the order of their time.
    pub events: Vec<v1::Event>,
    /// Their processes.
    pub processes: BTreeMap<(Vec<u8>, u32), v1::Process>,
}

/// One stream of one agent.
#[derive(Clone, Debug)]
pub struct Maker {
    /// Identity of the agent.
    pub agent_id: Uuid,
    /// Epoch of the agent.
    pub epoch: [u8; 16],
    /// The stream.
    pub stream: v1::Stream,
    /// The daemon's run.
    pub run_id: [u8; 16],
    /// When the run began, ns since 1970.
    pub run_began_ns: i64,
    /// The host's boot.
    pub boot_id: Uuid,
    /// Wall-clock time of the boot, ns since 1970.
    pub boot_time_ns: i64,
    /// Now, ns since boot.
    pub now_boot_ns: u64,
    /// Name of the host.
    pub host: String,
    /// Sequence of the last packet.
    pub sequence: u64,
    /// Digest of the last packet.
    pub previous: Option<Digest>,
    /// Number of the last event.
    pub counter: u64,
    /// The account since the run began.
    pub rows: BTreeMap<String, v1::LedgerRow>,
    /// Told in the next packet.
    pub tombstones: Vec<v1::Tombstone>,
    /// Told in the next packet.
    pub blind: Option<v1::BlindInterval>,
}

impl Maker {
    /// A stream that begins.
    #[must_use]
    pub fn new(agent_id: Uuid, stream: v1::Stream) -> Self {
        let boot_time_ns = 1_750_000_000_000_000_000;
        Self {
            agent_id,
            epoch: *Uuid::new_v4().as_bytes(),
            stream,
            run_id: *Uuid::new_v4().as_bytes(),
            run_began_ns: boot_time_ns,
            boot_id: Uuid::new_v4(),
            boot_time_ns,
            now_boot_ns: 0,
            host: "host-of-a-test".to_owned(),
            sequence: 0,
            previous: None,
            counter: 0,
            rows: BTreeMap::new(),
            tombstones: Vec::new(),
            blind: None,
        }
    }

    /// Wall-clock time of now, ns since 1970.
    #[must_use]
    pub fn now_ns(&self) -> i64 {
        let boot = i64::try_from(self.now_boot_ns).unwrap_or(i64::MAX);
        self.boot_time_ns.saturating_add(boot)
    }

    /// The row of an event type in the account.
    pub fn row(&mut self, name: &str) -> &mut v1::LedgerRow {
        let row = self.rows.entry(name.to_owned()).or_default();
        if row.name.is_empty() {
            name.clone_into(&mut row.name);
            row.in_kernel = true;
        }
        row
    }

    fn event(&mut self, process: &v1::Process, body: Body) -> v1::Event {
        self.counter = self.counter.saturating_add(1);
        self.now_boot_ns = self.now_boot_ns.saturating_add(50_000);
        v1::Event {
            id: Some(v1::EventId {
                counter: self.counter,
                ..v1::EventId::default()
            }),
            time_ns: self.now_ns(),
            time_boot_ns: self.now_boot_ns,
            cpu: Some(0),
            lane: v1::Lane::Process.into(),
            backend: v1::Backend::Tracepoint.into(),
            process: Some(process.reference()),
            body: Some(body),
            ..v1::Event::default()
        }
    }

    fn process(&self, pid: u32, path: &str) -> v1::Process {
        let user = |id: u32, name: &str| {
            Some(v1::User {
                id,
                name: Some(name.to_owned()),
                domain: None,
            })
        };
        let id = unique_pid(&self.boot_id.to_string(), pid, u64::from(pid));
        v1::Process {
            unique_pid: id.as_bytes().to_vec(),
            exec_id: 1,
            pid,
            start_boot_ns: u64::from(pid).saturating_mul(10_000_000),
            image: Some(v1::FileInfo {
                path: Some(path.as_bytes().to_vec()),
                hashes: Some(v1::Hashes {
                    sha256: Some(digest(path.as_bytes()).to_vec()),
                    ..v1::Hashes::default()
                }),
                ..v1::FileInfo::default()
            }),
            comm: path.rsplit('/').next().map(|name| name.as_bytes().to_vec()),
            argv: vec![path.as_bytes().to_vec(), b"--flag".to_vec()],
            credentials: Some(v1::Credentials {
                real_user: user(1_000, "alice"),
                effective_user: user(1_000, "alice"),
                ..v1::Credentials::default()
            }),
            ..v1::Process::default()
        }
    }

    fn add(&mut self, seen: &mut Seen, name: &str, process: v1::Process, body: Body) {
        let event = self.event(&process, body);
        seen.events.push(event);
        let key = (process.unique_pid.clone(), process.exec_id);
        seen.processes.insert(key, process);
        let row = self.row(name);
        for counter in [
            &mut row.attempted,
            &mut row.submitted,
            &mut row.decoded,
            &mut row.sealed,
        ] {
            *counter = counter.saturating_add(1);
        }
    }

    /// A process executes a program; its hash is that of its path.
    pub fn exec(&mut self, seen: &mut Seen, pid: u32, path: &str) {
        let process = self.process(pid, path);
        self.add(seen, "exec", process, Body::Exec(v1::Exec::default()));
    }

    /// A process ends.
    pub fn exit(&mut self, seen: &mut Seen, pid: u32, path: &str) {
        let process = self.process(pid, path);
        let exit = v1::Exit {
            code: Some(0),
            run_duration_ns: Some(1_000_000),
            ..v1::Exit::default()
        };
        self.add(seen, "exit", process, Body::Exit(exit));
    }

    /// A process connects.
    pub fn connect(&mut self, seen: &mut Seen, pid: u32, path: &str, address: [u8; 4], port: u16) {
        let process = self.process(pid, path);
        let end = |address: [u8; 4], port: u16| {
            Some(v1::Endpoint {
                address: Some(address.to_vec()),
                port: Some(u32::from(port)),
                ..v1::Endpoint::default()
            })
        };
        let connect = v1::Connect {
            family: v1::AddressFamily::Inet.into(),
            socket_type: v1::SocketType::Stream.into(),
            transport: v1::Transport::Tcp.into(),
            direction: v1::Direction::Outbound.into(),
            local: end([10, 0, 0, 1], 40_000),
            remote: end(address, port),
            result: v1::ConnectResult::Established.into(),
            ..v1::Connect::default()
        };
        self.add(seen, "connect", process, Body::Connect(connect));
    }

    /// A process creates a file; its hash is that of its path.
    pub fn create(&mut self, seen: &mut Seen, pid: u32, path: &str, file: &str) {
        let process = self.process(pid, path);
        let create = v1::FileCreate {
            how: v1::FileCreateHow::Open.into(),
            file: Some(v1::FileInfo {
                path: Some(file.as_bytes().to_vec()),
                size: Some(7),
                hashes: Some(v1::Hashes {
                    sha256: Some(digest(file.as_bytes()).to_vec()),
                    ..v1::Hashes::default()
                }),
                ..v1::FileInfo::default()
            }),
            closed: true,
            ..v1::FileCreate::default()
        };
        self.add(seen, "file_create", process, Body::FileCreate(create));
    }

    /// The label and the body of the next packet, for tests that spoil them.
    pub fn parts(&mut self, seen: Seen) -> (Label, v1::PacketBody) {
        self.sequence = self.sequence.saturating_add(1);
        let mut packed: BTreeMap<String, u64> = BTreeMap::new();
        for event in &seen.events {
            let name = event.event_type().short_name().to_owned();
            let count = packed.entry(name).or_default();
            *count = count.saturating_add(1);
        }
        for (name, count) in packed {
            let row = self.row(&name);
            row.packed = row.packed.saturating_add(count);
        }
        let label = Label {
            agent_id: *self.agent_id.as_bytes(),
            epoch: self.epoch,
            stream: self.stream,
            sequence: self.sequence,
            previous: self.previous,
            sealed_time_ns: self.now_ns(),
            boot_id: *self.boot_id.as_bytes(),
            run_id: self.run_id,
            accounted_boot_ns: self.now_boot_ns,
        };
        let body = v1::PacketBody {
            agent: Some(v1::Agent {
                id: self.agent_id.as_bytes().to_vec(),
                epoch: self.epoch.to_vec(),
                version: "0.1.0-test".to_owned(),
                schema_version: sensor_proto::SCHEMA_VERSION,
            }),
            host: Some(v1::Host {
                name: self.host.clone(),
                boot_id: self.boot_id.as_bytes().to_vec(),
                boot_time_ns: self.boot_time_ns,
                ..v1::Host::default()
            }),
            processes: seen.processes.into_values().collect(),
            events: seen.events,
            ledger: Some(v1::LedgerReport {
                run_began_time_ns: self.run_began_ns,
                at_boot_ns: self.now_boot_ns,
                rows: self.rows.values().cloned().collect(),
                ..v1::LedgerReport::default()
            }),
            tombstones: std::mem::take(&mut self.tombstones),
            blind: self.blind.take(),
            wall_minus_boot_ns: self.boot_time_ns,
            ..v1::PacketBody::default()
        };
        (label, body)
    }

    /// The next packet.
    ///
    /// # Errors
    /// [`PackError`]: events of another stream.
    pub fn seal(&mut self, seen: Seen) -> Result<Vec<u8>, PackError> {
        let (label, body) = self.parts(seen);
        let packed = Packer::new()?.pack(&label, body)?;
        self.previous = Some(packed.digest);
        Ok(packed.bytes)
    }
}
