//! Addresses of a name: `/etc/hosts`, then the name servers of `/etc/resolv.conf`, asked by hickory. A static program must not
//! call getaddrinfo, which loads the host's NSS modules into it. Both files are read anew for every connection, since they change.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use hickory_resolver::Resolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;

use crate::procfs::{ProcError, open_file};

/// Lists of blocked names can be long.
const MAX_HOSTS_BYTES: usize = 4 << 20;
/// resolv.conf beyond this is not read.
const MAX_RESOLV_BYTES: usize = 64 << 10;
/// Time for one question to one server, and how often it is asked.
const QUESTION: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 2;

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// No name server is known.
    #[error("/etc/hosts does not have it, and /etc/resolv.conf cannot be read")]
    NoServers(#[source] ProcError),
    /// resolv.conf or the name makes no sense to the resolver, or the servers do not know it or do not answer.
    #[error("/etc/hosts does not have it, and the name servers do not tell it")]
    NotFound(#[source] Box<hickory_resolver::net::NetError>),
    /// An answer without an address.
    #[error("it has no address")]
    NoAddress,
}

/// Where names are looked up.
#[derive(Clone, Debug)]
pub struct Names {
    hosts: PathBuf,
    resolv_conf: PathBuf,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            hosts: "/etc/hosts".into(),
            resolv_conf: "/etc/resolv.conf".into(),
        }
    }
}

impl Names {
    /// All addresses of a name, in the order that they are told.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, NameError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        // A file that cannot be read has no names.
        let hosts = open_file(&self.hosts, "hosts").and_then(|file| file.read(MAX_HOSTS_BYTES));
        let listed = listed(&hosts.unwrap_or_default(), host);
        if !listed.is_empty() {
            return Ok(listed);
        }
        let text = open_file(&self.resolv_conf, "resolv.conf")
            .and_then(|file| file.read(MAX_RESOLV_BYTES))
            .map_err(NameError::NoServers)?;
        let not_found = |error| NameError::NotFound(Box::new(error));
        let (config, mut options) = parse_resolv_conf(text).map_err(not_found)?;
        options.use_hosts_file = ResolveHosts::Never;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.timeout = QUESTION;
        options.attempts = ATTEMPTS;
        let resolver = Resolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .map_err(not_found)?;
        let answer = resolver.lookup_ip(host).await.map_err(not_found)?;
        let addresses: Vec<IpAddr> = answer.iter().collect();
        if addresses.is_empty() {
            return Err(NameError::NoAddress);
        }
        Ok(addresses)
    }
}

/// Addresses that the lines of a hosts file give to a name.
fn listed(hosts: &[u8], name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut found = Vec::new();
    for line in hosts.split(|&byte| byte == b'\n') {
        let line = line.split(|&byte| byte == b'#').next().unwrap_or_default();
        let Ok(line) = std::str::from_utf8(line) else {
            continue;
        };
        let mut words = line.split_ascii_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse) else {
            continue;
        };
        if words.any(|known| known.eq_ignore_ascii_case(name)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(hosts: &str, resolv_conf: &str) -> (tempfile::TempDir, Names) {
        let folder = tempfile::tempdir().unwrap();
        let names = Names {
            hosts: folder.path().join("hosts"),
            resolv_conf: folder.path().join("resolv.conf"),
        };
        std::fs::write(&names.hosts, hosts).unwrap();
        std::fs::write(&names.resolv_conf, resolv_conf).unwrap();
        (folder, names)
    }

    #[tokio::test]
    async fn literals_and_hosts_need_no_server() {
        let (_folder, names) = names(
            "# 10.0.0.9 node\n10.0.0.1 other Node.example node # 10.0.0.2\nnonsense node\n\n::1 node\n10.0.0.1 node\n",
            "",
        );
        for (host, expected) in [
            ("192.0.2.7", vec!["192.0.2.7"]),
            ("::1", vec!["::1"]),
            ("node", vec!["10.0.0.1", "::1"]),
            ("NODE.EXAMPLE.", vec!["10.0.0.1"]),
        ] {
            let found: Vec<String> = names
                .addresses(host)
                .await
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(found, expected, "{host}");
        }
        let error = names.addresses("elsewhere").await.unwrap_err();
        assert!(matches!(error, NameError::NotFound(_)), "{error:?}");
    }

    #[tokio::test]
    async fn without_servers_it_says_so() {
        let (folder, names) = names("", "");
        std::fs::remove_file(folder.path().join("resolv.conf")).unwrap();
        let error = names.addresses("node").await.unwrap_err();
        assert!(matches!(error, NameError::NoServers(_)), "{error:?}");
    }

    /// A name server on loopback that knows one name and answers nothing else.
    async fn server() -> (u16, tokio::task::JoinHandle<()>) {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut question = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut question).await.unwrap();
                let question = &question[..length];
                // The question section ends behind the name's zero, type and class.
                let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
                let is_a = question[end - 3] == 1;
                let mut answer = question[..end].to_vec();
                answer[2..4].copy_from_slice(&[0x81, 0x80]);
                answer[6..12].copy_from_slice(&[0, u8::from(is_a), 0, 0, 0, 0]);
                if is_a {
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 53]);
                }
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        (port, task)
    }

    #[tokio::test]
    async fn a_name_server_is_asked() {
        let (port, task) = server().await;
        // The port cannot stand in resolv.conf, so the resolver is asked as `addresses` asks it.
        let (mut config, mut options) = parse_resolv_conf("nameserver 127.0.0.1\n").unwrap();
        let mut server = config.name_servers().first().unwrap().clone();
        for connection in &mut server.connections {
            connection.port = port;
        }
        config = hickory_resolver::config::ResolverConfig::from_name_servers(vec![server]);
        options.use_hosts_file = ResolveHosts::Never;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let resolver = Resolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .unwrap();
        let answer = resolver.lookup_ip("node.example.").await.unwrap();
        let found: Vec<IpAddr> = answer.iter().collect();
        assert_eq!(found, ["192.0.2.53".parse::<IpAddr>().unwrap()]);
        task.abort();
    }
}
