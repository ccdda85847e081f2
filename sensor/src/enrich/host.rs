//! The host that events happen on: name, addresses, operating system.
//!
//! No name service is asked: the full name stands in `/etc/hosts` or is not known. Facts are read again now and then; who
//! renders them needs to do so only when they changed.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::utsname::uname;
use sensor_proto::v1;

use crate::clock::Clock;
use crate::config::HostConfig;
use crate::procfs::{Proc, ProcError, open_file};

/// Facts are read again after this time.
const PERIOD: Duration = Duration::from_secs(60);
/// `/etc/hosts` beyond this is not read: lists of blocked names can be large.
const HOSTS_MAX_BYTES: usize = 4 << 20;
/// os-release and machine-id beyond this are not read.
const SMALL_MAX_BYTES: usize = 64 << 10;
/// Addresses that are told; hosts of containers can have thousands of interfaces.
const ADDRESSES: usize = 64;
/// An address of documentation (RFC 5737), behind the default route wherever there is one; nothing is sent to it.
const ELSEWHERE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// The same for version 6 (RFC 3849).
const ELSEWHERE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// Why the host cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// uname(2) failed.
    #[error("the kernel does not tell its name")]
    Name(#[source] nix::Error),
    /// There is no boot id.
    #[error("the identity of this boot cannot be read")]
    BootId(#[source] ProcError),
}

/// The facts and where they come from.
#[derive(Debug)]
pub struct HostFacts {
    view: HostConfig,
    proc: Proc,
    current: v1::Host,
    read: Instant,
}

impl HostFacts {
    /// Reads the facts, files below the host's root as `view` has it.
    ///
    /// # Errors
    /// [`HostError`]; files that are missing are no error.
    pub fn new(view: HostConfig, proc: Proc, clock: &Clock) -> Result<Self, HostError> {
        let current = host(&view, &proc, clock)?;
        Ok(Self {
            view,
            proc,
            current,
            read: Instant::now(),
        })
    }

    /// The facts as last read.
    #[must_use]
    pub const fn current(&self) -> &v1::Host {
        &self.current
    }

    /// Reads them again if it is time; true if they changed. When that fails the old ones stay.
    pub fn refresh(&mut self, clock: &Clock) -> bool {
        if self.read.elapsed() < PERIOD {
            return false;
        }
        self.reread(clock)
    }

    fn reread(&mut self, clock: &Clock) -> bool {
        self.read = Instant::now();
        match host(&self.view, &self.proc, clock) {
            Ok(host) if host != self.current => {
                self.current = host;
                true
            }
            Ok(_) | Err(_) => false,
        }
    }
}

/// `machine-id`: identity of the installation, 16 bytes; `None` if there is none (images before their first boot).
#[must_use]
pub fn machine_id(root: &Path) -> Option<[u8; 16]> {
    let bytes = small(root, "etc/machine-id")?;
    crate::procfs::parse::uuid("machine-id", &bytes).ok()
}

fn host(view: &HostConfig, proc: &Proc, clock: &Clock) -> Result<v1::Host, HostError> {
    let root = view.root.as_path();
    let kernel = uname().map_err(HostError::Name)?;
    let text = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
    let node = match &view.name {
        Some(name) => name.clone(),
        None => text(kernel.nodename()),
    };
    let (name, domain) = match node.split_once('.') {
        Some((name, domain)) if !name.is_empty() && !domain.is_empty() => (name.to_owned(), true),
        Some(_) | None => (node.clone(), false),
    };
    let hosts = open_file(&root.join("etc/hosts"), "hosts")
        .and_then(|file| file.read(HOSTS_MAX_BYTES))
        .unwrap_or_default();
    let fqdn = if domain {
        Some(node)
    } else {
        full_name(&hosts, &name)
    };
    let (addresses, mac_addresses) = addresses();
    let release = small(root, "etc/os-release")
        .or_else(|| small(root, "usr/lib/os-release"))
        .unwrap_or_default();
    let of_release = |key| release_value(&release, key);
    Ok(v1::Host {
        name,
        fqdn,
        addresses,
        primary_address: primary_address().map(bytes),
        mac_addresses,
        os: Some(v1::OperatingSystem {
            r#type: text(kernel.sysname()).to_ascii_lowercase(),
            id: of_release("ID"),
            name: of_release("NAME"),
            version: of_release("VERSION_ID"),
            full_name: of_release("PRETTY_NAME"),
            kernel_release: text(kernel.release()),
            kernel_version: text(kernel.version()),
            architecture: text(kernel.machine()),
        }),
        boot_id: proc.boot_id().map_err(HostError::BootId)?.to_vec(),
        boot_time_ns: clock.offset_ns(),
        absent: Vec::new(),
    })
}

fn small(root: &Path, path: &str) -> Option<Vec<u8>> {
    let file = open_file(&root.join(path), "small file").ok()?;
    file.read(SMALL_MAX_BYTES).ok()
}

/// The name with domain that a line of `/etc/hosts` gives to this name.
fn full_name(hosts: &[u8], name: &str) -> Option<String> {
    for line in hosts.split(|&byte| byte == b'\n') {
        let line = line.split(|&byte| byte == b'#').next().unwrap_or_default();
        let Ok(line) = std::str::from_utf8(line) else {
            continue;
        };
        let mut words = line.split_ascii_whitespace();
        if words
            .next()
            .and_then(|word| word.parse::<IpAddr>().ok())
            .is_none()
        {
            continue;
        }
        let names: Vec<&str> = words.collect();
        let full = names.iter().find(|candidate| {
            candidate
                .strip_prefix(name)
                .is_some_and(|rest| rest.len() > 1 && rest.starts_with('.'))
        });
        // Either the line names this host among others, or its full name begins with it.
        if let Some(full) = full {
            return Some((*full).to_owned());
        }
        if names.contains(&name)
            && let Some(canonical) = names
                .first()
                .filter(|first| first.contains('.') && !first.starts_with("localhost"))
        {
            return Some((*canonical).to_owned());
        }
    }
    None
}

/// Value of a key of os-release(5): shell syntax, with or without quotes.
fn release_value(release: &[u8], key: &str) -> Option<String> {
    let line = release.split(|&byte| byte == b'\n').find_map(|line| {
        line.strip_prefix(key.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"="))
    })?;
    let line = line.trim_ascii();
    let quoted = |quote: u8| {
        line.strip_prefix(&[quote])
            .and_then(|rest| rest.strip_suffix(&[quote]))
    };
    let (inner, escapes) = match (quoted(b'"'), quoted(b'\'')) {
        (Some(inner), _) => (inner, true),
        (None, Some(inner)) => (inner, false),
        (None, None) => (line, true),
    };
    let mut value = Vec::with_capacity(inner.len());
    let mut rest = inner.iter();
    while let Some(&byte) = rest.next() {
        if byte == b'\\' && escapes {
            value.extend(rest.next());
        } else {
            value.push(byte);
        }
    }
    (!value.is_empty()).then(|| String::from_utf8_lossy(&value).into_owned())
}

/// Addresses and hardware addresses of the interfaces, sorted, loopback and link-local ones left out.
fn addresses() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut addresses, mut hardware) = (BTreeSet::new(), BTreeSet::new());
    // The C library asks the kernel over netlink; no name service is involved.
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let Some(address) = interface.address else {
            continue;
        };
        if let Some(link) = address.as_link_addr() {
            hardware.extend(link.addr().filter(|mac| *mac != [0; 6]).map(Vec::from));
        } else if let Some(v4) = address.as_sockaddr_in() {
            addresses.insert(IpAddr::V4(v4.ip()));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            addresses.insert(IpAddr::V6(v6.ip()));
        }
    }
    let addresses = addresses.into_iter().filter(told).take(ADDRESSES);
    (
        addresses.map(bytes).collect(),
        hardware.into_iter().take(ADDRESSES).collect(),
    )
}

/// Whether an address tells this host from others.
fn told(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    }
}

/// The address that the kernel would send from by its default route; connecting a datagram socket sends nothing.
fn primary_address() -> Option<IpAddr> {
    let from = |any: IpAddr, to: IpAddr| {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
        socket.connect(SocketAddr::new(to, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(told)
    };
    from(Ipv4Addr::UNSPECIFIED.into(), ELSEWHERE_V4)
        .or_else(|| from(Ipv6Addr::UNSPECIFIED.into(), ELSEWHERE_V6))
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        folder
    }

    #[test]
    fn this_host() {
        let clock = Clock::new().unwrap();
        let facts = HostFacts::new(HostConfig::default(), Proc::default(), &clock).unwrap();
        let host = facts.current();
        let node = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert!(node.trim().starts_with(&host.name));
        let os = host.os.as_ref().unwrap();
        assert_eq!(os.r#type, "linux");
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(os.kernel_release, release.trim());
        assert_eq!(os.architecture, std::env::consts::ARCH);
        assert_eq!(host.boot_id, Proc::default().boot_id().unwrap());
        let boot_seconds = i64::try_from(Proc::default().boot_time_seconds().unwrap()).unwrap();
        assert!((host.boot_time_ns / 1_000_000_000 - boot_seconds).abs() <= 1);
        assert!(
            host.addresses
                .iter()
                .all(|address| matches!(address.len(), 4 | 16))
        );
        if let Some(primary) = &host.primary_address {
            assert!(host.addresses.contains(primary));
        }
    }

    #[test]
    fn files_of_another_root() {
        let clock = Clock::new().unwrap();
        let folder = root(&[
            (
                "usr/lib/os-release",
                "NAME=\"Some \\\"Linux\\\"\"\nID=some\nVERSION_ID='1.2'\n#PRETTY_NAME=no\nEMPTY=\n",
            ),
            ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ]);
        let view = HostConfig {
            root: folder.path().to_path_buf(),
            name: Some("node-7.cluster.example".to_owned()),
        };
        let mut facts = HostFacts::new(view, Proc::default(), &clock).unwrap();
        assert_eq!(
            (
                facts.current().name.as_str(),
                facts.current().fqdn.as_deref()
            ),
            ("node-7", Some("node-7.cluster.example"))
        );
        let os = facts.current().os.clone().unwrap();
        assert_eq!(os.name.as_deref(), Some("Some \"Linux\""));
        assert_eq!(
            (os.id.as_deref(), os.version.as_deref()),
            (Some("some"), Some("1.2"))
        );
        assert_eq!(os.full_name, None);
        assert_eq!(machine_id(folder.path()).unwrap()[..3], [0x01, 0x23, 0x45]);
        // A file in /etc goes before the vendor's; read again only when it is time.
        std::fs::write(folder.path().join("etc/os-release"), "NAME=New\n").unwrap();
        std::fs::write(folder.path().join("etc/machine-id"), "uninitialized\n").unwrap();
        assert!(!facts.refresh(&clock));
        assert!(facts.reread(&clock));
        assert!(!facts.reread(&clock));
        assert_eq!(
            facts.current().os.as_ref().unwrap().name.as_deref(),
            Some("New")
        );
        assert_eq!(machine_id(folder.path()), None);
    }

    #[test]
    fn full_names() {
        let of = |hosts: &str| full_name(hosts.as_bytes(), "web1");
        assert_eq!(
            of("127.0.0.1 localhost\n10.0.0.1 web1.corp.example web1\n").as_deref(),
            Some("web1.corp.example")
        );
        assert_eq!(
            of("10.0.0.1 web1 web1.corp.example\n").as_deref(),
            Some("web1.corp.example")
        );
        assert_eq!(
            of("10.0.0.1\tfront.example\tweb1 # the front\n").as_deref(),
            Some("front.example")
        );
        assert_eq!(of("127.0.1.1 web1\n"), None);
        assert_eq!(of("127.0.0.1 localhost.localdomain web1\n"), None);
        assert_eq!(
            of("# 10.0.0.1 web1.corp.example\nweb1.x web1\n10.0.0.1 web10.example web1. \n"),
            None
        );
        assert_eq!(of("10.0.0.1 \u{fffd}\n"), None);
    }

    #[test]
    fn which_addresses_are_told() {
        for (address, is) in [
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("10.0.0.1", true),
            ("::1", false),
            ("fe80::1", false),
            ("fd00::1", true),
            ("::", false),
        ] {
            assert_eq!(told(&address.parse().unwrap()), is, "{address}");
        }
    }
}
