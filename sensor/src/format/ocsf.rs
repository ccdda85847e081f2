//! An event in the Open Cybersecurity Schema Framework 1.8, without the profile `datetime`: instants are milliseconds since 1970.
//!
//! What OCSF has no attribute for stands under `unmapped.`, at its path in the native view ([`mapping`]); there too is what
//! attributes of OCSF cannot hold exactly (the raw form of text that is not UTF-8, spans in nanoseconds).
//!
//! Classes: exec, exit and fork are `process_activity`, file_create is `file_activity`, connect `network_activity`, module_load
//! `kernel_extension_activity`. A patch has the class of what it adds to (the program or container of a process, the file, the
//! connection, the module), activity 99 `Patch`, and `metadata.correlation_uid`, the id of the event that it completes. An
//! aggregate has class and activity of its sample, with `count`, `start_time` and `end_time`. What cannot fill its class (an aggregate
//! without sample, a patch of a process of which nothing is known, a body of a newer schema) is a `base_event`.

use std::sync::LazyLock;

use sensor_proto::json::{Writer, address, id_prefix};
use sensor_proto::v1::event::Body;
use sensor_proto::v1::patch::Part;
use sensor_proto::v1::{self, AddressFamily, ConnectResult, Direction, FileType};

use super::ecs::{mime_type, runtime, transport};
use super::mapping::{self, Subject, Trees, patched_image};
use super::{Complete, errno};

/// Version of OCSF that the events follow.
pub const VERSION: &str = "1.8.0";

/// Activity without a number of its own, in every class.
const OTHER: Activity = Activity {
    number: 99,
    name: "Other",
};

static TREES: LazyLock<Trees> = LazyLock::new(|| Trees::new(|row| row.ocsf, true, true));

/// A class of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Class {
    category: u64,
    category_name: &'static str,
    number: u64,
    name: &'static str,
}

const BASE: Class = Class {
    category: 0,
    category_name: "Uncategorized",
    number: 0,
    name: "Base Event",
};
const FILE: Class = Class {
    category: 1,
    category_name: "System Activity",
    number: 1001,
    name: "File System Activity",
};
const KERNEL_EXTENSION: Class = Class {
    category: 1,
    category_name: "System Activity",
    number: 1002,
    name: "Kernel Extension Activity",
};
const PROCESS: Class = Class {
    category: 1,
    category_name: "System Activity",
    number: 1007,
    name: "Process Activity",
};
const NETWORK: Class = Class {
    category: 4,
    category_name: "Network Activity",
    number: 4001,
    name: "Network Activity",
};

/// What happened, in its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Activity {
    number: u64,
    name: &'static str,
}

const fn activity(number: u64, name: &'static str) -> Activity {
    Activity { number, name }
}

/// Whether it went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Unknown,
    Success,
    Failure,
}

/// Appends the event as one JSON object without line end.
pub fn write(complete: &Complete<'_>, out: &mut Vec<u8>) {
    let prefix = id_prefix(complete.agent);
    let event = complete.event;
    let body = mapping::described(event);
    let class = class(complete);
    let activity = activity_of(class, event, body);
    let mut writer = Writer::new(out, &prefix);
    writer.value(|w| {
        w.number_field("class_uid", class.number);
        w.text_field("class_name", class.name);
        w.number_field("category_uid", class.category);
        w.text_field("category_name", class.category_name);
        w.number_field("activity_id", activity.number);
        w.text_field("activity_name", activity.name);
        w.number_field("type_uid", class.number * 100 + activity.number);
        // It tells what happened and judges nothing.
        w.number_field("severity_id", 1);
        w.text_field("severity", "Informational");
        w.milliseconds_field("time", event.time_ns);
        if let Some(Body::Aggregate(aggregate)) = &event.body {
            w.number_field("count", aggregate.count);
            w.milliseconds_field("start_time", aggregate.first_time_ns);
            w.milliseconds_field("end_time", aggregate.last_time_ns);
        }
        if let Some(body) = body
            && class != BASE
        {
            status(w, body);
        }
        metadata(w, complete);
        device(w, complete);
        actor(w, complete, class);
        if let Some(body) = body {
            details(w, complete, body, class);
        }
        w.object("unmapped", |w| {
            mapping::rest(w, complete, &TREES, class != BASE);
        });
    });
}

/// The class whose attributes can be filled.
fn class(complete: &Complete<'_>) -> Class {
    match Subject::of(complete.event) {
        Subject::Process if complete.event.process.is_some() => PROCESS,
        Subject::File => FILE,
        Subject::Network => NETWORK,
        Subject::Module => KERNEL_EXTENSION,
        Subject::Process | Subject::Other => BASE,
    }
}

fn activity_of(class: Class, event: &v1::Event, body: Option<&Body>) -> Activity {
    if class == BASE {
        return match &event.body {
            Some(Body::Aggregate(_)) => activity(99, "Aggregate"),
            Some(Body::Patch(_)) => activity(99, "Patch"),
            Some(_) | None => OTHER,
        };
    }
    match body {
        Some(Body::Exec(_) | Body::Fork(_)) => activity(1, "Launch"),
        Some(Body::Exit(_)) => activity(2, "Terminate"),
        Some(Body::FileCreate(_)) => activity(1, "Create"),
        Some(Body::ModuleLoad(_)) => activity(1, "Load"),
        Some(Body::Connect(connect)) => match ConnectResult::try_from(connect.result) {
            Ok(ConnectResult::Refused) => activity(5, "Refuse"),
            Ok(
                ConnectResult::TimedOut
                | ConnectResult::Unreachable
                | ConnectResult::Aborted
                | ConnectResult::Failed,
            ) => activity(4, "Fail"),
            Ok(
                ConnectResult::Established | ConnectResult::InProgress | ConnectResult::Unspecified,
            )
            | Err(_) => activity(1, "Open"),
        },
        Some(Body::Patch(_)) => activity(99, "Patch"),
        Some(Body::Aggregate(_)) | None => OTHER,
    }
}

fn status(w: &mut Writer<'_>, body: &Body) {
    match body {
        Body::Exec(_) | Body::Fork(_) | Body::FileCreate(_) => outcome(w, Status::Success),
        Body::ModuleLoad(load) => {
            outcome(
                w,
                if load.errno.is_some() {
                    Status::Failure
                } else {
                    Status::Success
                },
            );
            error(w, load.errno);
        }
        Body::Connect(connect) => {
            result(w, connect.result, connect.errno, connect.duration_ns);
        }
        Body::Patch(patch) => {
            if let Some(Part::Connect(connect)) = &patch.part {
                result(w, connect.result, connect.errno, connect.duration_ns);
            }
        }
        Body::Exit(exit) => {
            if let Some(code) = exit.code {
                w.number_field("exit_code", u64::from(code));
            }
        }
        Body::Aggregate(_) => {}
    }
}

fn result(w: &mut Writer<'_>, result: i32, number: Option<u32>, duration_ns: Option<u64>) {
    let known = ConnectResult::try_from(result).ok();
    outcome(
        w,
        match known {
            Some(ConnectResult::Established) => Status::Success,
            Some(
                ConnectResult::Refused
                | ConnectResult::TimedOut
                | ConnectResult::Unreachable
                | ConnectResult::Aborted
                | ConnectResult::Failed,
            ) => Status::Failure,
            Some(ConnectResult::Unspecified | ConnectResult::InProgress) | None => Status::Unknown,
        },
    );
    if let Some(known) = known.filter(|known| *known != ConnectResult::Unspecified) {
        w.text_field("status_detail", known.short_name());
    }
    error(w, number);
    if let Some(duration_ns) = duration_ns {
        w.number_field("duration", duration_ns / 1_000_000);
    }
}

fn outcome(w: &mut Writer<'_>, status: Status) {
    let (number, name) = match status {
        Status::Unknown => (0, "Unknown"),
        Status::Success => (1, "Success"),
        Status::Failure => (2, "Failure"),
    };
    w.number_field("status_id", number);
    w.text_field("status", name);
}

fn error(w: &mut Writer<'_>, number: Option<u32>) {
    let Some(number) = number else {
        return;
    };
    match errno::name(number) {
        Some((name, _)) => w.text_field("status_code", &name),
        None => w.decimal_field("status_code", u64::from(number)),
    }
}

fn metadata(w: &mut Writer<'_>, complete: &Complete<'_>) {
    let event = complete.event;
    let row = complete.actor();
    w.object("metadata", |w| {
        w.text_field("version", VERSION);
        w.object("product", |w| {
            w.text_field("name", "sensor");
            w.text_field("vendor_name", "sensor");
            w.text_field("version", &complete.agent.version);
        });
        // Only profiles of which something is filled; others would make attributes mandatory.
        let linux = credentials_of(row).is_some();
        let container = container(complete).is_some();
        let profiles = [
            Some("host"),
            container.then_some("container"),
            linux.then_some("linux/linux_users"),
        ];
        w.list_of(
            "profiles",
            profiles.into_iter().flatten(),
            Writer::text_value,
        );
        if linux {
            w.list_of("extensions", [()], |w, ()| {
                w.value(|w| {
                    w.text_field("name", "linux");
                    w.text_field("uid", "1");
                    w.text_field("version", VERSION);
                });
            });
        }
        if let Some(id) = &event.id {
            w.native_field("uid", id);
        }
        if let Some(Body::Patch(patch)) = &event.body
            && let Some(completed) = &patch.of
        {
            w.native_field("correlation_uid", completed);
        }
        w.text_field("event_code", event.event_type().short_name());
        w.time_field("original_time", event.time_ns);
        if let Some(time_ns) = event.processed_time_ns {
            w.milliseconds_field("logged_time", time_ns);
            w.milliseconds_field("processed_time", time_ns);
        }
        if let Some(sequence) = event.sequence {
            w.number_field("sequence", sequence);
        }
        w.decimal_field("log_version", u64::from(complete.agent.schema_version));
        if is_truncated(complete) {
            w.bool_field("is_truncated", true);
        }
    });
}

/// Arguments, environment or a path were cut.
fn is_truncated(complete: &Complete<'_>) -> bool {
    let process = complete.actor().is_some_and(|row| {
        row.argv_truncated
            || row.environment_truncated
            || row.working_directory_truncated
            || row.image.as_ref().is_some_and(|image| image.path_truncated)
    });
    let cut = |file: Option<&v1::FileInfo>| file.is_some_and(|file| file.path_truncated);
    let body = match mapping::described(complete.event) {
        Some(Body::Exec(exec)) => exec.filename_truncated,
        Some(Body::FileCreate(create)) => cut(create.file.as_ref()),
        Some(Body::ModuleLoad(load)) => cut(load.file.as_ref()),
        Some(Body::Patch(patch)) => cut(mapping::patched_file(patch)),
        Some(Body::Exit(_) | Body::Fork(_) | Body::Connect(_) | Body::Aggregate(_)) | None => false,
    };
    process || body
}

/// The credentials of a row, if something of them has an attribute of the profile `linux/linux_users`.
fn credentials_of(row: Option<&v1::Process>) -> Option<&v1::Credentials> {
    let credentials = row?.credentials.as_ref()?;
    let filled = credentials.login_user.is_some()
        || credentials.effective_user.is_some()
        || credentials.effective_group.is_some()
        || credentials.real_group.is_some();
    filled.then_some(credentials)
}

/// The container of the acting process, as the event tells or completes it.
fn container<'a>(complete: &Complete<'a>) -> Option<&'a v1::Container> {
    let row = complete.actor();
    mapping::patched_process(complete.event)
        .filter(|_| complete.event.process.is_some())
        .and_then(|process| process.container.as_deref())
        .or_else(|| row.and_then(|row| row.container.as_deref()))
}

fn device(w: &mut Writer<'_>, complete: &Complete<'_>) {
    let (host, agent) = (complete.host, complete.agent);
    w.object("device", |w| {
        w.number_field("type_id", 0);
        w.uuid_field("uid", &agent.id);
        w.text_field("hostname", host.fqdn.as_ref().unwrap_or(&host.name));
        w.text_field("name", &host.name);
        if let Some(ip) = &host.primary_address {
            w.ip_field("ip", ip);
        }
        // Which address belongs to which interface is not told.
        let addresses = host.addresses.iter().map(|ip| (Some(ip), None));
        let macs = host.mac_addresses.iter().map(|mac| (None, Some(mac)));
        w.list_of(
            "network_interfaces",
            addresses.chain(macs).filter(|(ip, mac)| {
                ip.is_some_and(|ip| address(ip).is_some()) || mac.is_some_and(|mac| mac.len() == 6)
            }),
            |w, (ip, mac): (Option<&Vec<u8>>, Option<&Vec<u8>>)| {
                w.value(|w| {
                    if let Some(ip) = ip {
                        w.ip_field("ip", ip);
                    }
                    if let Some(mac) = mac {
                        w.field("mac", |w| w.mac_value(mac, b':', false));
                    }
                });
            },
        );
        if let Some(os) = &host.os {
            w.object("os", |w| {
                let name = os.name.as_ref().or(os.full_name.as_ref());
                w.text_field("name", name.unwrap_or(&os.r#type));
                w.number_field("type_id", if os.r#type == "linux" { 200 } else { 99 });
                w.text_field("type", &os.r#type);
                w.some_text_field("version", os.version.as_deref());
                w.text_field("kernel_release", &os.kernel_release);
                w.text_field("build", &os.kernel_version);
            });
        }
        w.uuid_field("boot_uid", &host.boot_id);
        w.milliseconds_field("boot_time", host.boot_time_ns);
        w.list_of("agent_list", [agent], |w, agent| {
            w.value(|w| {
                w.text_field("name", "sensor");
                w.uuid_field("uid", &agent.id);
                w.hex_field("uid_alt", &agent.epoch);
                w.number_field("type_id", 1);
                w.text_field("version", &agent.version);
            });
        });
    });
}

/// Who did it.
fn actor(w: &mut Writer<'_>, complete: &Complete<'_>, class: Class) {
    let event = complete.event;
    let row = complete.actor();
    w.object("actor", |w| {
        match &event.process {
            Some(reference) => {
                // A process that begins or ends a program is told as the process of the class; here stands only as whom it did that.
                let told_there = class == PROCESS && !is_fork(complete);
                w.object("process", |w| {
                    identity(w, reference);
                    subject(w, complete, row);
                    if let Some(row) = row
                        && !told_there
                    {
                        program(w, row, complete);
                    }
                });
            }
            // Work of the kernel itself, or of several processes.
            None => w.text_field("app_name", "kernel"),
        }
        let of_row = row.and_then(|row| row.credentials.as_ref());
        let effective = mapping::credentials(event, row)
            .and_then(|credentials| credentials.effective_user.as_ref());
        let groups = of_row.map_or(&[][..], |of_row| &of_row.supplementary_groups);
        w.object("user", |w| {
            if let Some(effective) = effective {
                user(w, effective);
                w.list_of("groups", groups, |w, which| w.value(|w| group(w, which)));
            }
        });
        session(w, row);
    });
}

fn is_fork(complete: &Complete<'_>) -> bool {
    matches!(
        mapping::described(complete.event),
        Some(Body::Fork(v1::Fork { child: Some(_), .. }))
    )
}

fn identity(w: &mut Writer<'_>, reference: &v1::ProcessRef) {
    if let Some(unique_pid) = &reference.unique_pid {
        w.uuid_field("uid", unique_pid);
        if unique_pid.len() == 16 {
            w.uuid_field("cpid", unique_pid);
        }
    }
    w.number_field("pid", u64::from(reference.pid));
    if let Some(tid) = reference.tid {
        w.number_field("ptid", u64::from(tid));
    }
}

/// As whom and where a process runs.
fn subject(w: &mut Writer<'_>, complete: &Complete<'_>, row: Option<&v1::Process>) {
    if let Some(container) = container(complete) {
        w.object("container", |w| {
            w.text_field("uid", &container.id);
            w.some_text_field("runtime", runtime(container));
            w.some_text_field("name", container.name.as_deref());
            let pod = container.pod_id.as_deref().filter(|pod| is_uuid(pod));
            w.some_text_field("pod_uuid", pod);
            let identity = [
                &container.image_id,
                &container.image_digest,
                &container.image,
            ];
            if let Some(identity) = identity.into_iter().flatten().next() {
                w.object("image", |w| {
                    w.text_field("uid", identity);
                    w.some_text_field("name", container.image.as_deref());
                });
            }
            w.list_of("tags", &container.labels, |w, label| {
                w.value(|w| {
                    w.text_field("name", &label.name);
                    w.text_field("value", label.value.as_deref().unwrap_or_default());
                });
            });
        });
        if let Some(pid) = row.and_then(|row| row.ns_pid) {
            w.number_field("namespace_pid", u64::from(pid));
        }
    }
    if let Some(real) = row
        .and_then(|row| row.credentials.as_ref())
        .and_then(|credentials| credentials.real_user.as_ref())
    {
        w.object("user", |w| user(w, real));
    }
    let Some(credentials) = credentials_of(row) else {
        return;
    };
    if let Some(real) = &credentials.real_group {
        w.object("group", |w| group(w, real));
    }
    if let Some(effective) = &credentials.effective_user {
        w.number_field("euid", u64::from(effective.id));
    }
    if let Some(effective) = &credentials.effective_group {
        w.number_field("egid", u64::from(effective.id));
    }
    if let Some(login) = &credentials.login_user {
        w.number_field("auid", u64::from(login.id));
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| {
            if matches!(at, 8 | 13 | 18 | 23) {
                byte == b'-'
            } else {
                byte.is_ascii_hexdigit()
            }
        })
}

/// What a process runs, and from whom it descends.
fn program(w: &mut Writer<'_>, row: &v1::Process, complete: &Complete<'_>) {
    w.milliseconds_field("created_time", row.start_time_ns);
    if let Some(time_ns) = row.end_time_ns {
        w.milliseconds_field("terminated_time", time_ns);
    }
    command(w, row);
    if let Some(image) = patched_image(complete.event).or(row.image.as_ref()) {
        w.object("file", |w| file(w, image, None));
    }
    w.list_of("environment_variables", &row.environment, |w, variable| {
        w.value(|w| {
            w.kernel_text_only_field("name", &variable.name);
            let value = variable.value.as_deref().filter(|_| !variable.redacted);
            w.kernel_text_only_field("value", value.unwrap_or_default());
        });
    });
    if let Some(folder) = &row.working_directory {
        w.kernel_text_only_field("working_directory", folder);
    }
    let reference = row.parent.as_ref();
    w.object("parent_process", |w| match (complete.parent, reference) {
        (Some(parent), Some(_)) => {
            identity(w, &parent.reference());
            w.milliseconds_field("created_time", parent.start_time_ns);
            command(w, parent);
            if let Some(image) = &parent.image
                && let Some(name) = image.name()
            {
                w.object("file", |w| {
                    w.kernel_text_only_field("name", name);
                    w.number_field("type_id", file_type(image).0);
                    path(w, image);
                    digests(w, image.hashes.as_ref());
                });
            }
        }
        (_, Some(reference)) => identity(w, reference),
        (_, None) => {}
    });
    w.list_of("ancestry", complete.lineage(), |w, ancestor| {
        w.value(|w| {
            w.uuid_field("uid", &ancestor.unique_pid);
            w.number_field("pid", u64::from(ancestor.pid));
            if let Some(name) = ancestor.name() {
                w.kernel_text_only_field("name", name);
            }
            if let Some(path) = ancestor
                .image
                .as_ref()
                .and_then(|image| image.path.as_deref())
            {
                w.kernel_text_only_field("path", path);
            }
        });
    });
}

fn command(w: &mut Writer<'_>, row: &v1::Process) {
    if let Some(name) = row.name() {
        w.kernel_text_only_field("name", name);
    }
    if let Some(path) = row.image.as_ref().and_then(|image| image.path.as_deref()) {
        w.kernel_text_only_field("path", path);
    }
    if !row.argv.is_empty() {
        w.joined_field("cmd_line", &row.argv);
    }
}

fn session(w: &mut Writer<'_>, row: Option<&v1::Process>) {
    let Some(session) = row.and_then(|row| row.session.as_ref()) else {
        return;
    };
    w.object("session", |w| {
        if let Some(id) = session.audit_id {
            w.decimal_field("uid", u64::from(id));
        }
        if let Some(tty) = &session.tty {
            w.kernel_text_only_field("terminal", tty);
        }
        if session.remote_address.is_some() {
            w.bool_field("is_remote", true);
        }
    });
}

fn user(w: &mut Writer<'_>, user: &v1::User) {
    w.decimal_field("uid", u64::from(user.id));
    w.some_text_field("name", user.name.as_deref());
    w.some_text_field("domain", user.domain.as_deref());
}

fn group(w: &mut Writer<'_>, group: &v1::Group) {
    w.decimal_field("uid", u64::from(group.id));
    w.some_text_field("name", group.name.as_deref());
}

/// What the class tells beyond who did it.
fn details(w: &mut Writer<'_>, complete: &Complete<'_>, body: &Body, class: Class) {
    if class == PROCESS {
        return process(w, complete, body);
    }
    match body {
        Body::FileCreate(create) => {
            let event = complete.event;
            let of_row = complete.actor().and_then(|row| row.credentials.as_ref());
            let effective = event.credentials.as_ref().or(of_row);
            let creator = effective.and_then(|credentials| credentials.effective_user.as_ref());
            let none = v1::FileInfo::default();
            let info = create.file.as_ref().unwrap_or(&none);
            w.object("file", |w| file(w, info, creator));
        }
        Body::ModuleLoad(load) => w.object("driver", |w| {
            w.object("file", |w| match (&load.file, &load.name) {
                (Some(info), _) if info.path.is_some() => file(w, info, None),
                (info, name) => {
                    // Loaded from memory, or its file is not known.
                    let name = name.as_deref().unwrap_or_default();
                    w.kernel_text_only_field("name", name);
                    match info {
                        Some(info) => file_without_name(w, info, None),
                        None => unknown_type(w),
                    }
                }
            });
        }),
        Body::Connect(connect) => network(w, complete, connect),
        Body::Patch(patch) => match &patch.part {
            Some(Part::Connect(connect)) => {
                // Only who began waits for a result.
                endpoint(w, "src_endpoint", connect.local.as_ref(), Some(complete));
            }
            Some(Part::File(_) | Part::ClosedFile(_)) => {
                let none = v1::FileInfo::default();
                let info = mapping::patched_file(patch).unwrap_or(&none);
                if class == FILE {
                    w.object("file", |w| file(w, info, None));
                } else if class == KERNEL_EXTENSION {
                    w.object("driver", |w| w.object("file", |w| file(w, info, None)));
                }
            }
            Some(Part::Process(_)) | None => {}
        },
        Body::Exec(_) | Body::Exit(_) | Body::Fork(_) | Body::Aggregate(_) => {}
    }
}

/// `process` and how it was launched.
fn process(w: &mut Writer<'_>, complete: &Complete<'_>, body: &Body) {
    let Some(reference) = &complete.event.process else {
        return;
    };
    let row = complete.actor();
    match body {
        Body::Exec(_) => {
            w.number_field("launch_type_id", 3);
            w.text_field("launch_type", "Exec");
        }
        Body::Fork(_) => {
            w.number_field("launch_type_id", 2);
            w.text_field("launch_type", "Fork");
        }
        Body::Exit(_)
        | Body::FileCreate(_)
        | Body::Connect(_)
        | Body::ModuleLoad(_)
        | Body::Patch(_)
        | Body::Aggregate(_) => {}
    }
    w.object("process", |w| {
        if let Body::Fork(v1::Fork {
            child: Some(child), ..
        }) = body
        {
            identity(w, child);
            w.object("parent_process", |w| identity(w, reference));
            return;
        }
        identity(w, reference);
        subject(w, complete, row);
        match (row, patched_image(complete.event)) {
            (Some(row), _) => program(w, row, complete),
            (None, Some(image)) => w.object("file", |w| file(w, image, None)),
            (None, None) => {}
        }
        session(w, row);
    });
}

fn network(w: &mut Writer<'_>, complete: &Complete<'_>, connect: &v1::Connect) {
    let direction = Direction::try_from(connect.direction).unwrap_or(Direction::Unspecified);
    let (local, remote) = match direction {
        Direction::Inbound => ("dst_endpoint", "src_endpoint"),
        Direction::Outbound | Direction::Unspecified => ("src_endpoint", "dst_endpoint"),
    };
    endpoint(w, local, connect.local.as_ref(), Some(complete));
    endpoint(w, remote, connect.remote.as_ref(), None);
    w.bool_field(
        "is_src_dst_assignment_known",
        direction != Direction::Unspecified,
    );
    w.object("connection_info", |w| {
        let (number, name) = match direction {
            Direction::Unspecified => (0, "Unknown"),
            Direction::Inbound => (1, "Inbound"),
            Direction::Outbound => (2, "Outbound"),
        };
        w.number_field("direction_id", number);
        w.text_field("direction", name);
        if let Some(protocol) = connect.protocol {
            w.number_field("protocol_num", u64::from(protocol));
        }
        w.some_text_field("protocol_name", transport(connect));
        match AddressFamily::try_from(connect.family) {
            Ok(AddressFamily::Inet) => w.number_field("protocol_ver_id", 4),
            Ok(AddressFamily::Inet6) => w.number_field("protocol_ver_id", 6),
            Ok(AddressFamily::Unix | AddressFamily::Unspecified) | Err(_) => {}
        }
        if let Some(cookie) = connect.socket_cookie {
            w.decimal_field("uid", cookie);
        }
    });
}

/// One end. That of this host has at least the host's name: one end must be told.
fn endpoint(
    w: &mut Writer<'_>,
    name: &str,
    end: Option<&v1::Endpoint>,
    here: Option<&Complete<'_>>,
) {
    let none = v1::Endpoint::default();
    let end = end.unwrap_or(&none);
    let ip = end.address.as_deref().filter(|ip| address(ip).is_some());
    if ip.is_none() && end.unix_path.is_none() && here.is_none() {
        return;
    }
    w.object(name, |w| {
        if let Some(ip) = ip {
            w.ip_field("ip", ip);
        }
        if let Some(path) = &end.unix_path {
            w.kernel_text_only_field("name", path);
        }
        if let Some(port) = end.port.filter(|port| *port <= 0xffff) {
            w.number_field("port", u64::from(port));
        }
        if let Some(complete) = here {
            let host = complete.host;
            w.text_field("hostname", host.fqdn.as_ref().unwrap_or(&host.name));
        }
    });
}

fn file(w: &mut Writer<'_>, info: &v1::FileInfo, creator: Option<&v1::User>) {
    // Mandatory; empty where the kernel tells no path.
    w.kernel_text_only_field("name", info.name().unwrap_or_default());
    path(w, info);
    file_without_name(w, info, creator);
}

fn path(w: &mut Writer<'_>, info: &v1::FileInfo) {
    if let Some(path) = &info.path {
        w.kernel_text_only_field("path", path);
    }
    if let Some(folder) = info.dir() {
        w.kernel_text_only_field("parent_folder", folder);
    }
}

fn file_without_name(w: &mut Writer<'_>, info: &v1::FileInfo, creator: Option<&v1::User>) {
    let (number, name) = file_type(info);
    w.number_field("type_id", number);
    w.text_field("type", name);
    if let Some(id) = &info.unique_id {
        w.uuid_field("uid", id);
    }
    if let Some(size) = info.size {
        w.number_field("size", size);
    }
    if let Some(time_ns) = info.btime_ns {
        w.milliseconds_field("created_time", time_ns);
    }
    if let Some(time_ns) = info.mtime_ns {
        w.milliseconds_field("modified_time", time_ns);
    }
    if info.unlinked {
        w.bool_field("is_deleted", true);
    }
    if let Some(attributes) = info.attributes {
        w.number_field("attributes", attributes);
    }
    if let Some(mode) = info.mode {
        w.text_field("security_descriptor", &permissions(mode));
    }
    w.some_text_field("mime_type", mime_type(info));
    w.object("owner", |w| {
        if let Some(owner) = &info.owner_user {
            user(w, owner);
        }
        // A user may not consist of groups alone.
        if let (Some(_), Some(owner)) = (&info.owner_user, &info.owner_group) {
            w.list_of("groups", [owner], |w, owner| w.value(|w| group(w, owner)));
        }
    });
    if let Some(creator) = creator {
        w.object("creator", |w| user(w, creator));
    }
    if let Some(capabilities) = &info.capabilities {
        w.object("xattributes", |w| {
            w.native_field("security.capability", capabilities);
        });
    }
    digests(w, info.hashes.as_ref());
}

fn unknown_type(w: &mut Writer<'_>) {
    w.number_field("type_id", 0);
    w.text_field("type", "Unknown");
}

fn file_type(info: &v1::FileInfo) -> (u64, &'static str) {
    match FileType::try_from(info.r#type) {
        Ok(FileType::Regular) => (1, "Regular File"),
        Ok(FileType::Directory) => (2, "Folder"),
        Ok(FileType::CharacterDevice) => (3, "Character Device"),
        Ok(FileType::BlockDevice) => (4, "Block Device"),
        Ok(FileType::Socket) => (5, "Local Socket"),
        Ok(FileType::Fifo) => (6, "Named Pipe"),
        Ok(FileType::Symlink) => (7, "Symbolic Link"),
        Ok(FileType::Unspecified) | Err(_) => (0, "Unknown"),
    }
}

/// Kind, permissions and set-id bits as ls(1) shows them: `-rwxr-x---`.
fn permissions(mode: u32) -> String {
    let kind = match FileType::from_mode(mode) {
        FileType::Regular => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Unspecified => '?',
    };
    let mut text = String::with_capacity(10);
    text.push(kind);
    for (shift, special, set, unset) in [
        (6, 0o4000, 's', 'S'),
        (3, 0o2000, 's', 'S'),
        (0, 0o1000, 't', 'T'),
    ] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => set,
            (true, false) => unset,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn digests(w: &mut Writer<'_>, hashes: Option<&v1::Hashes>) {
    let Some(hashes) = hashes else {
        return;
    };
    let digests = [
        (1, "MD5", &hashes.md5),
        (2, "SHA-1", &hashes.sha1),
        (3, "SHA-256", &hashes.sha256),
    ];
    let known = digests.into_iter().filter_map(|(number, name, digest)| {
        let digest = digest.as_ref()?;
        Some((number, name, digest))
    });
    w.list_of("hashes", known, |w, (number, name, digest)| {
        w.value(|w| {
            w.number_field("algorithm_id", number);
            w.text_field("algorithm", name);
            w.hex_field("value", digest);
        });
    });
}
