//! Containers, told by the paths of cgroups.
//!
//! Runtimes write the identity of a container into the path of its cgroup, each in its own way; no runtime is asked.
//! The way from a cgroup's number to its path is kept, since neither changes while the cgroup exists. What the runtime's files say
//! of the container beyond that is read by [`facts`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sensor_proto::v1::{Container, ContainerRuntime};

use super::background::Background;
use super::recent::Recent;
use crate::procfs::{CgroupLine, ProcError, ProcessDir, cgroup_path};

pub mod facts;
mod files;

pub use facts::{ContainerFacts, FactsGauge};

/// Paths that are kept; the oldest goes first.
const CACHE_ENTRIES: usize = 4096;
/// How long a number that no cgroup had is not looked for again.
const NEGATIVE: Duration = Duration::from_secs(60);
/// Numbers that may wait to be looked for.
const QUEUE: usize = 64;
/// Longest name of a container that is believed; the file system allows no more.
const NAME_MAX_BYTES: usize = 255;

/// Where a process is.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Path of its cgroup: of version 2, or, where that says nothing of a container and one of version 1 does, of that.
    pub path: Vec<u8>,
    /// The innermost container that the path names.
    pub container: Option<Box<Container>>,
    /// By what the files of its runtime know the container; `None`: no container, or none that files of this host tell of.
    pub question: Option<Question>,
}

/// A container to be looked for in the files of runtimes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Who runs it, as far as the path tells.
    runtime: ContainerRuntime,
    /// 12 to 64 hexadecimal digits.
    id: String,
    /// The user below whose service manager it runs; `None`: root. Users may make cgroups of any name: what such a path names
    /// is looked for in the user's own files only.
    owner: Option<u32>,
}

impl Question {
    /// Of the only container that a path names. What is in a container has its files there.
    fn new(path: &[u8], container: &Container) -> Option<Self> {
        Some(Self {
            runtime: container.runtime(),
            id: hexadecimal(container.id.as_bytes())?,
            owner: owner(path),
        })
    }
}

/// The user of `user-1000.slice`, unless that is root.
fn owner(path: &[u8]) -> Option<u32> {
    path.split(|&byte| byte == b'/')
        .find_map(|part| {
            let number = part.strip_prefix(b"user-")?.strip_suffix(b".slice")?;
            std::str::from_utf8(number).ok()?.parse().ok()
        })
        .filter(|uid| *uid != 0)
}

impl Place {
    fn of_path(path: &[u8]) -> Self {
        let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
        let mut all = containers(path);
        let container = all.pop();
        Self {
            path: path.to_vec(),
            question: container
                .as_ref()
                .filter(|_| all.is_empty())
                .and_then(|container| Question::new(path, container)),
            container: container.map(Box::new),
        }
    }

    /// The place that `/proc/PID/cgroup` tells; paths of version 2 are from `namespace`, the root of the cgroup namespace in which
    /// the file was read (empty: it is the hierarchy's).
    #[must_use]
    pub fn of_lines(lines: &[CgroupLine], namespace: &[u8]) -> Option<Self> {
        let unified = lines.iter().find(|line| line.hierarchy == 0);
        let unified = unified.map(|line| Self::of_path(&from_root(namespace, &line.path)));
        if unified
            .as_ref()
            .is_some_and(|place| place.container.is_some())
        {
            return unified;
        }
        // Hosts with both versions: Docker and others use the old one there.
        lines
            .iter()
            .filter(|line| line.hierarchy != 0)
            .map(|line| Self::of_path(&line.path))
            .find(|place| place.container.is_some())
            .or(unified)
            .or_else(|| lines.first().map(|line| Self::of_path(&line.path)))
    }
}

/// What is known of places; asked by every exec.
#[derive(Debug)]
pub struct Places {
    by_id: Recent<u64, Known>,
    /// Version 1 hierarchies exist here: the number of a version 2 cgroup does not tell the place.
    hybrid: bool,
    search: Option<Background<u64, Option<Vec<u8>>>>,
    /// Path of the root of the sensor's own cgroup namespace; empty if that is the hierarchy's.
    namespace: Vec<u8>,
    /// Answers taken in.
    answered: u64,
    /// A place was wanted that is still looked for.
    unanswered: bool,
}

#[derive(Debug)]
enum Known {
    Place(Arc<Place>),
    Nowhere(Instant),
}

/// Counts and lengths, for `sensor status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlacesGauge {
    /// Paths and absent numbers that are kept.
    pub entries: usize,
    /// Forgotten since the cache was full.
    pub evicted: u64,
    /// Numbers being looked for.
    pub waiting: usize,
    /// Numbers that were not looked for since too many were waiting.
    pub refused: u64,
}

impl Places {
    /// With the mount of version 2 cgroups, in which those of ended processes are looked for; `None`: they are not (no version
    /// 2 here, a replay, or a scope: the walk would leave it).
    ///
    /// `namespace`: path of the root of the sensor's own cgroup namespace; empty if that is the hierarchy's.
    ///
    /// # Errors
    /// What the system says if it has no room for a thread.
    pub fn new(mount: Option<PathBuf>, namespace: Vec<u8>) -> std::io::Result<Self> {
        let search = mount
            .map(|mount| {
                Background::spawn("cgroups", QUEUE, move |id: &u64| {
                    // A failed walk is as good as none: asked again after a while.
                    cgroup_path(&mount, *id).ok().flatten()
                })
            })
            .transpose()?;
        Ok(Self {
            by_id: Recent::new(CACHE_ENTRIES),
            hybrid: false,
            search,
            namespace,
            answered: 0,
            unanswered: false,
        })
    }

    /// The place of a cgroup, if its number tells it and it is kept.
    pub fn known(&mut self, cgroup_id: u64) -> Option<Arc<Place>> {
        self.settle();
        if self.hybrid || cgroup_id == 0 {
            return None;
        }
        match self.by_id.find(&cgroup_id) {
            Some(Known::Place(place)) => Some(Arc::clone(place)),
            Some(Known::Nowhere(_)) | None => None,
        }
    }

    /// The place of a process: from what is kept, else from `/proc`. `process` is `None` if it has ended; then the cgroup is
    /// looked for in the background and the answer is there when asked again ([`Places::settle`]).
    ///
    /// `cgroup_id` 0: not known.
    pub fn of(&mut self, cgroup_id: u64, process: Option<&ProcessDir>) -> Option<Arc<Place>> {
        if let Some(place) = self.known(cgroup_id) {
            return Some(place);
        }
        if let Some(lines) = process.and_then(|process| process.cgroup().ok()) {
            self.hybrid |= lines.iter().any(|line| line.hierarchy != 0);
            let place = Arc::new(Place::of_lines(&lines, &self.namespace)?);
            if !self.hybrid && cgroup_id != 0 {
                self.by_id.keep(cgroup_id, Known::Place(Arc::clone(&place)));
            }
            return Some(place);
        }
        if cgroup_id == 0 {
            return None;
        }
        match self.by_id.find(&cgroup_id) {
            Some(Known::Place(place)) => return Some(Arc::clone(place)),
            Some(Known::Nowhere(since)) if since.elapsed() < NEGATIVE => return None,
            Some(Known::Nowhere(_)) | None => {}
        }
        if let Some(search) = &mut self.search {
            search.ask(&cgroup_id);
            self.unanswered = true;
        }
        None
    }

    /// Reads the place of a process without keeping it: for the snapshot at start.
    ///
    /// # Errors
    /// [`ProcError`] if `/proc/PID/cgroup` cannot be read.
    pub fn read(&self, process: &ProcessDir) -> Result<Option<Place>, ProcError> {
        Ok(Place::of_lines(&process.cgroup()?, &self.namespace))
    }

    /// Whether, since this was asked last, a place was wanted that may still be found.
    pub fn take_unanswered(&mut self) -> bool {
        std::mem::take(&mut self.unanswered)
    }

    /// Takes in what the background has found; how many answers that has been in all.
    pub fn settle(&mut self) -> u64 {
        while let Some((id, path)) = self.search.as_mut().and_then(Background::answer) {
            let known = match path {
                Some(path) => Known::Place(Arc::new(Place::of_path(&path))),
                None => Known::Nowhere(Instant::now()),
            };
            self.by_id.keep(id, known);
            self.answered = self.answered.saturating_add(1);
        }
        self.answered
    }

    /// Counts and lengths.
    #[must_use]
    pub fn gauge(&self) -> PlacesGauge {
        PlacesGauge {
            entries: self.by_id.len(),
            evicted: self.by_id.evicted(),
            waiting: self.search.as_ref().map_or(0, Background::waiting),
            refused: self.search.as_ref().map_or(0, Background::refused),
        }
    }
}

/// `/../../system.slice/x` seen from `/a/b` is `/system.slice/x`.
fn from_root(namespace: &[u8], path: &[u8]) -> Vec<u8> {
    if namespace.is_empty() {
        return path.to_vec();
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in namespace
        .split(|&byte| byte == b'/')
        .chain(path.split(|&byte| byte == b'/'))
    {
        match part {
            b"" => {}
            b".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    let mut whole = Vec::with_capacity(namespace.len() + path.len());
    for part in &parts {
        whole.push(b'/');
        whole.extend_from_slice(part);
    }
    if whole.is_empty() {
        whole.push(b'/');
    }
    whole
}

/// The containers that a path of a cgroup names, the outermost first.
#[must_use]
pub fn containers(path: &[u8]) -> Vec<Container> {
    let mut found = Vec::new();
    let mut pod: Option<String> = None;
    let mut before: &[u8] = b"";
    for part in path
        .split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty())
    {
        if let Some(id) = pod_id(part) {
            pod = Some(id);
            before = part;
            continue;
        }
        // `kubepods-podUID.slice:cri-containerd:ID`: all in one part.
        if let Some(id) = part
            .iter()
            .position(|&byte| byte == b':')
            .and_then(|colon| pod_id(part.get(..colon)?))
        {
            pod = Some(id);
        }
        if let Some((runtime, id)) = scope(part).or_else(|| bare(part, before)) {
            found.push(Container {
                id,
                runtime: runtime.into(),
                pod_id: pod.take(),
                ..Container::default()
            });
        } else if let Some((runtime, name)) = named(part, before) {
            found.push(Container {
                id: name.clone(),
                runtime: runtime.into(),
                name: Some(name),
                ..Container::default()
            });
        }
        before = part;
    }
    found
}

/// `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID`, `libpod-ID.scope`, `...slice:cri-containerd:ID`.
fn scope(part: &[u8]) -> Option<(ContainerRuntime, String)> {
    const PREFIXES: &[(&[u8], ContainerRuntime)] = &[
        (b"docker", ContainerRuntime::Docker),
        (b"cri-containerd", ContainerRuntime::Containerd),
        (b"containerd", ContainerRuntime::Containerd),
        (b"nerdctl", ContainerRuntime::Containerd),
        (b"crio", ContainerRuntime::Crio),
        (b"libpod", ContainerRuntime::Podman),
    ];
    let stem = part.strip_suffix(b".scope").unwrap_or(part);
    // A service manager that is not asked leaves the three parts of its name as they are.
    let stem = match stem.iter().rposition(|&byte| byte == b':') {
        Some(last) => {
            let head = stem.get(..last)?;
            let start = head
                .iter()
                .rposition(|&byte| byte == b':')
                .map_or(0, |at| at + 1);
            stem.get(start..)?
        }
        None => stem,
    };
    PREFIXES.iter().find_map(|(prefix, runtime)| {
        let rest = stem.strip_prefix(*prefix)?;
        let id = rest
            .strip_prefix(b"-")
            .or_else(|| rest.strip_prefix(b":"))?;
        Some((*runtime, hexadecimal(id)?))
    })
}

/// A folder that is nothing but an identity: 64 digits, or a task of ECS on Fargate.
fn bare(part: &[u8], before: &[u8]) -> Option<(ContainerRuntime, String)> {
    let id = if part.len() == 64 {
        hexadecimal(part)?
    } else {
        let (task, number) = part.split_at_checked(32)?;
        let digits = number.strip_prefix(b"-")?;
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) || task != before {
            return None;
        }
        format!("{}-{}", hexadecimal(task)?, String::from_utf8_lossy(digits))
    };
    let runtime = match before {
        b"docker" | b"actions_job" => ContainerRuntime::Docker,
        b"k8s.io" | b"moby" | b"containerd" => ContainerRuntime::Containerd,
        b"libpod_parent" => ContainerRuntime::Podman,
        // Under a pod or a task the folder does not tell who runs it.
        _ => ContainerRuntime::Unspecified,
    };
    Some((runtime, id))
}

/// Containers known by a name: systemd-nspawn and LXC.
fn named(part: &[u8], before: &[u8]) -> Option<(ContainerRuntime, String)> {
    let (runtime, name) = if before == b"lxc" || before == b"lxc.payload" {
        (ContainerRuntime::Lxc, part.to_vec())
    } else if let Some(name) = part.strip_prefix(b"lxc.payload.") {
        (ContainerRuntime::Lxc, name.to_vec())
    } else if let Some(name) = part
        .strip_prefix(b"systemd-nspawn@")
        .and_then(|rest| rest.strip_suffix(b".service"))
    {
        (ContainerRuntime::Nspawn, unescape_unit(name))
    } else {
        let name = part
            .strip_prefix(b"machine-")
            .and_then(|rest| rest.strip_suffix(b".scope"))?;
        let name = unescape_unit(name);
        if name.starts_with(b"qemu-") || name.starts_with(b"xen-") {
            // Virtual machines are registered in the same way.
            return None;
        }
        // libvirt: `lxc-NUMBER-NAME`.
        let libvirt = name.strip_prefix(b"lxc-").and_then(|rest| {
            let dash = rest.iter().position(|&byte| byte == b'-')?;
            let (number, name) = rest.split_at(dash);
            (!number.is_empty() && number.iter().all(u8::is_ascii_digit))
                .then(|| name.get(1..).unwrap_or_default().to_vec())
        });
        match libvirt {
            Some(name) => (ContainerRuntime::Lxc, name),
            None => (ContainerRuntime::Nspawn, name),
        }
    };
    if name.is_empty() || name.len() > NAME_MAX_BYTES {
        return None;
    }
    Some((runtime, String::from_utf8_lossy(&name).into_owned()))
}

/// `podUID`, `kubepods-burstable-podUID.slice`, `machine-libpod_pod_ID.slice`.
fn pod_id(part: &[u8]) -> Option<String> {
    let stem = part.strip_suffix(b".slice").unwrap_or(part);
    if let Some(at) = find(stem, b"libpod_pod_") {
        return hexadecimal(stem.get(at + 11..)?);
    }
    let uid = match stem.strip_prefix(b"pod") {
        Some(uid) => uid,
        None => {
            find(stem, b"kubepods")?;
            stem.get(find(stem, b"-pod")? + 4..)?
        }
    };
    let text: String = uid
        .iter()
        .map(|&byte| if byte == b'_' { '-' } else { char::from(byte) })
        .collect();
    // Pods of files on the node have 32 digits without dashes.
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = text.bytes().filter(|byte| *byte == b'-').count();
    let whole = digits == 32 && digits + dashes == text.len() && matches!(dashes, 0 | 4);
    whole.then_some(text)
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|part| part == wanted)
}

/// An identity of 12 to 64 hexadecimal digits in lower case.
fn hexadecimal(id: &[u8]) -> Option<String> {
    let lower = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if !(12..=64).contains(&id.len()) || !id.iter().all(lower) {
        return None;
    }
    String::from_utf8(id.to_vec()).ok()
}

/// Undoes the `\xHH` of systemd's unit names.
fn unescape_unit(name: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'\\'
            && let [b'x', high, low, after @ ..] = tail
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            out.push((high << 4) | low);
            rest = after;
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::Proc;

    const A: &str = "3f1b0a8c5d7e9f2a4b6c8d0e1f3a5b7c9d1e3f5a7b9c1d3e5f7a9b1c3d5e7f9a";
    const B: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90";
    const POD: &str = "0f9e8d7c-6b5a-4938-2716-050403020100";

    /// `A`, `B`, `POD` and `PODU` in a path stand for identities. Expected: (runtime, id, pod), the outermost first.
    fn check(path: &str, expected: &[(ContainerRuntime, &str, Option<&str>)]) {
        let replace = |text: &str| {
            text.replace("{PODU}", &POD.replace('-', "_"))
                .replace("{POD}", POD)
                .replace("{A}", A)
                .replace("{B}", B)
        };
        let found: Vec<_> = containers(replace(path).as_bytes())
            .into_iter()
            .map(|found| (found.runtime(), found.id, found.pod_id))
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(runtime, id, pod)| (*runtime, replace(id), pod.map(replace)))
            .collect();
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn paths_of_the_runtimes() {
        use ContainerRuntime::{Containerd, Crio, Docker, Lxc, Nspawn, Podman, Unspecified};
        let pod = Some("{POD}");
        check("/docker/{A}", &[(Docker, "{A}", None)]);
        check("/system.slice/docker-{A}.scope", &[(Docker, "{A}", None)]);
        check(
            "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope/init",
            &[(Docker, "{A}", None)],
        );
        check("/actions_job/{A}", &[(Docker, "{A}", None)]);
        check(
            "/kubepods/burstable/pod{POD}/{A}",
            &[(Unspecified, "{A}", pod)],
        );
        check("/kubepods/pod{POD}/crio-{A}", &[(Crio, "{A}", pod)]);
        check(
            "/kubepods/besteffort/pod9f86d081884c7d659a2feaa0c55ad015/{A}",
            &[(Unspecified, "{A}", Some("9f86d081884c7d659a2feaa0c55ad015"))],
        );
        check(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{PODU}.slice/cri-containerd-{A}.scope",
            &[(Containerd, "{A}", pod)],
        );
        check(
            "/kubepods.slice/kubepods-pod{PODU}.slice/crio-{A}.scope/container",
            &[(Crio, "{A}", pod)],
        );
        check(
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{PODU}.slice/docker-{A}.scope",
            &[(Docker, "{A}", pod)],
        );
        check(
            "/system.slice/containerd.service/kubepods-burstable-pod{PODU}.slice:cri-containerd:{A}",
            &[(Containerd, "{A}", pod)],
        );
        check(
            "/system.slice/nerdctl-{A}.scope",
            &[(Containerd, "{A}", None)],
        );
        check("/k8s.io/{A}", &[(Containerd, "{A}", None)]);
        check(
            "/machine.slice/libpod-{A}.scope/container",
            &[(Podman, "{A}", None)],
        );
        check(
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope",
            &[(Podman, "{A}", None)],
        );
        check("/libpod_parent/libpod-{A}", &[(Podman, "{A}", None)]);
        check(
            "/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope",
            &[(Podman, "{A}", Some("{B}"))],
        );
        check(
            "/machine.slice/machine-my\\x2dbox.scope/payload",
            &[(Nspawn, "my-box", None)],
        );
        check(
            "/machine.slice/systemd-nspawn@box.service/payload/x",
            &[(Nspawn, "box", None)],
        );
        check(
            "/machine.slice/machine-lxc\\x2d12\\x2dweb.scope",
            &[(Lxc, "web", None)],
        );
        check("/lxc/web-1/init.scope", &[(Lxc, "web-1", None)]);
        check(
            "/lxc.payload.web/system.slice/x.service",
            &[(Lxc, "web", None)],
        );
        check("/lxc.payload/web", &[(Lxc, "web", None)]);
        check(
            "/ecs/55091c13b8cf4801b527f4601742204d/55091c13b8cf4801b527f4601742204d-2003684661",
            &[(
                Unspecified,
                "55091c13b8cf4801b527f4601742204d-2003684661",
                None,
            )],
        );
        check(
            "/ecs/55091c13b8cf4801b527f4601742204d/{A}",
            &[(Unspecified, "{A}", None)],
        );
    }

    #[test]
    fn which_files_are_asked_for() {
        let question = |path: &str| {
            let path = path.replace("{A}", A).replace("{B}", B);
            Place::of_path(path.as_bytes()).question
        };
        let of = |runtime, id: &str, owner| {
            Some(Question {
                runtime,
                id: id.to_owned(),
                owner,
            })
        };
        assert_eq!(
            question("/system.slice/docker-{A}.scope"),
            of(ContainerRuntime::Docker, A, None)
        );
        assert_eq!(
            question("/user.slice/user-0.slice/session-1.scope/libpod_parent/libpod-{A}"),
            of(ContainerRuntime::Podman, A, None)
        );
        // Users name cgroups as they like.
        assert_eq!(
            question("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope/x"),
            of(ContainerRuntime::Docker, A, Some(1000))
        );
        // The inner one's files are in the outer one.
        assert_eq!(question("/docker/{A}/docker/{B}"), None);
        assert_eq!(question("/lxc/web/docker/{B}"), None);
        // Names are no identities.
        assert_eq!(question("/lxc.payload.web"), None);
        assert_eq!(
            question(
                "/ecs/55091c13b8cf4801b527f4601742204d/55091c13b8cf4801b527f4601742204d-2003684661"
            ),
            None
        );
        assert_eq!(question("/system.slice"), None);
    }

    #[test]
    fn containers_in_containers() {
        use ContainerRuntime::{Containerd, Docker, Lxc, Unspecified};
        check(
            "/docker/{A}/kubelet/kubepods/burstable/pod{POD}/{B}",
            &[(Docker, "{A}", None), (Unspecified, "{B}", Some("{POD}"))],
        );
        check(
            "/system.slice/docker-{A}.scope/kubelet.slice/kubelet-kubepods.slice/\
             kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{PODU}.slice/cri-containerd-{B}.scope",
            &[(Docker, "{A}", None), (Containerd, "{B}", Some("{POD}"))],
        );
        check(
            "/system.slice/docker-{A}.scope/system.slice/docker-{B}.scope",
            &[(Docker, "{A}", None), (Docker, "{B}", None)],
        );
        check(
            "/lxc/outer/docker/{B}",
            &[(Lxc, "outer", None), (Docker, "{B}", None)],
        );
    }

    #[test]
    fn what_is_no_container() {
        for path in [
            "/",
            "",
            "/init.scope",
            "/system.slice/docker.service",
            "/system.slice/containerd.service",
            "/user.slice/user-1000.slice/session-3.scope",
            "/machine.slice/libpod-conmon-{A}.scope",
            "/kubepods.slice/kubepods-pod{PODU}.slice/crio-conmon-{A}.scope",
            "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt/emulator",
            "/lxc.monitor.web",
            "/system.slice/docker-.scope",
            "/system.slice/docker-xyz.scope",
            "/docker/short",
            "/a/podman/b",
            "/kubepods/burstable/pod{POD}",
        ] {
            check(path, &[]);
        }
    }

    #[test]
    fn lines_of_both_versions() {
        let lines = |text: String| crate::procfs::parse::cgroup(text.as_bytes()).unwrap();
        let hybrid = Place::of_lines(&lines(format!("4:memory:/docker/{A}\n1:name=systemd:/docker/{A}\n0::/system.slice/containerd.service\n")), b"").unwrap();
        assert_eq!(hybrid.container.unwrap().id, A);
        let unified = Place::of_lines(&lines(format!("0::/docker/{A} (deleted)\n")), b"").unwrap();
        assert_eq!(unified.path, format!("/docker/{A}").into_bytes());
        let none = Place::of_lines(&lines("4:memory:/x\n0::/y\n".to_owned()), b"").unwrap();
        assert_eq!((none.path, none.container), (b"/y".to_vec(), None));
        let old = Place::of_lines(&lines("4:memory:/x\n".to_owned()), b"").unwrap();
        assert_eq!(old.path, b"/x");
        assert_eq!(Place::of_lines(&[], b""), None);
    }

    #[test]
    fn paths_seen_from_a_cgroup_namespace() {
        let own = b"/kubepods.slice/kubepods-podx.slice/cri-containerd-own.scope";
        for (seen, whole) in [
            (
                "/",
                "/kubepods.slice/kubepods-podx.slice/cri-containerd-own.scope",
            ),
            (
                "/below",
                "/kubepods.slice/kubepods-podx.slice/cri-containerd-own.scope/below",
            ),
            (
                "/../../../system.slice/ssh.service",
                "/system.slice/ssh.service",
            ),
            ("/../other", "/kubepods.slice/kubepods-podx.slice/other"),
            ("/../../..", "/"),
            // More than there are: what the kernel never says must not fail either.
            ("/../../../../../x", "/x"),
        ] {
            assert_eq!(
                String::from_utf8(from_root(own, seen.as_bytes())).unwrap(),
                whole
            );
            assert_eq!(from_root(b"", seen.as_bytes()), seen.as_bytes());
        }
        let line = CgroupLine {
            hierarchy: 0,
            controllers: Vec::new(),
            path: format!(
                "/../../kubepods-pod{}.slice/cri-containerd-{A}.scope",
                POD.replace('-', "_")
            )
            .into_bytes(),
        };
        let place = Place::of_lines(&[line], own).unwrap();
        let container = place.container.unwrap();
        assert_eq!(
            (container.id.as_str(), container.pod_id.as_deref()),
            (A, Some(POD))
        );
        assert!(place.path.starts_with(b"/kubepods.slice/kubepods-pod0f9e"));
    }

    #[test]
    fn a_place_is_kept_by_the_number_of_its_cgroup() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("1")).unwrap();
        std::fs::write(folder.path().join("1/cgroup"), format!("0::/docker/{A}\n")).unwrap();
        let process = Proc::new(folder.path()).process(1).unwrap();
        let mut places = Places::new(None, Vec::new()).unwrap();
        assert_eq!(places.of(77, None), None);
        let first = places.of(77, Some(&process)).unwrap();
        assert_eq!(first.container.as_ref().unwrap().id, A);
        assert_eq!(places.of(77, None), Some(first));
        assert_eq!(places.of(0, None), None);
        // With version 1 beside it the number says nothing: two containers can share it.
        std::fs::write(
            folder.path().join("1/cgroup"),
            format!("3:cpu:/docker/{B}\n0::/\n"),
        )
        .unwrap();
        assert_eq!(
            places
                .of(78, Some(&process))
                .unwrap()
                .container
                .as_ref()
                .unwrap()
                .id,
            B
        );
        std::fs::write(folder.path().join("1/cgroup"), "3:cpu:/\n0::/\n").unwrap();
        assert_eq!(places.of(78, Some(&process)).unwrap().container, None);
    }

    #[test]
    fn the_cgroup_of_an_ended_process_is_found_in_the_background() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join(format!("system.slice/docker-{A}.scope"));
        std::fs::create_dir_all(&below).unwrap();
        let id = std::fs::metadata(&below).unwrap().ino();
        let mut places = Places::new(Some(folder.path().to_path_buf()), Vec::new()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        assert_eq!(places.of(id, None), None);
        while places.gauge().waiting > 0 {
            places.settle();
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        let place = places.of(id, None).unwrap();
        assert_eq!(place.container.as_ref().unwrap().id, A);
        // A number that no cgroup has is remembered, too.
        places.of(u64::MAX, None);
        while places.gauge().waiting > 0 {
            places.settle();
            assert!(Instant::now() < deadline);
        }
        places.of(u64::MAX, None);
        assert_eq!(places.gauge().waiting, 0);
        assert_eq!(places.gauge().entries, 2);
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut places = Places::new(None, Vec::new()).unwrap();
        let entries = u64::try_from(CACHE_ENTRIES).unwrap();
        for id in 1..=entries + 10 {
            places.by_id.keep(id, Known::Nowhere(Instant::now()));
        }
        assert_eq!(places.gauge().entries, CACHE_ENTRIES);
        assert_eq!(places.gauge().evicted, 10);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_paths_never_panic(path in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            drop(containers(&path));
        }

        #[test]
        fn likely_paths_never_panic(parts in proptest::collection::vec("(docker|lxc|pod|kubepods-pod|machine-|crio-|\\.slice|\\.scope|:|[0-9a-f]{64}|_|\\\\x2)+", 0..8)) {
            drop(containers(parts.join("/").as_bytes()));
        }
    }
}
