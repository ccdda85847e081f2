//! Reads a line of the sensor's own JSON output as far as filter rules look at it. What the line does not say is absent; what
//! it says wrongly is an error, so that a test of rules is never passed by a typo.

use serde_json::{Map, Value};

use sensor_proto::v1::event::Body;
use sensor_proto::v1::{
    Connect, Container, ContainerRuntime, Credentials, Direction, Endpoint, Event, EventType, Exec,
    Exit, FileCreate, FileInfo, Fork, Group, HashVerdict, Hashes, ModuleLoad, Namespaces, Process,
    Transport, User,
};

/// An event with its process and parent, read from JSON.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) event: Event,
    pub(super) process: Option<Process>,
    pub(super) parent: Option<Process>,
}

/// Why a line was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error("not JSON: {0}")]
    NotJson(serde_json::Error),
    #[error("{path} should be {wanted}")]
    Wrong { path: String, wanted: &'static str },
    #[error("events of type `{0}` are not filtered")]
    Type(String),
}

/// An object with the path that leads to it.
struct Node<'v> {
    path: String,
    fields: &'v Map<String, Value>,
}

impl<'v> Node<'v> {
    fn new(path: String, value: &'v Value) -> Result<Self, LineError> {
        match value.as_object() {
            Some(fields) => Ok(Self { path, fields }),
            None => Err(LineError::Wrong {
                path,
                wanted: "an object",
            }),
        }
    }

    fn path(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    fn wrong(&self, name: &str, wanted: &'static str) -> LineError {
        LineError::Wrong {
            path: self.path(name),
            wanted,
        }
    }

    fn field<T>(
        &self,
        name: &str,
        wanted: &'static str,
        read: impl FnOnce(&'v Value) -> Option<T>,
    ) -> Result<Option<T>, LineError> {
        self.fields
            .get(name)
            .map(|value| read(value).ok_or_else(|| self.wrong(name, wanted)))
            .transpose()
    }

    fn object<T>(
        &self,
        name: &str,
        read: impl FnOnce(&Node<'v>) -> Result<T, LineError>,
    ) -> Result<Option<T>, LineError> {
        let value = self.fields.get(name);
        value
            .map(|value| read(&Node::new(self.path(name), value)?))
            .transpose()
    }

    fn objects<T>(
        &self,
        name: &str,
        read: impl Fn(&Node<'v>) -> Result<T, LineError>,
    ) -> Result<Vec<T>, LineError> {
        let list = self
            .field(name, "a list", Value::as_array)?
            .map_or(&[][..], Vec::as_slice);
        let path = |at| format!("{}[{at}]", self.path(name));
        list.iter()
            .enumerate()
            .map(|(at, value)| read(&Node::new(path(at), value)?))
            .collect()
    }

    fn text(&self, name: &str) -> Result<Option<String>, LineError> {
        self.field(name, "a text", |value| value.as_str().map(str::to_owned))
    }

    fn number(&self, name: &str) -> Result<Option<u32>, LineError> {
        let read = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
        self.field(name, "a number of 32 bits", read)
    }

    fn flag(&self, name: &str) -> Result<bool, LineError> {
        Ok(self
            .field(name, "true or false", Value::as_bool)?
            .unwrap_or_default())
    }

    fn hex(&self, name: &str) -> Result<Option<Vec<u8>>, LineError> {
        self.field(name, "hexadecimal digits", |value| unhex(value.as_str()?))
    }

    /// Bytes that come from the kernel: exactly, where they are not text.
    fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>, LineError> {
        match self.hex(&format!("{name}_raw"))? {
            Some(raw) => Ok(Some(raw)),
            None => Ok(self.text(name)?.map(String::into_bytes)),
        }
    }

    fn list_of_bytes(&self, name: &str) -> Result<Vec<Vec<u8>>, LineError> {
        let raw = format!("{name}_raw");
        let exact = self.field(&raw, "a list of hexadecimal texts", |value| {
            value
                .as_array()?
                .iter()
                .map(|entry| unhex(entry.as_str()?))
                .collect()
        })?;
        let lossy = self.field(name, "a list of texts", |value| {
            let list = value.as_array()?.iter();
            list.map(|entry| entry.as_str().map(|text| text.as_bytes().to_vec()))
                .collect()
        })?;
        Ok(exact.or(lossy).unwrap_or_default())
    }

    fn word<T: Default + Into<i32>>(
        &self,
        name: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<i32, LineError> {
        let word = self.field(name, "a name of the schema", |value| read(value.as_str()?))?;
        Ok(word.unwrap_or_default().into())
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |digit: u8| u8::try_from(char::from(digit).to_digit(16)?).ok();
    let bytes = pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect();
    if rest.is_empty() { bytes } else { None }
}

impl Line {
    pub(super) fn parse(text: &str) -> Result<Self, LineError> {
        let value: Value = serde_json::from_str(text).map_err(LineError::NotJson)?;
        let root = Node::new(String::new(), &value)?;
        let event_type = root
            .text("type")?
            .ok_or_else(|| root.wrong("type", "a text"))?;
        let body = match EventType::from_short_name(&event_type) {
            Some(EventType::Exec) => Body::Exec(Exec::default()),
            Some(EventType::Exit) => Body::Exit(Exit::default()),
            Some(EventType::Fork) => Body::Fork(Fork::default()),
            Some(EventType::FileCreate) => Body::FileCreate(FileCreate {
                file: root
                    .object("file_create", |body| body.object("file", file))?
                    .flatten(),
                ..FileCreate::default()
            }),
            Some(EventType::Connect) => {
                Body::Connect(root.object("connect", connect)?.unwrap_or_default())
            }
            Some(EventType::ModuleLoad) => Body::ModuleLoad(
                root.object("module_load", |body| {
                    Ok(ModuleLoad {
                        name: body.bytes("name")?,
                        file: body.object("file", file)?,
                        ..ModuleLoad::default()
                    })
                })?
                .unwrap_or_default(),
            ),
            Some(EventType::Patch | EventType::Aggregate | EventType::Unspecified) | None => {
                return Err(LineError::Type(event_type));
            }
        };
        Ok(Self {
            event: Event {
                credentials: root.object("credentials", credentials)?,
                body: Some(body),
                ..Event::default()
            },
            process: root.object("process", process)?,
            parent: root
                .object("process", |actor| actor.object("parent", process))?
                .flatten(),
        })
    }
}

fn process(node: &Node<'_>) -> Result<Process, LineError> {
    let namespaces = node.object("namespaces", |inner| {
        Ok(Namespaces {
            mnt: inner.number("mnt")?,
            ..Namespaces::default()
        })
    })?;
    let container = node.object("container", |inner| {
        Ok(Container {
            id: inner.text("id")?.unwrap_or_default(),
            runtime: inner.word("runtime", ContainerRuntime::from_short_name)?,
            name: inner.text("name")?,
            image: inner.text("image")?,
            pod_namespace: inner.text("pod_namespace")?,
            ..Container::default()
        })
    })?;
    Ok(Process {
        image: node.object("image", file)?,
        script_chain: node.objects("script_chain", file)?,
        argv: node.list_of_bytes("argv")?,
        working_directory: node.bytes("working_directory")?,
        credentials: node.object("credentials", credentials)?,
        namespaces,
        cgroup_path: node.bytes("cgroup_path")?,
        container: container.map(Box::new),
        ..Process::default()
    })
}

fn file(node: &Node<'_>) -> Result<FileInfo, LineError> {
    let hashes = node.object("hashes", |inner| {
        Ok(Hashes {
            md5: inner.hex("md5")?,
            sha256: inner.hex("sha256")?,
            verdict: inner.word("verdict", HashVerdict::from_short_name)?,
            ..Hashes::default()
        })
    })?;
    Ok(FileInfo {
        path: node.bytes("path")?,
        hashes,
        ..FileInfo::default()
    })
}

fn credentials(node: &Node<'_>) -> Result<Credentials, LineError> {
    fn user(node: &Node<'_>) -> Result<User, LineError> {
        let id = node
            .number("id")?
            .ok_or_else(|| node.wrong("id", "a number of 32 bits"))?;
        Ok(User {
            id,
            name: node.text("name")?,
            ..User::default()
        })
    }
    let real_group = node.object("real_group", |inner| {
        let id = inner
            .number("id")?
            .ok_or_else(|| inner.wrong("id", "a number of 32 bits"))?;
        Ok(Group {
            id,
            name: inner.text("name")?,
        })
    })?;
    Ok(Credentials {
        real_user: node.object("real_user", user)?,
        effective_user: node.object("effective_user", user)?,
        login_user: node.object("login_user", user)?,
        real_group,
        ..Credentials::default()
    })
}

fn connect(node: &Node<'_>) -> Result<Connect, LineError> {
    Ok(Connect {
        transport: node.word("transport", Transport::from_short_name)?,
        protocol: node.number("protocol")?,
        direction: node.word("direction", Direction::from_short_name)?,
        local: node.object("local", endpoint)?,
        remote: node.object("remote", endpoint)?,
        ..Connect::default()
    })
}

fn endpoint(node: &Node<'_>) -> Result<Endpoint, LineError> {
    let address = node.field("address", "an IP address", |value| {
        Some(match value.as_str()?.parse().ok()? {
            std::net::IpAddr::V4(address) => address.octets().to_vec(),
            std::net::IpAddr::V6(address) => address.octets().to_vec(),
        })
    })?;
    Ok(Endpoint {
        address,
        port: node.number("port")?,
        unix_path: node.bytes("unix_path")?,
        unix_abstract: node.flag("unix_abstract")?,
        ..Endpoint::default()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sensor_proto::json::{Actor, Lineage, Origin, write_event_json};
    use sensor_proto::v1::{Agent, Host, ProcessRef};

    use super::*;

    fn sample() -> (Event, Process, Process) {
        let image = |path: &[u8], digest: u8| FileInfo {
            path: Some(path.to_vec()),
            hashes: Some(Hashes {
                md5: Some(vec![digest; 16]),
                sha256: Some(vec![digest; 32]),
                verdict: HashVerdict::Drifted.into(),
                ..Hashes::default()
            }),
            ..FileInfo::default()
        };
        let user = |id, name: &str| {
            Some(User {
                id,
                name: Some(name.to_owned()),
                ..User::default()
            })
        };
        let credentials = Credentials {
            real_user: user(7, "seven"),
            effective_user: user(8, "eight"),
            login_user: user(9, "nine"),
            real_group: Some(Group { id: 10, name: None }),
            ..Credentials::default()
        };
        let process = Process {
            image: Some(image(b"/bin/\xff\x1b", 1)),
            script_chain: vec![image(b"/script", 2)],
            argv: vec![b"a\xfe".to_vec(), "ä\u{202e}".into(), Vec::new()],
            working_directory: Some(b"/w\n".to_vec()),
            credentials: Some(credentials.clone()),
            namespaces: Some(Namespaces {
                mnt: Some(u32::MAX),
                ..Namespaces::default()
            }),
            cgroup_path: Some(b"/c".to_vec()),
            container: Some(Box::new(Container {
                id: "id".to_owned(),
                runtime: ContainerRuntime::Podman.into(),
                name: Some("web".to_owned()),
                image: Some("nginx:1".to_owned()),
                pod_namespace: Some("shop".to_owned()),
                ..Container::default()
            })),
            parent: Some(ProcessRef::default()),
            ..Process::default()
        };
        let parent = Process {
            image: Some(image(b"/parent", 3)),
            argv: vec![b"p".to_vec()],
            ..Process::default()
        };
        let event = Event {
            credentials: Some(credentials),
            process: Some(ProcessRef::default()),
            ..Event::default()
        };
        (event, process, parent)
    }

    /// What the sensor writes is read back, for every field that rules look at.
    #[test]
    fn reads_what_the_sensor_writes() {
        let (base, process, parent) = sample();
        let file = process.image.clone();
        let unix = Endpoint {
            unix_path: Some(b"\xff".to_vec()),
            unix_abstract: true,
            ..Endpoint::default()
        };
        let inet = Endpoint {
            address: Some(vec![0xfe; 16]),
            port: Some(65_535),
            ..Endpoint::default()
        };
        for body in [
            Body::Exec(Exec::default()),
            Body::Exit(Exit::default()),
            Body::Fork(Fork::default()),
            Body::FileCreate(FileCreate {
                file: file.clone(),
                ..FileCreate::default()
            }),
            Body::ModuleLoad(ModuleLoad {
                name: Some(b"m\x80".to_vec()),
                file,
                ..ModuleLoad::default()
            }),
            Body::Connect(Connect {
                transport: Transport::Sctp.into(),
                protocol: Some(132),
                direction: Direction::Inbound.into(),
                local: Some(inet),
                remote: Some(unix),
                ..Connect::default()
            }),
        ] {
            let event = Event {
                body: Some(body),
                ..base.clone()
            };
            let lineage = Lineage {
                process: &process,
                parent: Some(&parent),
                ancestors: &[],
                ancestors_truncated: false,
            };
            let origin = Origin::new(&Agent::default(), &Host::default());
            let mut line = Vec::new();
            write_event_json(&event, Actor::Row(lineage), &origin, &mut line);
            let text = String::from_utf8(line).unwrap();
            let read = Line::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert_eq!(
                read.event,
                Event {
                    process: None,
                    ..event
                },
                "{text}"
            );
            assert_eq!(
                read.process,
                Some(Process {
                    parent: None,
                    ..process.clone()
                }),
                "{text}"
            );
            assert_eq!(read.parent.as_ref(), Some(&parent), "{text}");
        }
    }

    #[test]
    fn wrong_lines_are_refused_with_the_place() {
        for (line, told) in [
            ("{", "not JSON: EOF"),
            ("[]", " should be an object"),
            ("{}", "type should be a text"),
            (
                r#"{"type":"patch"}"#,
                "events of type `patch` are not filtered",
            ),
            (
                r#"{"type":"exec","process":{"argv":[1]}}"#,
                "process.argv should be a list of texts",
            ),
            (
                r#"{"type":"exec","process":{"image":{"hashes":{"verdict":"sure"}}}}"#,
                "process.image.hashes.verdict should be a name",
            ),
            (
                r#"{"type":"connect","connect":{"remote":{"address":"::g"}}}"#,
                "connect.remote.address should be an IP",
            ),
            (
                r#"{"type":"exec","credentials":{"real_user":{}}}"#,
                "credentials.real_user.id should be a number",
            ),
        ] {
            let error = Line::parse(line).expect_err(line).to_string();
            assert!(error.starts_with(told), "{line}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}", json in "[{}\\[\\]a-z_:\",0-9]{0,60}") {
            drop(Line::parse(&text));
            drop(Line::parse(&json));
        }
    }
}
