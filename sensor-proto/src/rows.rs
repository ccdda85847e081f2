//! Rows of the data model: what an event of each kind must tell, and why the few that are missing are.

/// The rows that this schema must deliver or account for, by number, with what they ask for: general (1 to 16), process start
/// (17 to 33), process stop (34 to 39), file creation (40 to 48), modules, ports and connections (113 to 117), synchronisation
/// (83 to 94) and what goes with it (165, 166).
pub const ROWS: &[(u16, &str)] = &[
    (1, "type of the event"),
    (2, "time of the event"),
    (3, "user account for which the event arose"),
    (4, "name of the host"),
    (5, "IP addresses of the host"),
    (6, "type and version of the operating system"),
    (
        7,
        "name or address of the host from which the session was opened",
    ),
    (8, "real user"),
    (9, "real group and further groups"),
    (10, "user that logged in, and effective user"),
    (11, "group of the user that logged in, and effective group"),
    (12, "user that created the file"),
    (13, "group that may change the file"),
    (14, "permissions of the file"),
    (15, "inherited privileges of the file"),
    (
        16,
        "event id, schema version, processing time, agent version; rule and technique of a detection",
    ),
    (17, "file of the process: name, folder, path"),
    (18, "MD5 and SHA-256 of the process's file"),
    (19, "size of the process's file"),
    (20, "unique identity of the process"),
    (21, "command line"),
    (22, "type of the process"),
    (23, "environment variables"),
    (24, "start time of the process"),
    (25, "end time of the process"),
    (26, "parent: path, identity, hash, command line"),
    (27, "process, thread and namespace ids"),
    (28, "log-on session: id and name"),
    (29, "user and group that started the process"),
    (30, "times of the process's file"),
    (
        31,
        "signature or package of the process's file, and its verification",
    ),
    (32, "settings by which the process starts automatically"),
    (33, "container"),
    (34, "file of the process that ended: path, hash, size"),
    (35, "end time of the process"),
    (36, "unique identity of the process that ended"),
    (37, "command line of the process that ended"),
    (38, "parent of the process that ended"),
    (39, "exit code, signal, core dump"),
    (40, "process that created the file: name and hashes"),
    (41, "file created: name, folder, path"),
    (42, "type of the file"),
    (43, "MD5 and SHA-256 of the file"),
    (44, "times of creation and last modification of the file"),
    (45, "size of the file"),
    (46, "unique identity of the file"),
    (47, "attributes of the file"),
    (48, "user and group that own the file"),
    (113, "list of running processes"),
    (114, "kernel module load: name, path, hashes, size, times"),
    (115, "shared object load"),
    (116, "listening port"),
    (
        117,
        "connection: process, protocol, ends, direction, result",
    ),
    (83, "identity of the agent"),
    (84, "base address of the server"),
    (
        85,
        "name, addresses, hardware addresses and local time of the device",
    ),
    (86, "name and version of the operating system"),
    (87, "version of the agent"),
    (88, "release date of the detection content"),
    (89, "enrolment"),
    (90, "state of the agent's self-defence"),
    (91, "versions of settings"),
    (92, "states of tasks"),
    (93, "states of settings"),
    (94, "requests for files"),
    (165, "period of synchronisation"),
    (166, "state of the connection, errors of certificates"),
];

/// Rows, or parts of rows, that this version does not deliver, and why.
pub const NOT_DELIVERED: &[(u16, &str)] = &[
    (
        7,
        "the name of the remote host: it is known to the log-on manager only, and comes with the log-on events; its address is delivered",
    ),
    (
        16,
        "rule, decision and technique: they belong to detections (number 260 is kept)",
    ),
    (
        28,
        "id, class and type of the log-on manager's session: they come with the log-on events (numbers 8 to 11 of Session are kept); audit session, session leader and terminal are delivered",
    ),
    (
        31,
        "owning package, IMA appraisal, fs-verity digest, signer: number 25 of FileInfo is kept for them",
    ),
    (
        32,
        "units and other settings that start programs are read with the inventory: number 41 of Process is kept for it",
    ),
    (
        33,
        "image of the container, name and namespace of the pod: they are known to the container's runtime only (numbers 5 to 8 of Container are kept); id, runtime and pod id are delivered",
    ),
    (
        47,
        "names of extended attributes: number 28 of FileInfo is kept for them; attributes and mode are delivered",
    ),
    (
        113,
        "a listing is an answer to a task of the central node; until tasks exist, `snapshot` rows in the table of processes tell what ran at start",
    ),
    (
        114,
        "signer of the module: number 8 of ModuleLoad is kept for it; unloading is an event of its own (number 191)",
    ),
    (
        115,
        "an event type of its own (library_load, number 108 is kept)",
    ),
    (
        116,
        "an event type of its own (port_listen, number 161 is kept)",
    ),
    (
        88,
        "this version has no detection content; the field is kept empty",
    ),
    (92, "this version has no tasks; the list is kept empty"),
    (94, "this version has no downloads; the list is kept empty"),
];
