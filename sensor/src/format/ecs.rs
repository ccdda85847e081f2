//! An event in the Elastic Common Schema 9.4.
//!
//! What ECS has no field for stands under `sensor.`, at its path in the native view ([`mapping`]). Text that is
//! not UTF-8 shows each wrong byte as `\xHH`; its raw form is there too, in a field `*_raw`. Instants keep their nanoseconds.

use std::sync::LazyLock;

use sensor_proto::json::{Writer, address, id_prefix};
use sensor_proto::v1::event::Body;
use sensor_proto::v1::patch::Part;
use sensor_proto::v1::{
    self, AddressFamily, ConnectResult, ContentType, Direction, FileType, Transport,
};

use super::mapping::{self, Subject, Trees, patched_image};
use super::{Complete, errno};

/// Version of ECS that the events follow.
pub const VERSION: &str = "9.4.0";

/// Names of the capabilities by number (capabilities(7)).
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Bits of stx_attributes (statx(2)) by name.
const ATTRIBUTES: [(u64, &str); 9] = [
    (0x4, "compressed"),
    (0x10, "immutable"),
    (0x20, "append"),
    (0x40, "nodump"),
    (0x800, "encrypted"),
    (0x1000, "automount"),
    (0x2000, "mount_root"),
    (0x10_0000, "verity"),
    (0x20_0000, "dax"),
];

static TREES: LazyLock<Trees> = LazyLock::new(|| Trees::new(|row| row.ecs, false, false));

/// Appends the event as one JSON object without line end.
pub fn write(complete: &Complete<'_>, out: &mut Vec<u8>) {
    let prefix = id_prefix(complete.agent);
    let event = complete.event;
    let body = mapping::described(event);
    let mut writer = Writer::new(out, &prefix);
    writer.value(|w| {
        w.time_field("@timestamp", event.time_ns);
        w.object("ecs", |w| w.text_field("version", VERSION));
        w.object("event", |w| description(w, complete, body));
        agent(w, complete.agent);
        host(w, complete);
        actor(w, complete);
        if let Some(body) = body {
            details(w, complete, body);
        }
        w.object("sensor", |w| mapping::rest(w, complete, &TREES, true));
    });
}

/// `event.*`.
fn description(w: &mut Writer<'_>, complete: &Complete<'_>, body: Option<&Body>) {
    let event = complete.event;
    w.text_field("kind", "event");
    let category = match Subject::of(event) {
        Subject::Process => Some("process"),
        Subject::File => Some("file"),
        Subject::Network => Some("network"),
        Subject::Module => Some("driver"),
        Subject::Other => None,
    };
    if let Some(category) = category {
        w.list_of("category", [category], Writer::text_value);
        w.list_of("type", types(body).iter().copied(), Writer::text_value);
    }
    let name = event.event_type().short_name();
    w.text_field("action", name);
    w.text_field("module", "sensor");
    w.field("dataset", |w| {
        w.kernel_pair_value(b"sensor", b".", name.as_bytes());
    });
    if let Some(id) = &event.id {
        w.native_field("id", id);
    }
    if let Some(sequence) = event.sequence {
        w.number_field("sequence", sequence);
    }
    if let Some(time_ns) = event.processed_time_ns {
        w.time_field("created", time_ns);
    }
    if let Some(Body::Aggregate(aggregate)) = &event.body {
        w.time_field("start", aggregate.first_time_ns);
        w.time_field("end", aggregate.last_time_ns);
    }
    let Some(body) = body else {
        return;
    };
    match body {
        Body::Exec(_) | Body::Fork(_) | Body::FileCreate(_) => {
            w.text_field("outcome", "success");
        }
        Body::ModuleLoad(load) => {
            let outcome = if load.errno.is_some() {
                "failure"
            } else {
                "success"
            };
            w.text_field("outcome", outcome);
        }
        Body::Connect(connect) => result(w, connect.result, connect.duration_ns),
        Body::Patch(patch) => {
            if let Some(Part::Connect(connect)) = &patch.part {
                result(w, connect.result, connect.duration_ns);
            }
        }
        Body::Exit(_) | Body::Aggregate(_) => {}
    }
}

/// `event.type`, of those that ECS expects for the category.
fn types(body: Option<&Body>) -> &'static [&'static str] {
    match body {
        Some(Body::Exec(_) | Body::Fork(_) | Body::ModuleLoad(_)) => &["start"],
        Some(Body::Exit(_)) => &["end"],
        Some(Body::FileCreate(_)) => &["creation"],
        Some(Body::Connect(_)) => &["connection", "start"],
        Some(Body::Patch(_) | Body::Aggregate(_)) | None => &["info"],
    }
}

fn result(w: &mut Writer<'_>, result: i32, duration_ns: Option<u64>) {
    let outcome = match ConnectResult::try_from(result) {
        Ok(ConnectResult::Established) => "success",
        Ok(
            ConnectResult::Refused
            | ConnectResult::TimedOut
            | ConnectResult::Unreachable
            | ConnectResult::Aborted
            | ConnectResult::Failed,
        ) => "failure",
        Ok(ConnectResult::Unspecified | ConnectResult::InProgress) | Err(_) => "unknown",
    };
    w.text_field("outcome", outcome);
    if let Some(duration_ns) = duration_ns {
        w.number_field("duration", duration_ns);
    }
}

fn agent(w: &mut Writer<'_>, agent: &v1::Agent) {
    w.object("agent", |w| {
        w.uuid_field("id", &agent.id);
        w.hex_field("ephemeral_id", &agent.epoch);
        w.text_field("type", "sensor");
        w.text_field("version", &agent.version);
    });
}

fn host(w: &mut Writer<'_>, complete: &Complete<'_>) {
    let host = complete.host;
    w.object("host", |w| {
        w.text_field("hostname", &host.name);
        w.text_field("name", host.fqdn.as_ref().unwrap_or(&host.name));
        w.list_of("ip", &host.addresses, |w, ip| w.ip_value(ip));
        // The form of RFC 7042, which ECS asks for.
        w.list_of("mac", &host.mac_addresses, |w, mac| {
            w.mac_value(mac, b'-', true);
        });
        w.object("boot", |w| w.uuid_field("id", &host.boot_id));
        if let Some(os) = &host.os {
            w.text_field("architecture", &os.architecture);
            w.object("os", |w| {
                w.text_field("type", &os.r#type);
                w.some_text_field("platform", os.id.as_deref());
                w.some_text_field("name", os.name.as_deref());
                w.some_text_field("version", os.version.as_deref());
                w.some_text_field("full", os.full_name.as_deref());
                w.text_field("kernel", &os.kernel_release);
            });
        }
        let namespaces = complete.actor().and_then(|row| row.namespaces.as_ref());
        if let Some(number) = namespaces.and_then(|namespaces| namespaces.pid) {
            w.decimal_field("pid_ns_ino", u64::from(number));
        }
    });
}

/// `process.*`, `user.*` and `container.*`.
fn actor(w: &mut Writer<'_>, complete: &Complete<'_>) {
    let event = complete.event;
    w.object("process", |w| process(w, complete));
    let row = complete.actor();
    if let Some(credentials) = mapping::credentials(event, row)
        && let Some(effective) = &credentials.effective_user
    {
        w.object("user", |w| {
            user(w, effective);
            w.some_text_field("domain", effective.domain.as_deref());
            // Only where rights were taken that differ from those of who started it.
            let real = credentials.real_user.as_ref();
            if real.is_some_and(|real| real.id != effective.id) {
                w.object("effective", |w| {
                    user(w, effective);
                    if let Some(effective) = &credentials.effective_group {
                        w.object("group", |w| group(w, effective));
                    }
                });
            }
        });
    }
    let patched = mapping::patched_process(event).and_then(|process| process.container.as_ref());
    if let Some(container) = patched.or(row.and_then(|row| row.container.as_ref())) {
        w.object("container", |w| {
            w.text_field("id", &container.id);
            w.some_text_field("runtime", runtime(container));
            w.some_text_field("name", container.name.as_deref());
            image(w, container);
            labels(w, &container.labels);
        });
        w.object("orchestrator", |w| {
            w.some_text_field("namespace", container.pod_namespace.as_deref());
            w.object("resource", |w| {
                if container.pod_id.is_some() || container.pod_name.is_some() {
                    w.text_field("type", "pod");
                }
                w.some_text_field("id", container.pod_id.as_deref());
                w.some_text_field("name", container.pod_name.as_deref());
            });
        });
    }
}

/// `container.image`.
fn image(w: &mut Writer<'_>, container: &v1::Container) {
    w.object("image", |w| {
        if let Some(image) = &container.image {
            let (name, tag) = reference(image);
            w.text_field("name", name);
            w.list_of("tag", tag.as_slice(), |w, tag| w.text_value(tag));
        }
        w.object("hash", |w| {
            let digests = container.image_digest.as_slice();
            w.list_of("all", digests, |w, digest| w.text_value(digest));
        });
    });
}

/// Name and tag of an image's reference: `registry:5000/name:tag@digest`.
fn reference(image: &str) -> (&str, Option<&str>) {
    let image = image.split_once('@').map_or(image, |(name, _digest)| name);
    match image.rsplit_once(':') {
        // Of a registry's port a path follows.
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (image, None),
    }
}

/// `container.labels`: an object, whose keys have no dots, since each would be an object of its own. Of names that differ in
/// nothing else the first counts.
fn labels(w: &mut Writer<'_>, labels: &[v1::Label]) {
    let key = |name: &str| -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '/');
        name.chars()
            .map(|c| if plain(c) { c } else { '_' })
            .collect()
    };
    let mut told: Vec<String> = Vec::with_capacity(labels.len());
    w.object("labels", |w| {
        for label in labels {
            let key = key(&label.name);
            if !key.is_empty() && !told.contains(&key) {
                w.text_field(&key, label.value.as_deref().unwrap_or("***"));
                told.push(key);
            }
        }
    });
}

/// Name of a container's runtime, if known.
pub(super) fn runtime(container: &v1::Container) -> Option<&'static str> {
    v1::ContainerRuntime::try_from(container.runtime)
        .ok()
        .filter(|runtime| *runtime != v1::ContainerRuntime::Unspecified)
        .map(v1::ContainerRuntime::short_name)
}

fn process(w: &mut Writer<'_>, complete: &Complete<'_>) {
    let event = complete.event;
    if let Some(Body::Exit(exit)) = mapping::described(event) {
        if let Some(code) = exit.code {
            w.number_field("exit_code", u64::from(code));
        }
        if let Some(duration_ns) = exit.run_duration_ns {
            w.number_field("uptime", duration_ns / 1_000_000_000);
        }
    }
    let Some(reference) = &event.process else {
        return;
    };
    let row = complete.actor();
    if let Some(Body::Fork(fork)) = mapping::described(event)
        && let Some(child) = &fork.child
    {
        // The child is a copy of its maker but for who it is.
        identity(w, child);
        thread(w, None, row);
        if let Some(row) = row {
            program(w, row, complete);
        }
        w.object("parent", |w| {
            identity(w, reference);
            thread(w, reference.tid, None);
            if let Some(row) = row {
                life(w, row);
                parent(w, row);
            }
        });
        return;
    }
    identity(w, reference);
    thread(w, reference.tid, row);
    if let Some(row) = row {
        life(w, row);
        program(w, row, complete);
    } else if let Some(hashes) = patched_image(event).and_then(|image| image.hashes.as_ref()) {
        digests(w, hashes);
    }
    let reference = row.and_then(|row| row.parent.as_ref());
    w.object("parent", |w| match (complete.parent, reference) {
        (Some(row), Some(_)) => {
            identity(w, &row.reference());
            life(w, row);
            parent(w, row);
        }
        (_, Some(reference)) => identity(w, reference),
        (_, None) => {}
    });
}

fn identity(w: &mut Writer<'_>, reference: &v1::ProcessRef) {
    if let Some(unique_pid) = &reference.unique_pid {
        w.uuid_field("entity_id", unique_pid);
    }
    w.number_field("pid", u64::from(reference.pid));
}

fn thread(w: &mut Writer<'_>, tid: Option<u32>, row: Option<&v1::Process>) {
    w.object("thread", |w| {
        if let Some(tid) = tid {
            w.number_field("id", u64::from(tid));
        }
        let Some(sets) = row.and_then(|row| row.capabilities.as_ref()) else {
            return;
        };
        w.object("capabilities", |w| {
            for (name, set) in [("effective", sets.effective), ("permitted", sets.permitted)] {
                let Some(set) = set else {
                    continue;
                };
                if set == 0 {
                    // None is not the same as not known.
                    w.field(name, Writer::empty_list_value);
                }
                let numbers = (0..64).filter(|number| set >> number & 1 == 1);
                w.list_of(name, numbers, |w, number: usize| {
                    match CAPABILITIES.get(number) {
                        Some(name) => w.text_value(name),
                        None => w.display_value(&number),
                    }
                });
            }
        });
    });
}

fn life(w: &mut Writer<'_>, row: &v1::Process) {
    if let Some(pid) = row.ns_pid {
        w.number_field("vpid", u64::from(pid));
    }
    w.time_field("start", row.start_time_ns);
    if let Some(time_ns) = row.end_time_ns {
        w.time_field("end", time_ns);
    }
}

/// What the native view tells of a parent.
fn parent(w: &mut Writer<'_>, row: &v1::Process) {
    command(w, row);
    if let Some(hashes) = row.image.as_ref().and_then(|image| image.hashes.as_ref()) {
        digests(w, hashes);
    }
}

fn command(w: &mut Writer<'_>, row: &v1::Process) {
    if let Some(name) = row.name() {
        w.kernel_text_only_field("name", name);
    }
    if let Some(path) = row.image.as_ref().and_then(|image| image.path.as_deref()) {
        w.kernel_text_only_field("executable", path);
    }
    if row.argv.is_empty() {
        return;
    }
    w.list_of("args", &row.argv, |w, word| w.kernel_text_value(word));
    if let (false, Ok(count)) = (row.argv_truncated, u64::try_from(row.argv.len())) {
        w.number_field("args_count", count);
    }
    w.joined_field("command_line", &row.argv);
}

/// What a process runs, and as whom.
fn program(w: &mut Writer<'_>, row: &v1::Process, complete: &Complete<'_>) {
    command(w, row);
    let image = patched_image(complete.event)
        .filter(|file| file.hashes.is_some())
        .or(row.image.as_ref());
    if let Some(hashes) = image.and_then(|image| image.hashes.as_ref()) {
        digests(w, hashes);
    }
    w.list_of("env_vars", &row.environment, |w, variable| {
        match (&variable.value, variable.redacted) {
            (Some(value), false) => w.kernel_pair_value(&variable.name, b"=", value),
            (_, true) => w.kernel_pair_value(&variable.name, b"=", b"***"),
            (None, false) => w.kernel_text_value(&variable.name),
        }
    });
    if let Some(folder) = &row.working_directory {
        w.kernel_text_only_field("working_directory", folder);
    }
    let credentials = row.credentials.as_ref();
    if let Some(credentials) = credentials {
        let users = [
            ("real_user", &credentials.real_user),
            ("user", &credentials.effective_user),
            ("saved_user", &credentials.saved_user),
        ];
        for (name, who) in users {
            w.object(name, |w| who.iter().for_each(|who| user(w, who)));
        }
        let groups = [
            ("real_group", &credentials.real_group),
            ("group", &credentials.effective_group),
            ("saved_group", &credentials.saved_group),
        ];
        for (name, which) in groups {
            w.object(name, |w| which.iter().for_each(|which| group(w, which)));
        }
        w.list_of(
            "supplemental_groups",
            &credentials.supplementary_groups,
            |w, which| w.value(|w| group(w, which)),
        );
    }
    let session = row.session.as_ref();
    if let Some(device) = session.and_then(|session| session.tty_device) {
        w.object("tty", |w| {
            w.object("char_device", |w| {
                w.number_field("major", u64::from((device >> 8) & 0xfff));
                w.number_field("minor", minor(device));
            });
        });
    }
    w.object("entry_leader", |w| {
        if let Some(login) = credentials.and_then(|credentials| credentials.login_user.as_ref()) {
            w.object("attested_user", |w| user(w, login));
        }
        let login = credentials.and_then(|credentials| credentials.login_group.as_ref());
        if let Some(name) = login.and_then(|login| login.name.as_deref()) {
            w.object("attested_groups", |w| w.text_field("name", name));
        }
        if let Some(ip) = session.and_then(|session| session.remote_address.as_deref()) {
            w.object("entry_meta", |w| {
                w.object("source", |w| w.ip_field("ip", ip));
            });
        }
    });
    if let Some(sid) = session.and_then(|session| session.sid) {
        w.object("session_leader", |w| {
            w.number_field("pid", u64::from(sid));
            let known = std::iter::once(row).chain(complete.lineage());
            if let Some(leader) = known.into_iter().find(|known| known.pid == sid) {
                w.uuid_field("entity_id", &leader.unique_pid);
            }
        });
    }
}

fn user(w: &mut Writer<'_>, user: &v1::User) {
    w.decimal_field("id", u64::from(user.id));
    w.some_text_field("name", user.name.as_deref());
}

fn group(w: &mut Writer<'_>, group: &v1::Group) {
    w.decimal_field("id", u64::from(group.id));
    w.some_text_field("name", group.name.as_deref());
}

/// Minor number of a device: bits 0 to 7 and 20 to 31.
fn minor(device: u32) -> u64 {
    u64::from(device & 0xff | device >> 12 & 0xf_ff00)
}

fn digests(w: &mut Writer<'_>, hashes: &v1::Hashes) {
    w.object("hash", |w| {
        let digests = [
            ("md5", &hashes.md5),
            ("sha1", &hashes.sha1),
            ("sha256", &hashes.sha256),
        ];
        for (name, digest) in digests {
            if let Some(digest) = digest {
                w.hex_field(name, digest);
            }
        }
    });
}

/// What the body tells, outside of `process.*`.
fn details(w: &mut Writer<'_>, complete: &Complete<'_>, body: &Body) {
    match body {
        Body::Exec(_) => {
            if let Some(image) = complete.actor().and_then(|row| row.image.as_ref()) {
                file(w, image);
            }
        }
        Body::Exit(_) | Body::Fork(_) | Body::Aggregate(_) => {}
        Body::FileCreate(body) => {
            if let Some(created) = &body.file {
                file(w, created);
            }
        }
        Body::Connect(body) => connect(w, body),
        Body::ModuleLoad(body) => {
            w.object("dll", |w| {
                let info = body.file.as_ref();
                let name = body.name.as_deref();
                if let Some(name) = name.or(info.and_then(v1::FileInfo::name)) {
                    w.kernel_text_only_field("name", name);
                }
                if let Some(path) = info.and_then(|info| info.path.as_deref()) {
                    w.kernel_text_only_field("path", path);
                }
                if let Some(hashes) = info.and_then(|info| info.hashes.as_ref()) {
                    digests(w, hashes);
                }
            });
            if let Some(info) = &body.file {
                file(w, info);
            }
            error(w, body.errno);
        }
        Body::Patch(body) => {
            if let Some(patched) = mapping::patched_file(body) {
                file(w, patched);
            }
            if let Some(Part::Connect(connect)) = &body.part {
                // Only who began waits for a result.
                endpoint(w, "source", connect.local.as_ref());
                error(w, connect.errno);
            }
        }
    }
}

fn error(w: &mut Writer<'_>, number: Option<u32>) {
    let Some(number) = number else {
        return;
    };
    w.object("error", |w| match errno::name(number) {
        Some((name, meaning)) => {
            w.text_field("code", &name);
            w.text_field("message", meaning);
        }
        None => w.decimal_field("code", u64::from(number)),
    });
}

fn connect(w: &mut Writer<'_>, connect: &v1::Connect) {
    let direction = Direction::try_from(connect.direction);
    let (source, destination) = match direction {
        Ok(Direction::Inbound) => (&connect.remote, &connect.local),
        Ok(Direction::Outbound | Direction::Unspecified) | Err(_) => {
            (&connect.local, &connect.remote)
        }
    };
    endpoint(w, "source", source.as_ref());
    endpoint(w, "destination", destination.as_ref());
    w.object("network", |w| {
        match AddressFamily::try_from(connect.family) {
            Ok(AddressFamily::Inet) => w.text_field("type", "ipv4"),
            Ok(AddressFamily::Inet6) => w.text_field("type", "ipv6"),
            Ok(AddressFamily::Unix | AddressFamily::Unspecified) | Err(_) => {}
        }
        w.some_text_field("transport", transport(connect));
        // From 256 on the numbers are the kernel's own.
        if let Some(protocol) = connect.protocol.filter(|protocol| *protocol < 256) {
            w.decimal_field("iana_number", u64::from(protocol));
        }
        match direction {
            Ok(Direction::Outbound) => w.text_field("direction", "egress"),
            Ok(Direction::Inbound) => w.text_field("direction", "ingress"),
            Ok(Direction::Unspecified) | Err(_) => {}
        }
    });
    error(w, connect.errno);
}

/// Name of the transport protocol: IANA's keyword where it has one.
pub(super) fn transport(connect: &v1::Connect) -> Option<&'static str> {
    Some(match Transport::try_from(connect.transport).ok()? {
        Transport::Unspecified => return None,
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
        Transport::Udplite => "udplite",
        Transport::Icmp => "icmp",
        Transport::Icmpv6 => "ipv6-icmp",
        Transport::Sctp => "sctp",
        Transport::Dccp => "dccp",
        Transport::Mptcp => "mptcp",
        Transport::Raw => "raw",
        Transport::Unix => "unix",
    })
}

fn endpoint(w: &mut Writer<'_>, name: &str, end: Option<&v1::Endpoint>) {
    let Some(end) = end else {
        return;
    };
    w.object(name, |w| {
        let ip = end.address.as_deref().filter(|ip| address(ip).is_some());
        match (&end.unix_path, ip) {
            (Some(path), _) => w.kernel_text_only_field("address", path),
            (None, Some(ip)) => w.ip_field("address", ip),
            (None, None) => {}
        }
        if let Some(ip) = ip {
            w.ip_field("ip", ip);
        }
        if let Some(port) = end.port {
            w.number_field("port", u64::from(port));
        }
    });
}

fn file(w: &mut Writer<'_>, info: &v1::FileInfo) {
    w.object("file", |w| {
        if let Some(path) = &info.path {
            w.kernel_text_only_field("path", path);
        }
        if let Some(name) = info.name() {
            w.kernel_text_only_field("name", name);
            let dot = name.iter().rposition(|byte| *byte == b'.');
            // A leading dot hides a file and begins no extension.
            if let Some(extension) = dot.filter(|at| *at > 0).and_then(|at| name.get(at + 1..))
                && !extension.is_empty()
            {
                w.kernel_text_only_field("extension", extension);
            }
        }
        if let Some(folder) = info.dir() {
            w.kernel_text_only_field("directory", folder);
        }
        w.some_text_field("type", file_type(info));
        if let Some(mode) = info.mode {
            w.field("mode", |w| {
                w.display_value(&format_args!("{:04o}", mode & 0o7777));
            });
        }
        if let Some(size) = info.size {
            w.number_field("size", size);
        }
        if let Some(owner) = &info.owner_user {
            w.decimal_field("uid", u64::from(owner.id));
            w.some_text_field("owner", owner.name.as_deref());
        }
        if let Some(owner) = &info.owner_group {
            w.decimal_field("gid", u64::from(owner.id));
            w.some_text_field("group", owner.name.as_deref());
        }
        let times = [
            ("created", info.btime_ns),
            ("mtime", info.mtime_ns),
            ("ctime", info.ctime_ns),
        ];
        for (name, time_ns) in times {
            if let Some(time_ns) = time_ns {
                w.time_field(name, time_ns);
            }
        }
        if let Some(device) = info.device {
            w.field("device", |w| {
                let major = device >> 8 & 0xfff;
                w.display_value(&format_args!("{major}:{}", minor(device)));
            });
        }
        if let Some(inode) = info.inode {
            w.decimal_field("inode", inode);
        }
        if let Some(target) = &info.link_target {
            w.kernel_text_only_field("target_path", target);
        }
        if let Some(set) = info.attributes {
            let names = ATTRIBUTES.iter().filter(|(bit, _)| set & bit != 0);
            w.list_of("attributes", names, |w, (_, name)| w.text_value(name));
        }
        w.some_text_field("mime_type", mime_type(info));
        w.object("elf", |w| {
            w.object("header", |w| w.some_text_field("type", elf_type(info)));
        });
        if let Some(hashes) = &info.hashes {
            digests(w, hashes);
        }
    });
}

fn file_type(info: &v1::FileInfo) -> Option<&'static str> {
    Some(match FileType::try_from(info.r#type).ok()? {
        FileType::Unspecified => return None,
        FileType::Regular => "file",
        FileType::Directory => "dir",
        FileType::Symlink => "symlink",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character_device",
        FileType::BlockDevice => "block_device",
    })
}

/// Name of e_type, for ELF files.
fn elf_type(info: &v1::FileInfo) -> Option<&'static str> {
    match ContentType::try_from(info.content_type).ok()? {
        ContentType::ElfExecutable => Some("ET_EXEC"),
        ContentType::ElfShared => Some("ET_DYN"),
        ContentType::ElfRelocatable => Some("ET_REL"),
        ContentType::ElfCore => Some("ET_CORE"),
        ContentType::Unspecified
        | ContentType::Other
        | ContentType::Empty
        | ContentType::Script
        | ContentType::Archive
        | ContentType::Pe
        | ContentType::Pdf
        | ContentType::Bytecode => None,
    }
}

/// Media type of the content, where the content type is narrow enough to have one.
pub(super) fn mime_type(info: &v1::FileInfo) -> Option<&'static str> {
    match ContentType::try_from(info.content_type).ok()? {
        ContentType::ElfExecutable => Some("application/x-executable"),
        ContentType::ElfShared => Some("application/x-sharedlib"),
        ContentType::ElfRelocatable => Some("application/x-object"),
        ContentType::ElfCore => Some("application/x-coredump"),
        ContentType::Empty => Some("inode/x-empty"),
        ContentType::Pe => Some("application/vnd.microsoft.portable-executable"),
        ContentType::Pdf => Some("application/pdf"),
        ContentType::Unspecified
        | ContentType::Other
        | ContentType::Script
        | ContentType::Archive
        | ContentType::Bytecode => None,
    }
}
